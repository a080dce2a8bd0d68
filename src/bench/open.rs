//! Open workloads: calls at intended times, from which their latency counts. So calls that wait while the target stalls
//! show up as late; a caller that waited for each answer would leave those calls out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::call::Caller;
use super::closed::{Call, Plan, Shared};
use super::interrupt::Interrupt;
use super::recorder::Due;
use super::timeline::Window;

/// The longest sleep of the pacer, so that it notices the end.
const LOOK: Duration = Duration::from_millis(50);

/// Tells the threads in turn when to begin a call, `rate` times a second, until it is over. Blocks.
pub(super) fn pace(rate: f64, window: Window, to: &[UnboundedSender<Instant>], interrupt: &Interrupt) {
    wake_in_time();
    for (call, to) in (0_u64..).zip(to.iter().cycle()) {
        let intended = window.warm_up + Duration::from_secs_f64(call as f64 / rate);
        loop {
            let now = Instant::now();
            if intended >= window.end || interrupt.is_asked() {
                return;
            }
            if intended <= now {
                break;
            }
            std::thread::sleep((intended - now).min(LOOK));
        }
        // A thread that is gone has said why.
        let _ = to.send(intended);
    }
}

/// By default a sleep may end 50 µs late, which would count against the target.
fn wake_in_time() {
    // Where this is not allowed, the figures are worse by that.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Begins a call at each time in `intended`, with at most `most` under way: further calls wait, and their latency
/// includes that. The callers take turns.
pub(super) async fn open(
    callers: Vec<impl Caller>,
    shared: Shared,
    plan: Plan,
    intended: UnboundedReceiver<Instant>,
    most: usize,
) {
    let room = Arc::new(Semaphore::new(most));
    let mut calls = JoinSet::new();
    let mut waiting = Waiting { intended, shared: shared.clone(), plan };
    for caller in callers.iter().cycle() {
        // Waits for room before it takes a call, so that a call waits where it is counted.
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let Some(at) = waiting.intended.recv().await else { break };
        while calls.try_join_next().is_some() {}
        let ready = Ready { call: waiting.plan.next(), shared: shared.clone(), at, begun: false };
        let mut caller = caller.clone();
        calls.spawn_local(async move {
            let mut ready = ready;
            ready.begun = true;
            ready.shared.make(ready.call, &mut caller, at, Due::At(at)).await;
            drop(permit);
        });
    }
    while calls.join_next().await.is_some() {}
}

/// A call whose task has not run yet. If it is dropped, the call counts as unanswered.
struct Ready {
    call: Call,
    shared: Shared,
    at: Instant,
    begun: bool,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if !self.begun {
            drop(self.shared.begin(self.call.series(), self.at, Due::At(self.at)));
        }
    }
}

/// Calls that are due, but have no room yet. If this is dropped, they count as unanswered.
struct Waiting {
    intended: UnboundedReceiver<Instant>,
    shared: Shared,
    plan: Plan,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.intended.close();
        while let Ok(at) = self.intended.try_recv() {
            drop(self.shared.begin(self.plan.next().series(), at, Due::At(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::task::LocalSet;

    use super::*;
    use crate::bench::call::Answer;
    use crate::bench::choice::{Choices, Step};
    use crate::bench::names::Names;
    use crate::bench::recorder::Recorder;
    use crate::bench::{self, Workload};

    /// Answers at once, but for one stall.
    #[derive(Clone)]
    struct Stalling {
        from: Instant,
        until: Instant,
    }

    impl Caller for Stalling {
        async fn call(&mut self, _: Step, _: &str, _: u32, _: &Names) -> Answer {
            if (self.from..self.until).contains(&Instant::now()) {
                tokio::time::sleep_until(self.until.into()).await;
            }
            Answer::Accepted
        }
    }

    /// The calls seen in 600 ms of a target that stalls for `stall` ms from 150 ms on, at most `most` of them under way
    /// at once. Calls are given up 100 ms after the end. Repeated as long as this machine stalls as well.
    fn stalled(most: usize, stall: u64) -> Vec<bench::Call> {
        const LATE: Duration = Duration::from_millis(30);
        for _ in 0..100 {
            let (calls, late) = measured(most, stall);
            if late < LATE {
                return calls;
            }
        }
        panic!("this machine stalls all the time");
    }

    /// These calls, and the longest delay of a call's announcement.
    fn measured(most: usize, stall: u64) -> (Vec<bench::Call>, Duration) {
        let choices = Choices::draw(&Workload::Open.mix(), 10, 1).expect("a table");
        let names = Arc::new(Names::new(10).expect("names"));
        let start = Instant::now();
        let window = Window { warm_up: start, start, end: start + Duration::from_millis(600) };
        let from = start + Duration::from_millis(150);
        let target = Stalling { from, until: from + Duration::from_millis(stall) };
        let plan = Plan { steps: choices.of_caller(0), ids: names.transactions(0), new: 0, stride: 1 };
        let recorder = Rc::new(RefCell::new(Recorder::new(window)));
        let interrupt = Arc::<Interrupt>::default();
        let shared = Shared { names, window, interrupt: interrupt.clone(), recorder: recorder.clone() };
        let (to, mut paced) = unbounded_channel();
        let (tell, intended) = unbounded_channel();
        let pacer = std::thread::spawn(move || pace(500.0, window, &[to], &interrupt));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let local = LocalSet::new();
        let told = local.spawn_local(async move {
            let mut late = Duration::ZERO;
            while let Some(at) = paced.recv().await {
                late = late.max(at.elapsed());
                // Once the calls are given up nobody receives this.
                let _ = tell.send(at);
            }
            late
        });
        let late = local.block_on(&runtime, async {
            let given_up = tokio::time::Instant::from(window.end + Duration::from_millis(100));
            // The test is about what is not answered by then.
            let _ = tokio::time::timeout_at(given_up, open(vec![target], shared, plan, intended, most)).await;
            told.await.expect("told")
        });
        drop(local);
        pacer.join().expect("paced");
        (recorder.borrow().calls(), late)
    }

    /// E2: latency counts from the intended start. During a stall of 200 ms 100 of 300 calls are due, and all are late,
    /// even if only one may be under way; a caller that waits would have seen one.
    #[test]
    fn a_stall_is_seen_by_every_call_that_it_delays() {
        for most in [1_000, 1] {
            let calls = stalled(most, 200);
            assert_eq!(calls.iter().map(|call| call.calls).sum::<u64>(), 300);
            for bench::Call { name, latency, .. } in calls {
                // Of a third that is late by 0 to 200 ms, the last tenth of all is so by 140 ms.
                assert!(latency.p90 > 100_000.0, "{name}, {most} under way: {latency:?}");
                assert!(latency.p50 < 100_000.0, "{name}, {most} under way: {latency:?}");
            }
        }
    }

    /// E2: of 300 calls that are due some 225 are not answered, under way or not: each is as late as it is when it is
    /// given up.
    #[test]
    fn calls_that_are_never_answered_are_told() {
        for most in [1_000, 1] {
            let calls = stalled(most, 60_000);
            let sum = |number: fn(&bench::Call) -> u64| calls.iter().map(number).sum::<u64>();
            assert_eq!(sum(|call| call.due), 300);
            assert_eq!(sum(|call| call.calls) + sum(|call| call.unanswered), 300);
            assert!((180..=270).contains(&sum(|call| call.unanswered)), "{calls:?}");
            for bench::Call { name, latency, .. } in calls {
                assert!(latency.p99 > 500_000.0, "{name}, {most} under way: {latency:?}");
            }
        }
    }
}
