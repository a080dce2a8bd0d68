//! Closed workloads: each caller makes its next call when it has the answer to the last one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Answer, Caller};
use super::choice::{Step, Steps};
use super::interrupt::Interrupt;
use super::names::{Names, TRANSACTION_BYTES, Transactions};
use super::recorder::{Answered, Due, Recorder, Series};
use super::tally::{Effect, Tally};
use super::timeline::Window;
use super::workload::Kind;

/// How long a caller rests after a failure: otherwise an unavailable target fails thousands of calls a second.
pub(super) const REST: Duration = Duration::from_millis(10);

/// What the callers of one thread share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) names: Arc<Names>,
    pub(super) window: Window,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) recorder: Rc<RefCell<Recorder>>,
}

/// What one caller does next, without end.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    pub(super) ids: Transactions,
    /// The number of the next account that it opens, and how far it is from there to the one after.
    pub(super) new: u32,
    pub(super) stride: u32,
}

/// One call, before it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    step: Step,
    id: [u8; TRANSACTION_BYTES],
    new: u32,
}

impl Shared {
    /// Whether there is nothing more to do at `now`.
    #[inline]
    pub(super) fn over(&self, now: Instant) -> bool {
        now >= self.window.end || self.interrupt.is_asked()
    }

    /// Makes a call, and records the result. Latency counts from `began`. Returns the time of the answer, or, after a
    /// failure, of the end of the rest.
    #[inline]
    pub(super) async fn make(&self, call: Call, caller: &mut impl Caller, began: Instant, due: Due) -> Instant {
        let effect = call.step.effect();
        let under_way = self.begin(call.series(), began, due);
        self.recorder.borrow_mut().tally.begun(effect, 1);
        let id = std::str::from_utf8(&call.id).unwrap_or_default();
        let answer = caller.call(call.step, id, call.new, &self.names).await;
        let finished = Instant::now();
        let refused = u32::from(answer == Answer::Refused);
        if let Answer::Failed { text, unknown } = answer {
            under_way.failed(effect, 1, &text, unknown);
            tokio::time::sleep(REST).await;
            return Instant::now();
        }
        under_way.answered(finished, 1, refused, |tally| tally.decided(effect, 1, u64::from(refused)));
        finished
    }

    /// A call begins.
    #[inline]
    pub(super) fn begin(&self, series: Series, began: Instant, due: Due) -> UnderWay<'_> {
        UnderWay { shared: self, series, began, due, ended: false }
    }
}

/// A call under way. If it is dropped before its end, it counts as unanswered.
#[must_use = "a call that is dropped was given up"]
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    shared: &'a Shared,
    series: Series,
    began: Instant,
    due: Due,
    ended: bool,
}

impl UnderWay<'_> {
    /// Ends the call with an answer at `finished`; `told` adds it to what the ledger must hold.
    #[inline]
    pub(super) fn answered(mut self, finished: Instant, operations: u32, refused: u32, told: impl FnOnce(&mut Tally)) {
        self.ended = true;
        let UnderWay { shared, series, began, due, .. } = &self;
        let mut recorder = shared.recorder.borrow_mut();
        told(&mut recorder.tally);
        if let Some(end) = shared.interrupt.asked_at() {
            recorder.cut(end);
        }
        let took = finished.saturating_duration_since(*began);
        recorder.answered(&Answered { series: *series, due: *due, finished, took, operations, refused });
    }

    /// Records that a part of the call failed.
    #[cold]
    pub(super) fn in_part(&self, text: &str) {
        self.shared.recorder.borrow_mut().failed_in_part(self.series, text);
    }

    /// Ends the call with a failure of `count` operations; `unknown` if they may have been done.
    #[cold]
    pub(super) fn failed(mut self, effect: Effect, count: u64, text: &str, unknown: bool) {
        self.ended = true;
        let mut recorder = self.shared.recorder.borrow_mut();
        if !unknown {
            recorder.tally.not_decided(effect, count);
        }
        recorder.failed(self.series, self.due, text);
    }
}

impl Drop for UnderWay<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.ended {
            let mut recorder = self.shared.recorder.borrow_mut();
            recorder.unanswered(self.series, self.due, self.began.elapsed());
        }
    }
}

impl Call {
    pub(super) fn series(&self) -> Series {
        Series::Single(self.step.kind)
    }
}

impl Plan {
    #[inline]
    pub(super) fn next(&mut self) -> Call {
        let step = self.steps.next();
        let new = self.new;
        if step.kind == Kind::Create {
            self.new = self.new.saturating_add(self.stride);
        }
        Call { step, id: *self.ids.next_bytes(), new }
    }
}

/// Calls until it is over.
pub(super) async fn closed(mut caller: impl Caller, shared: Shared, mut plan: Plan) {
    // The next call begins when the one before is answered: one look at the clock for both.
    let mut now = Instant::now();
    while !shared.over(now) {
        now = shared.make(plan.next(), &mut caller, now, Due::AtItsEnd).await;
    }
}
