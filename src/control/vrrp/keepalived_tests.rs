//! The edge against a played keepalived: a real FIFO, a real process that answers the signal.

use std::io::Write;
use std::process::Child;

use super::*;

/// What the edge opens, in a folder of its own.
struct Play {
    dir: PathBuf,
    edge: Keepalived,
    now: Instant,
    keepalived: Option<Child>,
}

impl Play {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("twinpath-vrrp-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let now = Instant::from_secs(100);
        let places = Places {
            fifo: dir.join("fifo"),
            pid_file: dir.join("pid"),
            state_file: dir.join("state"),
        };
        let mut edge = Keepalived::new(places, now);
        edge.signal = Some("USR1".to_owned());
        Self {
            dir,
            edge,
            now,
            keepalived: None,
        }
    }

    /// What is heard in one turn.
    fn turn(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        self.edge.turn(self.now, |h| heard.push(h));
        heard
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(ms);
        self
    }

    /// Opens the FIFO as keepalived does.
    fn writer(&self) -> File {
        let path = self.dir.join("fifo");
        if !path.exists() {
            mkfifo(&path, Mode::S_IRWXU).unwrap();
        }
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// Starts a process called keepalived that writes `state` upon the signal.
    fn answers(&mut self, state: &str) {
        let program = self.dir.join("keepalived");
        let (out, ready) = (self.dir.join("state"), self.dir.join("ready"));
        let script = format!(
            "#!/bin/bash\ntrap 'echo '\\''{state}'\\'' > {out}.new; mv {out}.new {out}' USR1\n\
             echo > {ready}\nwhile :; do read -rt 0.02 <> <(:); done\n",
            out = out.display(),
            ready = ready.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let child = Command::new(&program).stderr(Stdio::null()).spawn().unwrap();
        while !ready.exists() {
            std::thread::yield_now();
        }
        fs::write(self.dir.join("pid"), format!("{}\n", child.id())).unwrap();
        self.keepalived = Some(child);
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if let Some(mut child) = self.keepalived.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn group(said: Said) -> Heard {
    Heard::Group("twinpath-g".to_owned(), said)
}

#[test]
fn keepalived_absent_is_heard_once_and_its_coming_and_going_at_once() {
    let mut play = Play::new("presence");
    assert_eq!(play.turn(), [Heard::Gone], "the FIFO is made, nobody writes");
    assert_eq!(play.turn(), []);
    for _ in 0..3 {
        let mut keepalived = play.writer();
        keepalived.write_all(b"GROUP \"twinpath-g\" BACKUP 0\n").unwrap();
        assert_eq!(play.turn(), [Heard::Appeared, group(Said::Backup)]);
        drop(keepalived);
        assert_eq!(play.turn(), [Heard::Gone]);
        assert_eq!(play.turn(), []);
    }
}

#[test]
fn history_is_thrown_away_and_what_comes_later_is_heard_in_order_and_twice_when_said_twice() {
    let mut play = Play::new("history");
    let mut keepalived = play.writer();
    keepalived
        .write_all(b"GROUP \"twinpath-g\" MASTER 0\nGROUP \"twin")
        .unwrap();
    assert_eq!(play.turn(), [Heard::Gone, Heard::Appeared], "no MASTER");
    keepalived
        .write_all(
            b"GROUP \"twinpath-g\" FAULT 0\nGROUP \"twinpath-g\" BACKUP 0\nGROUP \"twinpath-g\" BACKUP 0\n",
        )
        .unwrap();
    assert_eq!(
        play.turn(),
        [group(Said::Fault), group(Said::Backup), group(Said::Backup)]
    );
}

#[test]
fn a_full_fifo_loses_lines_and_the_answer_has_the_truth() {
    let mut play = Play::new("full");
    play.turn();
    play.answers(r#"[{"data":{"iname":"twinpath-g.lan0.4","state":2}}]"#);
    let _writer = play.writer();
    let mut flood = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(play.dir.join("fifo"))
        .unwrap();
    let line = b"GROUP \"twinpath-g\" BACKUP 0\n";
    while flood.write(line).is_ok() {}
    assert!(flood.write(b"GROUP \"twinpath-g\" MASTER 0\n").is_err(), "lost");
    let heard = play.turn();
    assert_eq!(heard.first(), Some(&Heard::Appeared));
    assert_eq!(heard.last(), Some(&Heard::Asked));
    assert!(
        heard.len() > 1_000
            && heard[1..heard.len() - 1]
                .iter()
                .all(|h| *h == group(Said::Backup))
    );
    let wanted = [Heard::Instances(vec![(
        "twinpath-g.lan0.4".to_owned(),
        Said::Master,
    )])];
    for _ in 0..2 {
        // Asked at the start, and again by the audit: the second answer differs from the first by its file alone.
        while stamp(&play.edge.places.state_file) == play.edge.asked.as_ref().and_then(|a| a.before) {
            std::thread::yield_now();
        }
        assert_eq!(play.later(10).turn(), wanted);
        assert_eq!(play.turn(), []);
        assert_eq!(play.later(60_000).turn(), [Heard::Asked]);
    }
}

#[test]
fn an_answer_that_never_comes_is_asked_for_again() {
    let mut play = Play::new("silent");
    play.answers("half of an answer");
    let _writer = play.writer();
    assert_eq!(play.turn(), [Heard::Gone, Heard::Appeared, Heard::Asked]);
    assert_eq!(play.later(500).turn(), [], "not whole");
    assert_eq!(play.later(600).turn(), [Heard::Asked], "after a second");
}

#[test]
fn a_process_that_is_not_keepalived_is_never_signalled() {
    let mut play = Play::new("reused");
    let mut stranger = Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(play.dir.join("pid"), stranger.id().to_string()).unwrap();
    let _writer = play.writer();
    assert_eq!(play.turn(), [Heard::Gone, Heard::Appeared], "nobody was asked");
    assert!(
        play.edge
            .complained
            .as_ref()
            .is_some_and(|c| c.contains("is sleep"))
    );
    assert!(stranger.try_wait().unwrap().is_none(), "it lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_name_of_a_process_may_hold_anything_and_its_state_follows() {
    for (stat, name, state) in [
        ("1 (keepalived) S 0 1", "keepalived", 'S'),
        ("2 (a) b) Z 0", "a) b", 'Z'),
        ("3 ((x y)) R 1", "(x y)", 'R'),
    ] {
        let (is, rest) = named(stat).unwrap();
        assert_eq!((is, rest.chars().next()), (name, Some(state)));
    }
    assert_eq!(named("4 none"), None);
}

#[test]
fn a_fifo_made_anew_under_its_name_is_found() {
    let mut play = Play::new("renewed");
    let old = play.writer();
    play.turn();
    fs::remove_file(play.dir.join("fifo")).unwrap();
    let mut new = play.writer();
    new.write_all(b"GROUP \"twinpath-g\" MASTER 0\n").unwrap();
    assert_eq!(play.later(60_000).turn(), [Heard::Gone]);
    assert_eq!(play.turn(), [Heard::Appeared, group(Said::Master)]);
    drop(old);
}

#[test]
fn a_file_in_the_place_of_the_fifo_is_named_and_left_alone() {
    let mut play = Play::new("nofifo");
    fs::write(play.dir.join("fifo"), "precious").unwrap();
    assert_eq!(play.turn(), []);
    assert!(
        play.edge
            .complained
            .as_ref()
            .is_some_and(|c| c.contains("is no FIFO"))
    );
    fs::remove_file(play.dir.join("fifo")).unwrap();
    assert_eq!(play.turn(), [Heard::Gone], "it cleared itself");
}

#[test]
fn a_track_file_changes_as_a_whole_and_is_left_alone_when_it_is_right() {
    let play = Play::new("track");
    let path = play.dir.join("g.track");
    for track in [Track::Fault, Track::Lowest, Track::Clear] {
        write_track(&path, track).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", track as u8));
    }
    let before = stamp(&path);
    write_track(&path, Track::Clear).unwrap();
    assert_eq!(stamp(&path), before);
    assert!(write_track(&play.dir.join("nowhere/g.track"), Track::Clear).is_err());
}
