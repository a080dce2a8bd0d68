//! Single calls, and callers that wait: each makes its next call when it has the answer to the one before.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Answer, Caller};
use super::choice::{Step, Steps};
use super::interrupt::Interrupt;
use super::names::{Names, TRANSACTION_BYTES, Transactions};
use super::recorder::{Answered, Recorder, Series};
use super::timeline::Window;
use super::workload::Kind;

/// How long a caller rests after a failure: a target that is away fails thousands of calls a second otherwise.
pub(super) const REST: Duration = Duration::from_millis(10);

/// What the callers of one thread share.
#[derive(Clone)]
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

    /// Makes a call, and writes down what came of it. Latency counts from `began`; `counted` says whether it is measured, the
    /// moment of the answer where it is None. Returns that moment, or when it had rested from a failure.
    #[inline]
    pub(super) async fn make(
        &self,
        call: Call,
        caller: &mut impl Caller,
        began: Instant,
        counted: Option<Instant>,
    ) -> Instant {
        let (series, effect) = (Series::Single(call.step.kind), call.step.effect());
        self.recorder.borrow_mut().tally.begun(effect, 1);
        let id = std::str::from_utf8(&call.id).unwrap_or_default();
        let answer = caller.call(call.step, id, call.new, &self.names).await;
        let finished = Instant::now();
        let refused = u32::from(answer == Answer::Refused);
        if let Answer::Failed { text, unknown } = answer {
            self.failed(series, effect, 1, &text, unknown).await;
            return Instant::now();
        }
        let mut recorder = self.recorder.borrow_mut();
        recorder.tally.decided(effect, 1, u64::from(refused));
        let took = finished.saturating_duration_since(began);
        let counted = counted.unwrap_or(finished);
        recorder.answered(&Answered { series, counted, finished, took, operations: 1, refused });
        finished
    }

    /// Writes a failure down, and rests.
    #[cold]
    pub(super) async fn failed(
        &self,
        series: Series,
        effect: super::tally::Effect,
        count: u64,
        text: &str,
        unknown: bool,
    ) {
        {
            let mut recorder = self.recorder.borrow_mut();
            if !unknown {
                recorder.tally.not_decided(effect, count);
            }
            recorder.failed(series, text);
        }
        tokio::time::sleep(REST).await;
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
        now = shared.make(plan.next(), &mut caller, now, None).await;
    }
}
