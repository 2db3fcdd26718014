//! What drivers say about devices that have fallen: taken out, or in need of a reset, as the virtual function of a card is when
//! its physical one was reset. DPDK calls from a thread of its own; here it only leaves a mark, which the agent finds.
//!
//! Only cards say so. Of a kernel interface the kernel is asked (`src/data/devices.rs`).

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dpdk::sys;

/// A bit for each of DPDK's numbers of ports.
static FALLEN: AtomicU64 = AtomicU64::new(0);

/// Has DPDK tell of every port, once per process.
pub(super) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        for event in [
            sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RESET,
            sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RMV,
        ] {
            // SAFETY: the callback is a function of this process and needs no argument.
            let code = unsafe {
                sys::rte_eth_dev_callback_register(
                    sys::TWINPATH_ETH_ALL,
                    event,
                    Some(mark),
                    core::ptr::null_mut(),
                )
            };
            if code != 0 {
                tracing::warn!(event, code, "a card that falls won't be noticed");
            }
        }
    });
}

/// Whether a port has fallen since this was asked last.
pub(super) fn take(id: u16) -> bool {
    FALLEN.fetch_and(!bit(id), Ordering::Relaxed) & bit(id) != 0
}

fn bit(id: u16) -> u64 {
    1_u64.checked_shl(u32::from(id)).unwrap_or(0)
}

unsafe extern "C" fn mark(id: u16, _event: sys::rte_eth_event_type, _: *mut c_void, _: *mut c_void) -> c_int {
    FALLEN.fetch_or(bit(id), Ordering::Relaxed);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_port_and_found_once() {
        let none = core::ptr::null_mut();
        // SAFETY: it looks at the number alone.
        unsafe { mark(63, sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RMV, none, none) };
        assert!(!take(62));
        assert!(take(63));
        assert!(!take(63));
        assert!(!take(64), "DPDK has no such port");
    }
}
