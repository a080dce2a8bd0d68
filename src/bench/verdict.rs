//! What a run says about the requirements on load.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Call, Run};

/// The most concurrent calls for which the bound on creates holds.
const CREATES_AT_ONCE: u32 = 50;
/// The concurrent calls under which the bounds of `open` hold as well.
const CALLS_AT_ONCE: u32 = 100;
/// The bounds on the 99th percentiles, in ms.
const LATENCIES: [(&str, f64); 3] = [("GetBalance", 5.0), ("UpdateBalance", 20.0), ("TransferFunds", 50.0)];
/// The number of cores that the service may use at E2's rate: 70 % of four.
const CORES: f64 = 4.0 * 0.7;
/// The share of the requested rate that counts as sustained.
const SUSTAINED: f64 = 0.99;
/// The share of time that may be spent on accounts which others hold.
const WAITING_SHARE: f64 = 0.1;

/// One bound, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The requirement's number.
    pub requirement: String,
    /// What is bounded, with its unit.
    pub what: String,
    /// The value found; None if the target does not tell it, or if too few calls succeeded.
    pub found: Option<f64>,
    /// The bound: to be reached or not, see `at_least`.
    pub bound: f64,
    /// Whether the value must be at least the bound, rather than below it.
    pub at_least: bool,
    /// Whether the bound is kept; None if unknown.
    pub held: Option<bool>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { requirement, what, found, bound, at_least, held } = self;
        let word = if *at_least { "at least" } else { "under" };
        match (found, held) {
            (_, None) => write!(f, "{requirement}  {what}: not told (bound {bound})"),
            (None, Some(_)) => write!(f, "{requirement}  {what}: too many calls failed, {word} {bound}: BROKEN"),
            (Some(found), Some(false)) => write!(f, "{requirement}  {what}: {found:.2}, {word} {bound}: BROKEN"),
            (Some(found), Some(true)) => {
                write!(f, "{requirement}  {what}: {found:.2}, {word} {bound}: held")?;
                if !at_least && *found > 0.0 {
                    write!(f, ", with a factor of {:.1} to spare", bound / found)?;
                }
                Ok(())
            }
        }
    }
}

/// What `run` says about E2 and E3; nothing where its workload is not the one that they are about.
pub(super) fn verdicts(run: &Run) -> Vec<Verdict> {
    match run.workload.as_str() {
        "open" => of_open(run),
        "create" if run.settings.callers <= CREATES_AT_ONCE => vec![p99(run, "CreateAccount", 10.0)],
        "mixed" if run.settings.callers == CALLS_AT_ONCE => latencies(run),
        "contended" => vec![under(
            "E3",
            "time on accounts that others hold, % of the time worked",
            run.contention.as_ref().map(|contention| contention.waiting_share * 100.0),
            WAITING_SHARE * 100.0,
        )],
        _ => Vec::new(),
    }
}

fn of_open(run: &Run) -> Vec<Verdict> {
    let mut verdicts = latencies(run);
    if let Some(rate) = run.settings.rate {
        let bound = rate * SUSTAINED;
        verdicts.push(Verdict {
            requirement: "E2".to_owned(),
            what: format!("requests a second, of {rate} asked for"),
            found: Some(run.rate),
            bound,
            at_least: true,
            held: Some(run.rate >= bound),
        });
    }
    let cores = run.usage.as_ref().map(|usage| usage.cpu_seconds / run.settings.seconds);
    verdicts.push(under("E2", "cores used by the service", cores, CORES));
    verdicts
}

fn latencies(run: &Run) -> Vec<Verdict> {
    LATENCIES.into_iter().map(|(call, bound)| p99(run, call, bound)).collect()
}

fn p99(run: &Run, call: &str, bound: f64) -> Verdict {
    let unknown = under("E2", &format!("{call} p99, ms"), None, bound);
    match run.calls.iter().find(|found| found.name == call) {
        Some(call) if call.due > 0 => {
            let found = p99_of_due(call).map(|micros| micros / 1_000.0);
            Verdict { found, held: Some(found.is_some_and(|found| found < bound)), ..unknown }
        }
        _ => unknown,
    }
}

/// The latency that 99 in 100 of the due calls stay below. Failed calls count as slower than all others: None if there
/// are too many.
fn p99_of_due(call: &Call) -> Option<f64> {
    let waited_for = call.calls + call.unanswered;
    if waited_for == call.due {
        return Some(call.latency.p99);
    }
    // Counts of calls: a f64 holds them.
    let share = 0.99 * call.due as f64 / waited_for as f64;
    call.latency.curve.iter().find(|(faster, _)| *faster >= share).map(|(_, micros)| *micros)
}

fn under(requirement: &str, what: &str, found: Option<f64>, bound: f64) -> Verdict {
    let held = found.map(|found| found < bound);
    Verdict { requirement: requirement.to_owned(), what: what.to_owned(), found, bound, at_least: false, held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Latency, sample};

    /// E2: a bound that is held says by how much, one that is broken says so.
    #[test]
    fn bounds_are_judged() {
        let verdict = under("E2", "GetBalance p99, ms", Some(0.5), 5.0);
        assert_eq!(verdict.to_string(), "E2  GetBalance p99, ms: 0.50, under 5: held, with a factor of 10.0 to spare");
        let verdict = under("E2", "GetBalance p99, ms", Some(5.0), 5.0);
        assert_eq!(verdict.to_string(), "E2  GetBalance p99, ms: 5.00, under 5: BROKEN");
        // E3: what is not told is neither held nor broken.
        assert_eq!(under("E3", "time", None, 10.0).held, None);
    }

    /// E2: the rate is what was answered within the time.
    #[test]
    fn a_rate_is_judged() {
        for (rate, held) in [(499.0, true), (480.0, false)] {
            let mut run = sample::run("open", "2026-11-26T06:00:00Z");
            (run.settings.rate, run.rate) = (Some(500.0), rate);
            let verdicts = verdicts(&run);
            let found = verdicts.iter().find(|verdict| verdict.at_least).expect("judged");
            assert_eq!(found.held, Some(held));
        }
    }

    /// E2: the bounds on latency hold under 100 concurrent calls, too. Fewer would prove nothing, more are not asked for.
    #[test]
    fn a_hundred_calls_at_once_are_judged() {
        let judged = |callers: u32, p99: f64| {
            let mut run = sample::run("mixed", "2026-11-26T06:00:00Z");
            run.settings.callers = callers;
            let mut call = run.calls.remove(0);
            call.latency.p99 = p99;
            run.calls = LATENCIES.map(|(name, _)| Call { name: name.to_owned(), ..call.clone() }).into();
            verdicts(&run).into_iter().map(|verdict| (verdict.what, verdict.held)).collect::<Vec<_>>()
        };
        let held = |of_each: [bool; 3]| {
            let named = LATENCIES.iter().zip(of_each);
            named.map(|((name, _), held)| (format!("{name} p99, ms"), Some(held))).collect::<Vec<_>>()
        };
        assert_eq!(judged(CALLS_AT_ONCE, 4_900.0), held([true, true, true]));
        assert_eq!(judged(CALLS_AT_ONCE, 20_000.0), held([false, false, true]));
        assert_eq!(judged(64, 4_900.0), []);
        assert_eq!(judged(200, 4_900.0), []);
    }

    /// E2: a service that answers nothing holds no bound; nor one that fails more than one call in a hundred.
    #[test]
    fn calls_that_fail_break_a_bound() {
        let judged = |due: u64, calls: u64, unanswered: u64| {
            let mut run = sample::run("create", "2026-11-26T06:00:00Z");
            run.settings.callers = CREATES_AT_ONCE;
            let call = &mut run.calls[0];
            call.name = "CreateAccount".to_owned();
            (call.due, call.calls, call.unanswered) = (due, calls, unanswered);
            if calls + unanswered == 0 {
                call.latency = Latency::default();
            }
            verdicts(&run).remove(0)
        };
        assert_eq!(judged(1_000, 1_000, 0).held, Some(true));
        // The thousandth that is slower than 4 ms is slower than the 999th by a little: still under 10 ms.
        assert_eq!(judged(1_000, 995, 0).held, Some(true));
        for (due, calls, unanswered) in [(1_000, 980, 0), (1_000, 500, 20), (1_000, 0, 0)] {
            let verdict = judged(due, calls, unanswered);
            assert_eq!((verdict.held, verdict.found), (Some(false), None), "{due} {calls} {unanswered}");
            assert!(verdict.to_string().ends_with("too many calls failed, under 10: BROKEN"), "{verdict}");
        }
        assert_eq!(judged(0, 0, 0).held, None);
    }

    /// E3: under 10 % of the time may be spent waiting, and a target that does not tell is not judged.
    #[test]
    fn waiting_is_judged() {
        for (share, held) in [(Some(0.099), Some(true)), (Some(0.1), Some(false)), (None, None)] {
            let mut run = sample::run("contended", "2026-11-26T06:00:00Z");
            match share {
                Some(share) => run.contention.as_mut().expect("told").waiting_share = share,
                None => run.contention = None,
            }
            let [verdict] = verdicts(&run).try_into().expect("one");
            assert_eq!((verdict.requirement.as_str(), verdict.held), ("E3", held));
        }
    }
}
