//! Large tables lie in huge pages.
//!
//! A lookup touches a few lines anywhere in tables of hundreds of megabytes. In pages of 4 KiB nearly each of them costs a
//! walk through page tables besides, which don't fit into a near cache either. Tables are
//! the only large things a node has, so the allocator knows them by their size: what has 1 MiB or more gets whole
//! pages of 2 MiB of its own, aligned, and the kernel is asked to back them with huge ones (transparent ones: none has to be
//! reserved, and where there are none left, or [`PagePolicy::Never`] rules, ordinary pages do).
//!
//! Tables that may grow have address space for more than they hold (dataplane's `room.rs`), and no memory behind it:
//! [`populate`] has the pages put there before a worker is given the room, [`give_back`] gives them to others again.
//!
//! A binary whose tables matter installs [`Allocator`]; [`usage`] tells what has come of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::span::{Span, Vacated};

/// Bytes of an ordinary page.
const SMALL_PAGE: usize = 4 << 10;

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
    /// Bytes of large allocations, address space without memory included.
    pub reserved: u64,
    /// Bytes of memory of the process's own.
    pub anonymous: u64,
    /// Bytes of that which are in huge pages. What was never written to is in no page yet.
    pub huge: u64,
}

/// What the process has at present.
///
/// # Errors
/// `/proc/self/smaps_rollup` can't be read.
pub fn usage() -> io::Result<Usage> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    Ok(Usage {
        reserved: MAPPED.load(Ordering::Relaxed) as u64,
        anonymous: bytes_of(&text, "Anonymous:"),
        huge: bytes_of(&text, "AnonHugePages:"),
    })
}

/// Bytes that a line in kB tells, of those with that name; none if there is no such line.
fn bytes_of(rollup: &str, name: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Has the kernel put pages behind a stretch of memory, ready to be written to, without a change of what is there. Takes as long
/// as zeroing them, some 0.2 s per GB: nothing for a thread that somebody waits for.
///
/// # Errors
/// The kernel has no memory for them, or is older than 5.14 and can't be asked (`InvalidInput`): they come when they are
/// first written to, then.
pub fn populate(span: Span) -> io::Result<()> {
    let begin = span.address / SMALL_PAGE * SMALL_PAGE;
    let end = (span.address + span.bytes).next_multiple_of(SMALL_PAGE);
    let at = ptr::without_provenance_mut(begin);
    // SAFETY: it reads and writes nothing that a program could see, whatever the addresses stand for: a page that is there stays
    // as it is, and one that isn't there yet reads as it would have when first touched.
    match unsafe { libc::madvise(at, end - begin, libc::MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the whole pages of what tables have vacated back to the kernel. Answers how many bytes that are.
pub fn give_back(vacated: &Vacated) -> u64 {
    vacated.spans().iter().copied().map(drop_pages).sum()
}

fn drop_pages(span: Span) -> u64 {
    let begin = span.address.next_multiple_of(SMALL_PAGE);
    let end = (span.address + span.bytes) / SMALL_PAGE * SMALL_PAGE;
    if end <= begin {
        return 0;
    }
    let at = ptr::without_provenance_mut(begin);
    // SAFETY: the pages lie in spare capacity of vectors, behind their last elements: only the tables make a `Vacated`, and until
    // they adopt more room, which the agent gives them after this, they put nothing there. Spare capacity has no content.
    match unsafe { libc::madvise(at, end - begin, libc::MADV_DONTNEED) } {
        0 => (end - begin) as u64,
        _ => 0,
    }
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
        // Address space isn't memory: most of what tables reserve is never written to.
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
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
        assert!(usage().unwrap().reserved >= PAGE as u64);
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

    /// Bytes of a stretch that are in memory.
    fn resident(span: Span) -> usize {
        let mut pages = vec![0_u8; span.bytes / SMALL_PAGE];
        let at = ptr::without_provenance_mut(span.address);
        // SAFETY: it tells of as many pages as there is room for answers.
        let told = unsafe { libc::mincore(at, span.bytes, pages.as_mut_ptr()) };
        assert_eq!(told, 0);
        pages.iter().filter(|&&page| page & 1 == 1).count() * SMALL_PAGE
    }

    #[test]
    fn pages_are_there_when_asked_for_and_what_was_written_stays() {
        const SIZE: usize = 64 * PAGE;
        let layout = layout(SIZE);
        // SAFETY: not of zero size.
        let at = unsafe { Allocator.alloc(layout) };
        let address = at.addr();
        let whole = Span { address, bytes: SIZE };
        assert_eq!(resident(whole), 0, "address space alone takes no memory");
        // SAFETY: so long it is.
        unsafe { at.write_bytes(7, 100) };
        let half = Span {
            address: address + 50,
            bytes: SIZE / 2,
        };
        populate(half).unwrap();
        assert!(
            resident(Span {
                address,
                bytes: SIZE / 2
            }) == SIZE / 2
                && resident(whole) < SIZE
        );
        assert!(filled(at, 100, 7));
        // SAFETY: allocated above.
        unsafe { Allocator.dealloc(at, layout) };
    }

    #[test]
    fn whole_pages_of_a_stretch_are_given_back_and_what_is_beside_them_stays() {
        const SIZE: usize = 4 * PAGE;
        let layout = layout(SIZE);
        // SAFETY: not of zero size.
        let at = unsafe { Allocator.alloc(layout) };
        // SAFETY: so long it is.
        unsafe { at.write_bytes(7, SIZE) };
        let span = Span {
            address: at.addr() + 100,
            bytes: SIZE - 200,
        };
        assert_eq!(drop_pages(span), (SIZE - 2 * SMALL_PAGE) as u64);
        assert_eq!(drop_pages(Span { bytes: 90, ..span }), 0);
        assert!(filled(at, SMALL_PAGE, 7));
        // SAFETY: so long it is.
        assert!(filled(unsafe { at.add(SIZE - SMALL_PAGE) }, SMALL_PAGE, 7));
        // SAFETY: so long it is.
        assert!(filled(unsafe { at.add(SMALL_PAGE) }, SIZE - 2 * SMALL_PAGE, 0));
        // SAFETY: allocated above.
        unsafe { Allocator.dealloc(at, layout) };
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
        assert_eq!(bytes_of(rollup, "AnonHugePages:"), 4 << 20);
        assert_eq!(bytes_of("Rss: 1 kB\nAnonHugePages: much\n", "AnonHugePages:"), 0);
    }
}
