//! The edge to keepalived: its notify FIFO, its state on request, and the files it tracks. Nothing is decided here.
//!
//! Keepalived holds the FIFO open for both ends, so lines survive a restart of this process, old ones too: what is
//! found at the start is thrown away, and the present state is asked for. From then on the last line about a group
//! is its state, whether keepalived wrote it before or after the answer. That all writers are gone says, at once,
//! that keepalived is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dataplane::time::Instant;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::machine::{Said, Track};
use super::notify::{Lines, instances};

/// Read in one turn: more than a pipe holds.
const READS_PER_TURN: usize = 32;
/// Between two looks at the state file while it is being written.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// After this long it won't be written.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// A line lost to a full FIFO is found out after at most this long. Keepalived logs each question.
const AUDIT: Duration = Duration::from_secs(60);

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Keepalived is there.
    Appeared,
    /// It is being asked for its state.
    Asked,
    /// A sync group has changed.
    Group(String, Said),
    /// All instances there are, as of now.
    Instances(Vec<(String, Said)>),
    /// It is gone.
    Gone,
}

/// Where keepalived is to be found.
#[derive(Debug, Clone)]
pub struct Places {
    /// Notify FIFO.
    pub fifo: PathBuf,
    /// Its process id.
    pub pid_file: PathBuf,
    /// What it writes when it gets its JSON signal.
    pub state_file: PathBuf,
}

/// The connection to keepalived.
#[derive(Debug)]
pub struct Keepalived {
    places: Places,
    fifo: Option<File>,
    lines: Lines,
    present: bool,
    asked: Option<Asked>,
    ask_at: Instant,
    /// Of the signal that asks for the state; keepalived itself says which.
    signal: Option<String>,
    /// Told once per kind of trouble.
    complained: Option<String>,
}

/// A question without an answer yet.
#[derive(Debug)]
struct Asked {
    before: Option<Stamp>,
    look_at: Instant,
    until: Instant,
}

/// Tells one writing of a file from another, without trusting the clock.
type Stamp = (u64, i64, i64, u64);

impl Keepalived {
    /// Nothing is opened yet; the first [`Self::turn`] does.
    #[must_use]
    pub fn new(places: Places, now: Instant) -> Self {
        Self {
            places,
            fifo: None,
            lines: Lines::default(),
            present: false,
            asked: None,
            ask_at: now,
            signal: None,
            complained: None,
        }
    }

    /// Hears what there is to hear.
    pub fn turn(&mut self, now: Instant, mut on: impl FnMut(Heard)) {
        if self.fifo.is_none() {
            self.open(&mut on);
        }
        self.read(now, &mut on);
        self.look(now, &mut on);
        if self.present && self.asked.is_none() && now >= self.ask_at {
            self.ask_at = now + AUDIT;
            self.renew(&mut on);
            match self.ask(now) {
                Ok(asked) => {
                    self.asked = Some(asked);
                    on(Heard::Asked);
                }
                Err(error) => {
                    self.ask_at = now + ANSWER_WAIT;
                    self.complain(format!("keepalived can't be asked for its state: {error}"));
                }
            }
        }
    }

    /// Readable when keepalived has said something, or is gone.
    #[must_use]
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(AsFd::as_fd)
    }

    /// When [`Self::turn`] has something to do.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        let next = self.asked.as_ref().map_or(self.ask_at, |asked| asked.look_at);
        self.present.then_some(next)
    }

    fn open(&mut self, on: &mut impl FnMut(Heard)) {
        match open_fifo(&self.places.fifo) {
            Ok(mut fifo) => {
                // History.
                let mut bytes = [0; 4_096];
                while matches!(fifo.read(&mut bytes), Ok(1..)) {}
                self.lines.clear();
                self.fifo = Some(fifo);
                on(Heard::Gone);
            }
            Err(error) => self.complain(format!("{}: {error}", self.places.fifo.display())),
        }
    }

    fn read(&mut self, now: Instant, on: &mut impl FnMut(Heard)) {
        let mut bytes = [0; 4_096];
        for _ in 0..READS_PER_TURN {
            let Some(fifo) = &mut self.fifo else { return };
            match fifo.read(&mut bytes) {
                Ok(0) => return self.gone(on),
                Ok(n) => {
                    self.appear(now, on);
                    self.lines.take(&bytes[..n], |group, said| {
                        on(Heard::Group(group.to_owned(), said))
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.appear(now, on),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.complain(format!("the notify FIFO can't be read: {error}"));
                    return self.gone(on);
                }
            }
        }
    }

    /// Somebody holds the FIFO open for writing.
    fn appear(&mut self, now: Instant, on: &mut impl FnMut(Heard)) {
        if !self.present {
            self.present = true;
            self.ask_at = now;
            on(Heard::Appeared);
        }
    }

    /// A FIFO whose writers are gone stays readable for ever: it is opened anew, which also waits for the next one.
    fn gone(&mut self, on: &mut impl FnMut(Heard)) {
        if !self.present {
            return;
        }
        self.present = false;
        self.asked = None;
        self.lines.clear();
        self.fifo = open_fifo(&self.places.fifo).ok();
        on(Heard::Gone);
    }

    /// The FIFO may have been removed and made again under its name.
    fn renew(&mut self, on: &mut impl FnMut(Heard)) {
        let inode = |m: fs::Metadata| m.ino();
        let here = self.fifo.as_ref().and_then(|f| f.metadata().ok()).map(inode);
        if here != fs::metadata(&self.places.fifo).ok().map(inode) {
            self.gone(on);
        }
    }

    fn ask(&mut self, now: Instant) -> io::Result<Asked> {
        // The signal would end any other process.
        let pid = self.process()?;
        let signal = match &self.signal {
            Some(signal) => signal.clone(),
            None => json_signal()?,
        };
        let before = stamp(&self.places.state_file);
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .stdin(Stdio::null())
            .status()?;
        self.signal = Some(signal);
        if !sent.success() {
            return Err(io::Error::other("it can't be signalled"));
        }
        Ok(Asked {
            before,
            look_at: now + LOOK_AGAIN_AFTER,
            until: now + ANSWER_WAIT,
        })
    }

    /// The process of the pid file, when it lives and is keepalived.
    ///
    /// # Errors
    /// What it is instead.
    pub fn process(&self) -> io::Result<u32> {
        let pid: u32 = fs::read_to_string(&self.places.pid_file)?
            .trim()
            .parse()
            .map_err(|_| io::Error::other("its pid file holds no number"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (name, rest) = named(&stat).ok_or_else(|| io::Error::other("/proc is of another shape"))?;
        if !name.starts_with("keepalived") {
            return Err(io::Error::other(format!(
                "process {pid} of its pid file is {name}"
            )));
        }
        if rest.starts_with(['Z', 'X']) {
            return Err(io::Error::other(format!("process {pid} of its pid file is dead")));
        }
        Ok(pid)
    }

    fn look(&mut self, now: Instant, on: &mut impl FnMut(Heard)) {
        let Some(asked) = &mut self.asked else { return };
        if now < asked.look_at {
            return;
        }
        asked.look_at = now + LOOK_AGAIN_AFTER;
        let written = stamp(&self.places.state_file).filter(|stamp| Some(*stamp) != asked.before);
        let state = written
            .and_then(|_| fs::read_to_string(&self.places.state_file).ok())
            .and_then(|text| instances(&text));
        if let Some(state) = state {
            self.asked = None;
            self.complained = None;
            on(Heard::Instances(state));
        } else if now >= asked.until {
            self.asked = None;
            self.ask_at = now;
            self.complain(format!(
                "keepalived was asked for its state, and has written nothing to {}",
                self.places.state_file.display()
            ));
        }
    }

    fn complain(&mut self, trouble: String) {
        if self.complained.as_ref() != Some(&trouble) {
            tracing::warn!(trouble, "keepalived");
            self.complained = Some(trouble);
        }
    }
}

/// Opens the FIFO for reading, made when it isn't there.
fn open_fifo(path: &Path) -> io::Result<File> {
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let fifo = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    if fifo.metadata()?.file_type().is_fifo() {
        Ok(fifo)
    } else {
        Err(io::Error::other("is no FIFO; remove it"))
    }
}

/// Name of a process, and what follows from its state on (proc(5), `stat`).
fn named(stat: &str) -> Option<(&str, &str)> {
    let (_, rest) = stat.split_once('(')?;
    rest.rsplit_once(") ")
}

/// The number of the signal upon which keepalived writes its state as JSON.
fn json_signal() -> io::Result<String> {
    let asked = |program| Command::new(program).arg("--signum=JSON").output();
    let output = asked("keepalived").or_else(|_| asked("/usr/sbin/keepalived"))?;
    let number = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && number.parse::<u8>().is_ok() {
        Ok(number)
    } else {
        Err(io::Error::other("it was built without JSON support"))
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = fs::metadata(path).ok()?;
    Some((m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
}

/// Tells keepalived about a group. Whole at any moment: keepalived reads it when it is moved into its place.
///
/// # Errors
/// When the file can't be written.
pub fn write_track(path: &Path, track: Track) -> io::Result<()> {
    let wanted = format!("{}\n", track as u8);
    if fs::read_to_string(path).is_ok_and(|is| is == wanted) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, wanted)?;
    fs::rename(new, path)
}

#[cfg(test)]
#[path = "keepalived_tests.rs"]
mod tests;
