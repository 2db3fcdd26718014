//! DPDK's return codes as a value: a positive errno that prints DPDK's own text for it. Born where a call
//! fails, carried as the cause inside the folder's error enums.

use std::ffi::CStr;
use std::fmt;

use super::sys;

/// A positive errno of DPDK or of the kernel below it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The code of the last failed call on this thread that reports through `rte_errno`.
    pub(super) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { sys::twinpath_errno() })
    }

    /// What a call means that returns 0 or more for success and `-errno` otherwise.
    pub(super) const fn check(code: i32) -> Result<i32, Self> {
        if code < 0 {
            Err(Self(code.saturating_neg()))
        } else {
            Ok(code)
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: any integer is a valid argument.
        let text = unsafe { sys::rte_strerror(self.0) };
        if text.is_null() {
            return write!(f, "error {}", self.0);
        }
        // SAFETY: rte_strerror returns a zero-terminated string in a buffer of this thread, which stays
        // untouched until the thread calls it again.
        let text = unsafe { CStr::from_ptr(text) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_codes_become_positive_errnos_with_text() {
        assert_eq!(Errno::check(3), Ok(3));
        assert_eq!(Errno::check(-libc::EBUSY), Err(Errno(libc::EBUSY)));
        assert!(
            Errno(libc::EBUSY).to_string().contains("busy"),
            "{}",
            Errno(libc::EBUSY)
        );
    }
}
