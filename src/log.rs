//! Log lines of both daemons: to standard error, for journald or a terminal. `RUST_LOG` overrides the level.
//!
//! Whoever reads them may have a full disk, or stand still. Then a line is lost and counted, at once: no daemon ends or
//! waits for its log. Where lines are missing, the next one that gets through says how many.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::EnvFilter;

/// Changes the level, once logging has been started.
type SetLevel = Box<dyn Fn(EnvFilter) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Starts logging lines of `level` (error, warn, info, debug or trace) and worse.
pub fn to_stderr(level: &str) {
    let overridden = EnvFilter::try_from_default_env();
    let changeable = overridden.is_err();
    let filter = overridden.unwrap_or_else(|_| EnvFilter::new(level));
    let stderr = || Lines {
        to: io::stderr(),
        missing: &MISSING,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    if changeable {
        // Refused only after the end of the subscriber, which lives as long as the process.
        let set = move |filter| drop(handle.reload(filter));
        let _set_once = SET_LEVEL.set(Box::new(set));
    }
}

/// Changes the level of lines that are written, unless `RUST_LOG` has overridden it.
pub fn set_level(level: &str) {
    if let Some(set) = SET_LEVEL.get() {
        set(EnvFilter::new(level));
    }
}

/// Lines of this process that were lost so far.
#[must_use]
pub fn lost() -> u64 {
    MISSING.all.load(Ordering::Relaxed)
}

static MISSING: Missing = Missing::new();

/// Lines that were lost: all, and those that no later line has told of.
#[derive(Debug)]
struct Missing {
    all: AtomicU64,
    untold: AtomicU64,
}

impl Missing {
    const fn new() -> Self {
        Self {
            all: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }
}

/// Takes every line: to a file, or away.
#[derive(Debug)]
struct Lines<'a, W> {
    to: W,
    missing: &'a Missing,
}

impl<W: Write + AsFd> Write for Lines<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let untold = self.missing.untold.swap(0, Ordering::Relaxed);
        if self.pass_on(untold, line).is_err() {
            self.missing.all.fetch_add(1, Ordering::Relaxed);
            self.missing.untold.fetch_add(untold + 1, Ordering::Relaxed);
        }
        // An error would be reported on the same standard error, by a macro that panics when that fails.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + AsFd> Lines<'_, W> {
    fn pass_on(&mut self, untold: u64, line: &[u8]) -> io::Result<()> {
        // A pipe or socket with room takes a page without waiting (pipe(7)), and hardly a line is longer.
        let mut ends = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        poll(&mut ends, PollTimeout::ZERO)?;
        let ready = ends[0].revents().unwrap_or(PollFlags::empty());
        if !ready.contains(PollFlags::POLLOUT) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if untold > 0 {
            writeln!(self.to, "{untold} log lines are missing here")?;
        }
        self.to.write_all(line)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_disk_takes_lines_away_and_ends_nothing() {
        let missing = Missing::new();
        let mut lines = Lines {
            to: File::options().write(true).open("/dev/full").unwrap(),
            missing: &missing,
        };
        for _ in 0..3 {
            lines.write_all(b"a line\n").unwrap();
        }
        assert_eq!(missing.all.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_reader_that_stands_still_is_not_waited_for_and_told_what_is_missing() {
        let (mut reader, to) = io::pipe().unwrap();
        let missing = Missing::new();
        let mut lines = Lines {
            to,
            missing: &missing,
        };
        let lost = || missing.all.load(Ordering::Relaxed);
        while lost() < 5 {
            lines.write_all(&[b'x'; 1_024]).unwrap();
        }
        let mut drained = vec![0; 1 << 20];
        assert!(reader.read(&mut drained).unwrap() >= 1_024);
        lines.write_all(b"again\n").unwrap();
        assert_eq!(lost(), 5);
        drop(lines);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(
            rest.ends_with("5 log lines are missing here\nagain\n"),
            "{rest:?}"
        );
    }
}
