//! Large tables lie in huge pages.
//!
//! A lookup touches a few lines anywhere in tables of hundreds of megabytes. In pages of 4 KiB nearly each of them costs a
//! walk through page tables besides, which don't fit into a near cache either. All tables are allocated at start and are
//! the only large things a node has, so the allocator knows them by their size: what has 1 MiB or more gets whole
//! pages of 2 MiB of its own, aligned, and the kernel is asked to back them with huge ones (transparent ones: none has to be
//! reserved, and where there are none left, or [`PagePolicy::Never`] rules, ordinary pages do).
//!
//! A binary whose tables matter installs [`Allocator`]; [`usage`] tells what has come of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a huge page.
const PAGE: usize = 2 << 20;

/// From this size on an allocation has pages of its own.
const LARGE: usize = 1 << 20;

/// Bytes in such pages.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, but for large allocations.
#[derive(Debug)]
pub struct Allocator;

/// What the kernel does about huge pages for those who ask (`/sys/kernel/mm/transparent_hugepage/enabled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagePolicy {
    /// It gives them.
    Given,
    /// It gives none to anybody.
    Never,
    /// It has none.
    Unknown,
}

impl PagePolicy {
    /// That of the running kernel.
    #[must_use]
    pub fn of_kernel() -> Self {
        Self::parse(&fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        match text.split_whitespace().find(|word| word.starts_with('[')) {
            Some("[never]") => Self::Never,
            Some("[always]" | "[madvise]") => Self::Given,
            _ => Self::Unknown,
        }
    }
}

/// How much lies in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of large allocations.
    pub large: u64,
    /// Bytes of the process that are in huge pages now. What was never written to is in no page yet.
    pub huge: u64,
}

/// What the process has at present.
///
/// # Errors
/// `/proc/self/smaps_rollup` can't be read.
pub fn usage() -> io::Result<Usage> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    Ok(Usage {
        large: MAPPED.load(Ordering::Relaxed) as u64,
        huge: anon_huge_bytes(&text),
    })
}

fn anon_huge_bytes(rollup: &str) -> u64 {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Whether an allocation has pages of its own: the same answer when it is made and when it is given back.
const fn is_large(layout: &Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

/// Bytes of the pages for `size` bytes; none beyond what can be addressed.
const fn pages(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(PAGE)
}

// SAFETY: a large allocation is a mapping of its own, aligned to `PAGE` and at least as long as the layout says, unmapped
// with the length it was mapped with; everything else is the system allocator's. Nothing here unwinds or allocates.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            return map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr);
        }
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            // New pages are zero, and stay untouched until they are used.
            return map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr);
        }
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_large(&layout) {
            let len = pages(layout.size()).unwrap_or_default();
            // SAFETY: mapped by `map` with this length, and the caller's to give back.
            unsafe { libc::munmap(at.cast(), len) };
            MAPPED.fetch_sub(len, Ordering::Relaxed);
            return;
        }
        // SAFETY: allocated by the system with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the new size with the old alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (is_large(&layout), is_large(&new)) {
            // SAFETY: allocated by the system with this layout, and stays there.
            (false, false) => unsafe { System.realloc(at, layout, new_size) },
            (true, true) if pages(layout.size()) == pages(new_size) => at,
            // SAFETY: the caller's layouts.
            _ => unsafe { self.moved(at, layout, new) },
        }
    }
}

impl Allocator {
    /// # Safety
    /// As for [`GlobalAlloc::realloc`].
    unsafe fn moved(&self, at: *mut u8, old: Layout, new: Layout) -> *mut u8 {
        // SAFETY: not of zero size: the caller's word for the new one.
        let to = unsafe { self.alloc(new) };
        if !to.is_null() {
            // SAFETY: two allocations, each at least as long as the shorter layout says.
            unsafe { ptr::copy_nonoverlapping(at, to, old.size().min(new.size())) };
            // SAFETY: the caller gives it up for the new one.
            unsafe { self.dealloc(at, old) };
        }
        to
    }
}

/// Maps aligned pages for `size` bytes and asks for huge ones.
fn map(size: usize) -> Option<NonNull<u8>> {
    let len = pages(size)?;
    let room = len.checked_add(PAGE)?;
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let base = unsafe { libc::mmap(ptr::null_mut(), room, access, kind, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = base.cast::<u8>();
    let before = base.align_offset(PAGE);
    let at = base.wrapping_add(before);
    let after = room - before - len;
    if before > 0 {
        // SAFETY: the part of the new mapping in front of what is handed out.
        unsafe { libc::munmap(base.cast(), before) };
    }
    if after > 0 {
        // SAFETY: the part of the new mapping behind it.
        unsafe { libc::munmap(at.wrapping_add(len).cast(), after) };
    }
    // A kernel that knows no huge pages refuses, and the pages are ordinary ones.
    // SAFETY: advice about a mapping of ours.
    unsafe { libc::madvise(at.cast(), len, libc::MADV_HUGEPAGE) };
    MAPPED.fetch_add(len, Ordering::Relaxed);
    NonNull::new(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    /// What was written there.
    fn filled(at: *mut u8, len: usize, with: u8) -> bool {
        // SAFETY: the tests allocate at least as much.
        unsafe { std::slice::from_raw_parts(at, len) }
            .iter()
            .all(|&byte| byte == with)
    }

    #[test]
    fn a_large_allocation_is_aligned_zero_and_given_back() {
        let layout = layout(LARGE + 1);
        // SAFETY: not of zero size.
        let at = unsafe { Allocator.alloc_zeroed(layout) };
        assert!(!at.is_null() && at.addr().is_multiple_of(PAGE));
        assert!(filled(at, layout.size(), 0));
        assert!(usage().unwrap().large >= PAGE as u64);
        // SAFETY: allocated above.
        unsafe { Allocator.dealloc(at, layout) };
    }

    #[test]
    fn what_is_in_an_allocation_moves_with_it_from_small_to_large_and_back() {
        let sizes = [100, LARGE - 1, LARGE, PAGE, PAGE + 1, 3 * PAGE, LARGE, 1_000];
        let mut now = layout(100);
        // SAFETY: not of zero size.
        let mut at = unsafe { Allocator.alloc(now) };
        // SAFETY: so long it is.
        unsafe { at.write_bytes(7, 100) };
        for size in sizes {
            // SAFETY: allocated by the same allocator with that layout.
            at = unsafe { Allocator.realloc(at, now, size) };
            now = layout(size);
            assert!(!at.is_null() && filled(at, 100, 7), "{size}");
            // SAFETY: so long it is.
            unsafe { at.write_bytes(7, size) };
        }
        // SAFETY: the last of them.
        unsafe { Allocator.dealloc(at, now) };
    }

    #[test]
    fn more_than_can_be_addressed_is_refused() {
        let layout = Layout::from_size_align(isize::MAX as usize - 63, 64).unwrap();
        // SAFETY: not of zero size.
        assert!(unsafe { Allocator.alloc(layout) }.is_null());
    }

    #[test]
    fn the_kernels_words_are_understood() {
        for (text, policy) in [
            ("always madvise [never]\n", PagePolicy::Never),
            ("always [madvise] never\n", PagePolicy::Given),
            ("[always] madvise never\n", PagePolicy::Given),
            ("", PagePolicy::Unknown),
            ("never", PagePolicy::Unknown),
        ] {
            assert_eq!(PagePolicy::parse(text), policy, "{text}");
        }
        let rollup =
            "55d0-7ffc ---p 00000000 00:00 0   [rollup]\nRss:  9000 kB\nAnonHugePages:      4096 kB\n";
        assert_eq!(anon_huge_bytes(rollup), 4 << 20);
        assert_eq!(anon_huge_bytes("Rss: 1 kB\nAnonHugePages: much\n"), 0);
    }
}
