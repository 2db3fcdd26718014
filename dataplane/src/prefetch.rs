//! Asking for a cache line before it is needed: beside [`crate::lanes`] the one place outside the DPDK folder that is not safe Rust.
//!
//! A burst touches hundreds of lines in random order; asked for one stage ahead, their waits overlap. A prefetch
//! is a hint: it can't fault, changes no memory, and on processors without the instruction it is nothing.

/// Asks for the cache line on which `line` starts.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the intrinsic takes a raw pointer; there is no safe form of it"
)]
pub(crate) fn prefetch<T>(line: &T) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of every x86_64; the address comes from a live reference, and the instruction
    // neither faults nor reads in a way the program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(line).cast()) }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the first `lines` lines of `value`, which begins with one: for what is ordered by who needs it.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the intrinsic takes a raw pointer; there is no safe form of it"
)]
pub(crate) fn prefetch_lines<T>(value: &T, lines: usize) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const { assert!(align_of::<T>() >= LINE, "its first line is no whole one") };
    let first: *const i8 = core::ptr::from_ref(value).cast();
    for line in 0..size_of::<T>().div_ceil(LINE) {
        if line < lines {
            // SAFETY: SSE is part of every x86_64; the address lies within a live value, and the instruction
            // neither faults nor reads in a way the program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line * LINE)) }
        }
    }
}

/// Asks for every line of `value`: for what a packet reads all over.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the intrinsic takes a raw pointer; there is no safe form of it"
)]
pub(crate) fn prefetch_all<T>(value: &T) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let first: *const i8 = core::ptr::from_ref(value).cast();
    let mut offset = 0;
    while offset < size_of::<T>() {
        // SAFETY: SSE is part of every x86_64; the address lies within a live value, and the instruction
        // neither faults nor reads in a way the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset)) }
        offset += LINE;
    }
    // The value need not begin with a line: its last byte may be in one more.
    if align_of::<T>() < LINE {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(size_of::<T>().saturating_sub(1))) }
    }
}

/// Nothing: this processor gets no hint.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch<T>(_line: &T) {}

/// Nothing: this processor gets no hint.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch_all<T>(_value: &T) {}

/// Nothing: this processor gets no hint.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch_lines<T>(_value: &T, _lines: usize) {}
