//! Keeps the memory of freed versions for the next ones that the same thread makes. Memory released by an epoch is
//! freed by whichever thread advances it, rarely the one that allocated it. The allocator would return each piece from
//! thread to thread, and its owner would miss the cache at every allocation.

use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;

/// What is kept: a version's memory, where a state takes two words.
const LAYOUT: Layout = match Layout::from_size_align(64, 64) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// How many a thread keeps: about as many as one call of crossbeam's collector lets go at once. AddressSanitizer would
/// not see a use after that.
const MOST_PER_THREAD: usize = if cfg!(equipoise_no_reuse) { 0 } else { 512 };

struct Pool(Vec<NonNull<u8>>);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool(Vec::new())) };
}

impl Drop for Pool {
    fn drop(&mut self) {
        for memory in self.0.drain(..) {
            // Safety: allocated with this layout (by a box), and nobody else's.
            unsafe { std::alloc::dealloc(memory.as_ptr(), LAYOUT) };
        }
    }
}

/// Whether memory of a `T` is kept.
const fn is_pooled<T>() -> bool {
    size_of::<T>() == LAYOUT.size() && align_of::<T>() == LAYOUT.align()
}

/// Boxes `value`.
#[inline]
pub(super) fn boxed<T>(value: T) -> Box<T> {
    let kept = if is_pooled::<T>() {
        // A thread past its thread-locals keeps nothing.
        POOL.try_with(|kept| kept.borrow_mut().0.pop()).ok().flatten()
    } else {
        None
    };
    let Some(memory) = kept else { return Box::new(value) };
    let memory = memory.cast::<T>();
    // Safety: it has the size and alignment of a `T`, and is nobody else's.
    unsafe { memory.write(value) };
    // Safety: written above; allocated as a box of that layout is.
    unsafe { Box::from_raw(memory.as_ptr()) }
}

/// Drops what is in the box, and keeps its memory if there is room.
#[inline]
pub(super) fn let_go<T>(gone: Box<T>) {
    if !is_pooled::<T>() {
        return;
    }
    let memory = NonNull::from(Box::leak(gone));
    // Safety: leaked above, so it is dropped once, here.
    unsafe { memory.drop_in_place() };
    let kept = POOL.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        let room = kept.0.len() < MOST_PER_THREAD;
        if room {
            kept.0.push(memory.cast());
        }
        room
    });
    if !kept.unwrap_or(false) {
        // Safety: allocated with this layout (by a box), and nobody else's.
        unsafe { std::alloc::dealloc(memory.as_ptr().cast(), LAYOUT) };
    }
}

#[cfg(all(test, not(equipoise_no_reuse)))]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Version([u64; 8]);

    /// C6: a thread keeps so much and no more, and uses it again.
    #[test]
    fn memory_is_used_again_by_its_thread() {
        std::thread::spawn(|| {
            let boxes: Vec<_> = (0..2 * MOST_PER_THREAD as u64).map(|number| boxed(Version([number; 8]))).collect();
            assert!(boxes.iter().zip(0..).all(|(found, number)| found.0 == [number; 8]));
            boxes.into_iter().for_each(let_go);
            let kept = POOL.with(|kept| kept.borrow().0.clone());
            assert_eq!(kept.len(), MOST_PER_THREAD);
            let again = boxed(Version([1; 8]));
            assert_eq!(kept.last().map(|memory| memory.as_ptr().addr()), Some((&raw const *again).addr()));
            let_go(again);
            let_go(boxed([1_u64; 3]));
            assert_eq!(POOL.with(|kept| kept.borrow().0.len()), MOST_PER_THREAD, "of another layout");
        })
        .join()
        .expect("its own thread");
    }
}
