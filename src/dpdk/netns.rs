//! A step into another network namespace and back, for the calls of a driver that open sockets there. Taken
//! on the main lcore while a port is brought up; the port's own sockets stay where they were opened.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Where `ip netns` keeps named namespaces.
const FOLDER: &str = "/run/netns";

/// Runs `act` with the calling thread in the namespace `name`; in its own without a name.
///
/// # Errors
/// When the namespace does not exist or can't be entered (then `act` does not run), or can't be left again.
pub(super) fn within<T>(name: Option<&str>, act: impl FnOnce() -> T) -> io::Result<T> {
    let Some(name) = name else { return Ok(act()) };
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let own = File::open("/proc/thread-self/ns/net")?;
    let there = File::open(Path::new(FOLDER).join(name))?;
    enter(&there)?;
    let result = act();
    enter(&own)?;
    Ok(result)
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: a descriptor that is open during the call; only the calling thread's namespace changes.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_nothing_is_entered() {
        assert_eq!(within(None, || 7).unwrap(), 7);
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_refused_before_anything_runs() {
        for name in ["twinpath-no-such-namespace", "", "..", "a/b"] {
            assert!(within(Some(name), || unreachable!()).is_err(), "{name}");
        }
    }
}
