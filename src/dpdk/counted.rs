//! The allocator of a node, and a count of what each thread has asked it for: the benchmark installs it and shows that
//! packets of established flows ask for nothing.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use super::large::Allocator;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// [`Allocator`], counted.
#[derive(Debug)]
pub struct Counted;

/// Allocations and reallocations that the calling thread has asked for.
#[must_use]
pub fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

/// The count has no destructor and needs no allocation, so that it is there as long as the thread is.
fn count() {
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on as it is to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's layout, as it is.
        unsafe { Allocator.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's layout, as it is.
        unsafe { Allocator.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: allocated by the same allocator with this layout.
        unsafe { Allocator.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: allocated by the same allocator with this layout; the new size is the caller's word.
        unsafe { Allocator.realloc(at, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_asks_for_is_counted_and_what_others_do_is_not() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        let before = allocations();
        // SAFETY: not of zero size.
        let at = unsafe { Counted.alloc(layout) };
        // SAFETY: allocated above with that layout.
        let at = unsafe { Counted.realloc(at, layout, 200) };
        assert_eq!(allocations(), before + 2);
        let layout = Layout::from_size_align(200, 8).unwrap();
        // SAFETY: the last of them.
        unsafe { Counted.dealloc(at, layout) };
        assert_eq!(allocations(), before + 2);
        let other = std::thread::spawn(allocations).join();
        assert_eq!(other.ok(), Some(0));
    }
}
