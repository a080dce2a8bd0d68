//! Runs tasks one step at a time, in an order that a seed chooses.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Numbers that a seed chooses (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Clone)]
pub(super) struct Random(Arc<Mutex<u64>>);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(Arc::new(Mutex::new(seed)))
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % bound
    }

    /// True once in `times`.
    pub(super) fn once_in(&self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    pub(super) fn pick_mut<'a, T>(&self, of: &'a mut [T]) -> &'a mut T {
        let chosen = self.below(of.len() as u64) as usize;
        &mut of[chosen]
    }

    pub(super) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Where another task may go on.
pub(super) fn pause() -> impl Future<Output = ()> + Send {
    let mut paused = false;
    std::future::poll_fn(move |_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending })
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks, each with the instance that it belongs to.
#[derive(Default)]
pub(super) struct Executor {
    tasks: Vec<(usize, Task)>,
}

impl Executor {
    pub(super) fn spawn(&mut self, instance: usize, task: impl Future<Output = ()> + 'static) {
        self.tasks.push((instance, Box::pin(task)));
    }

    /// Drops every task of an instance where it stands.
    pub(super) fn crash(&mut self, instance: usize) {
        self.tasks.retain(|(of, _)| *of != instance);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Polls one of the tasks.
    pub(super) fn step(&mut self, random: &Random) {
        let chosen = random.below(self.tasks.len() as u64) as usize;
        if self.tasks[chosen].1.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            drop(self.tasks.swap_remove(chosen));
        }
    }
}
