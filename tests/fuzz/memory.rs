//! The memory that one input may take. libFuzzer looks at the whole process once a second; a parser that asks for too much
//! and gives it back would pass by it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What any one input may hold at once. The largest honest demands are named limits of the parsers: 512 MiB for the
/// allocation table of a VHDX of 64 TiB, 256 MiB for the blob table of a WIM.
const LIVE_BYTES_MAX: usize = 700 << 20;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`; a demand beyond the limit ends the process, and libFuzzer keeps the input.
pub fn limited(work: impl FnOnce()) {
    LIMIT.store(LIVE.load(Relaxed) + LIVE_BYTES_MAX, Relaxed);
    work();
    LIMIT.store(usize::MAX, Relaxed);
}

// SAFETY: every call is handed to the system's allocator as it came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        take(bytes);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

fn take(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    if live > LIMIT.load(Relaxed) {
        LIMIT.store(usize::MAX, Relaxed);
        eprintln!("{live} bytes at once, at most {LIVE_BYTES_MAX} for one input");
        std::process::abort();
    }
}
