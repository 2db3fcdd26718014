//! The processor's time stamp counter, for benches that count clocks. Production time comes from
//! [`crate::clock`]; nothing on the packet path reads the counter.

use super::Eal;
use super::sys;

/// The counter now. Not serialising: measure loops, not single instructions.
#[must_use]
pub fn read() -> u64 {
    // SAFETY: rdtsc has no operands and touches no memory; every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks of [`read`] per second, as measured when the EAL started.
#[must_use]
pub fn hz(_eal: &Eal) -> u64 {
    // SAFETY: reads a number that rte_eal_init set; the token proves that it ran.
    unsafe { sys::rte_get_tsc_hz() }
}
