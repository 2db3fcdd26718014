use super::*;
use crate::config;

const TEXT: &str = r#"
[node]
name = "n1"
id = 1
[[port]]
name = "lan0"
device = "net_null0"
kernel_interface = "lan0"
[[port]]
name = "wan0"
device = "net_null1"
kernel_interface = "wan0"
[[vrf]]
name = "main"
[vrf.ha_fp_conntrack]
listen_ha_group = "g"
[[ha_group]]
name = "g"
vrrp = { vrid = 51, priority = 150, advert_interval_ms = 20, virtual_mac = true }
virtual_addresses = [
    { interface = "lan0", address = "100.64.0.1" },
    { interface = "lan0", address = "fd00:64::1" },
    { interface = "wan0", address = "192.0.2.1" },
    { interface = "wan0", address = "192.0.2.9" },
]
[keepalived]
realtime_priority = 50
"#;

fn checked() -> Config {
    config::load("f", TEXT, &[]).unwrap()
}

const MEMBERS: [&str; 3] = ["twinpath-g.lan0.4", "twinpath-g.lan0.6", "twinpath-g.wan0.4"];

/// A driver in a run directory of its own, whose data process never answers.
struct Play {
    dir: PathBuf,
    vrrp: Vrrp,
    data: DataLink,
    now: Instant,
}

impl Play {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("twinpath-driver-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let now = Instant::from_secs(100);
        Self {
            vrrp: Vrrp::new(&checked(), &dir, now),
            data: DataLink::new(
                dir.join("nobody.sock"),
                dir.join("nobody.alive"),
                "n1".into(),
                now,
            ),
            dir,
            now,
        }
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(ms);
        self.vrrp.turn(self.now, &mut self.data);
        self
    }

    fn track(&self) -> Option<String> {
        let text = std::fs::read_to_string(track_file(&self.dir, "g")).ok()?;
        Some(text.trim().to_owned())
    }

    fn hear(&mut self, heard: Heard) -> Said {
        hear(&mut self.vrrp.groups, heard, self.now);
        self.vrrp.groups[0].said
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn line(said: Said) -> Heard {
    Heard::Group("twinpath-g".into(), said)
}

fn answer(said: Said) -> Heard {
    Heard::Instances(MEMBERS.iter().map(|m| ((*m).to_owned(), said)).collect())
}

#[test]
fn the_last_word_counts_whether_it_was_a_line_or_an_answer() {
    use Said::{Absent, Asked, Backup, Fault, Leaving, Master};
    for (what, heard, wanted) in [
        (
            "said twice",
            vec![Heard::Appeared, line(Master), line(Master)],
            Master,
        ),
        (
            "flapping",
            vec![Heard::Appeared, line(Master), line(Backup), line(Master)],
            Master,
        ),
        (
            "an answer without lines",
            vec![Heard::Appeared, Heard::Asked, answer(Backup)],
            Backup,
        ),
        (
            "a line after the question is as new as the answer",
            vec![Heard::Appeared, Heard::Asked, line(Fault), answer(Master)],
            Fault,
        ),
        (
            "a line before the question is older",
            vec![Heard::Appeared, line(Backup), Heard::Asked, answer(Master)],
            Master,
        ),
        (
            "a line lost to a full FIFO, found by the audit",
            vec![
                Heard::Appeared,
                Heard::Asked,
                line(Backup),
                answer(Backup),
                Heard::Asked,
                answer(Master),
            ],
            Master,
        ),
        ("nothing yet", vec![Heard::Appeared, Heard::Asked], Asked),
        (
            "dead as master",
            vec![Heard::Appeared, line(Master), Heard::Gone],
            Leaving,
        ),
        (
            "restarted",
            vec![
                Heard::Appeared,
                line(Master),
                Heard::Gone,
                Heard::Appeared,
                line(Backup),
            ],
            Backup,
        ),
        (
            "another group",
            vec![Heard::Appeared, Heard::Group("twinpath-h".into(), Master)],
            Asked,
        ),
        (
            "without our fragment",
            vec![
                Heard::Appeared,
                Heard::Asked,
                Heard::Instances(vec![("VI_1".into(), Master)]),
            ],
            Absent,
        ),
    ] {
        let mut play = Play::new("words");
        let said = heard.into_iter().map(|h| play.hear(h)).last();
        assert_eq!(said, Some(wanted), "{what}");
    }
}

#[test]
fn a_dead_keepalived_leaves_the_role_when_the_peer_has_noticed_and_not_before() {
    let mut play = Play::new("leaving");
    play.later(0).hear(Heard::Appeared);
    play.hear(line(Said::Master));
    play.hear(Heard::Gone);
    assert_eq!(play.vrrp.next_turn(), Some(play.now + Duration::from_millis(80)));
    play.later(79);
    assert_eq!(play.vrrp.groups[0].said, Said::Leaving, "four intervals of 20 ms");
    play.later(1);
    assert_eq!(play.vrrp.groups[0].said, Said::Absent);
    let report = play.vrrp.report("g").unwrap();
    assert_eq!(report.says, "absent");
}

#[test]
fn a_stale_track_file_is_replaced_before_keepalived_can_be_told_that_all_is_well() {
    let mut play = Play::new("stale");
    std::fs::write(track_file(&play.dir, "g"), "0\n").unwrap();
    assert!(
        play.vrrp.check(play.now).is_err(),
        "no data process, nothing written"
    );
    play.later(0);
    assert_eq!(
        play.track().unwrap(),
        "253",
        "keepalived is absent: whatever is there is of an earlier life"
    );
}

#[test]
fn a_data_process_never_met_is_down_after_the_grace_and_named() {
    let mut play = Play::new("unmet");
    play.later(2_999);
    assert_eq!(play.track().unwrap(), "253");
    play.later(1);
    assert_eq!(play.track().unwrap(), "254");
    let blocked = play.vrrp.report("g").unwrap().blocked.unwrap();
    assert_eq!(blocked, Cause::DataDown.text());
}

#[test]
fn a_masters_track_file_survives_the_restart_of_this_process() {
    let mut play = Play::new("restart");
    std::fs::write(track_file(&play.dir, "g"), "0\n").unwrap();
    // Keepalived is there before we are.
    nix::unistd::mkfifo(&fifo(&play.dir), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _keepalived = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(fifo(&play.dir))
        .unwrap();
    play.later(0);
    assert_eq!(play.vrrp.groups[0].said, Said::Asked);
    assert_eq!(play.track().unwrap(), "0", "it may be master");
    play.hear(answer(Said::Master));
    play.later(1);
    assert_eq!(play.track().unwrap(), "0");
    play.hear(line(Said::Fault));
    play.later(1);
    assert_eq!(play.track().unwrap(), "253");
}

#[test]
fn a_standby_stays_electable_while_a_dying_masters_last_advert_may_count() {
    let mut play = Play::new("farewell");
    let group = &mut play.vrrp.groups[0];
    let at = |ms: u64| Instant::from_secs(100) + Duration::from_millis(ms);
    // Adverts come every 20 ms: 120 ms in all.
    (group.said, group.written) = (Said::Backup, Some(Track::Clear));
    assert_eq!(group.patient(Data::Unready, at(0)), Data::Ready);
    assert_eq!(group.patient(Data::Unready, at(119)), Data::Ready);
    assert_eq!(group.patient_until(), Some(at(120)));
    assert_eq!(group.patient(Data::Unready, at(120)), Data::Unready);
    // Each time anew, and for nobody else.
    assert_eq!(group.patient(Data::Ready, at(121)), Data::Ready);
    assert_eq!(group.patient(Data::Unready, at(122)), Data::Ready);
    assert_eq!(group.patient(Data::Down, at(123)), Data::Down);
    group.written = Some(Track::Lowest);
    assert_eq!(
        group.patient(Data::Unready, at(124)),
        Data::Unready,
        "it wasn't ready"
    );
    (group.said, group.written) = (Said::Master, Some(Track::Clear));
    assert_eq!(group.patient(Data::Unready, at(125)), Data::Unready);
    assert_eq!(group.patient_until(), None, "no turn for nothing");
}

#[test]
fn a_hold_outlives_this_process_and_is_for_vrrp_groups_only() {
    let mut play = Play::new("hold");
    assert!(play.vrrp.hold("other", true).is_err());
    play.vrrp.hold("g", true).unwrap();
    assert!(play.vrrp.report("g").unwrap().held);
    let mut again = Vrrp::new(&checked(), &play.dir, play.now);
    assert!(again.report("g").unwrap().held);
    again.hold("g", false).unwrap();
    again.hold("g", false).unwrap();
    assert!(
        !Vrrp::new(&checked(), &play.dir, play.now)
            .report("g")
            .unwrap()
            .held
    );
}

#[test]
fn the_fragment_of_a_group() {
    let text = fragment::render(
        &checked(),
        Some("g"),
        Path::new("/run/twinpath/n1"),
        "/usr/sbin/twinpathctl",
    );
    let wanted = r#"# VRRP for the HA groups of n1, written by twinpathctl keepalived-config. Include it from keepalived.conf:
#     include /etc/keepalived/twinpath-n1.conf
global_defs {
    vrrp_version 3
    vrrp_notify_fifo /run/twinpath/n1/vrrp.fifo
    vrrp_rt_priority 50
    vrrp_rlimit_rttime 500000
    vrrp_no_swap
}

# Fails when the control process is gone, or has had no data process, for restart_grace_s.
vrrp_script twinpath {
    script "/usr/sbin/twinpathctl --node n1 keepalived-check"
    interval 1
    timeout 3
    fall 3
    rise 1
    user root
    init_fail
}

# 0: ready. 253: lowest priority. 254: fault.
track_file twinpath-g {
    file "/run/twinpath/n1/g.track"
    weight -1
}

vrrp_sync_group twinpath-g {
    group {
        twinpath-g.lan0.4
        twinpath-g.lan0.6
        twinpath-g.wan0.4
    }
    track_file {
        twinpath-g weight -1
    }
    track_script {
        twinpath
    }
}

vrrp_instance twinpath-g.lan0.4 {
    state BACKUP
    interface lan0
    virtual_router_id 51
    priority 150
    advert_int 0.02
    nopreempt
    use_vmac tp0v4.51
    virtual_ipaddress {
        100.64.0.1/32
    }
}

vrrp_instance twinpath-g.lan0.6 {
    state BACKUP
    interface lan0
    virtual_router_id 51
    priority 150
    advert_int 0.02
    nopreempt
    use_vmac tp0v6.51
    virtual_ipaddress {
        fe80::200:5eff:fe00:233/64
        fd00:64::1/128 preferred_lft forever
    }
}

vrrp_instance twinpath-g.wan0.4 {
    state BACKUP
    interface wan0
    virtual_router_id 51
    priority 150
    advert_int 0.02
    nopreempt
    use_vmac tp1v4.51
    virtual_ipaddress {
        192.0.2.1/32
        192.0.2.9/32
    }
}
"#;
    assert_eq!(text, wanted);
    let none = fragment::render(&checked(), Some("h"), Path::new("/r"), "ctl");
    assert!(!none.contains("vrrp_instance"));
}

/// Keepalived itself has no objection, where it is installed.
#[test]
fn keepalived_understands_the_fragment() {
    let play = Play::new("syntax");
    let file = play.dir.join("fragment.conf");
    let text = fragment::render(&checked(), None, &play.dir, "/bin/true");
    std::fs::write(track_file(&play.dir, "g"), "0\n").unwrap();
    // Interfaces that aren't here are no matter of language.
    let text = text
        .replace("interface lan0", "interface lo")
        .replace("interface wan0", "interface lo");
    std::fs::write(&file, text).unwrap();
    let checked = std::process::Command::new("keepalived")
        .arg("--config-test")
        .arg(format!("--use-file={}", file.display()))
        .output();
    let Ok(checked) = checked else { return };
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    for complaint in ["Unknown keyword", "invalid", "Missing"] {
        assert!(!said.contains(complaint), "{said}");
    }
}
