//! An allocator that ends a process which is not the one that switched it on: a child that allocated before its exec.
#![expect(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) struct Watchful;

static ONLY: AtomicU32 = AtomicU32::new(0);

/// From now on only this process may allocate.
pub(crate) fn abort_in_children(on: bool) {
    ONLY.store(if on { std::process::id() } else { 0 }, Ordering::SeqCst);
}

fn check() {
    let only = ONLY.load(Ordering::Relaxed);
    if only != 0 && std::process::id() != only {
        // SAFETY: ends the process that must not be here; takes no address.
        unsafe { libc::_exit(99) }
    }
}

// SAFETY: the system allocator does it all.
unsafe impl GlobalAlloc for Watchful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
