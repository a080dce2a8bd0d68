//! What a run says about the requirements on load.

use std::fmt;

use super::Run;

/// The most calls at once for which the bound on creates is meant.
const CREATES_AT_ONCE: u32 = 50;
/// The share of four cores that the service may use at E2's rate.
const CORES: f64 = 4.0 * 0.7;
/// The share of the asked rate that counts as sustained.
const SUSTAINED: f64 = 0.99;
/// The share of the time that may be spent on accounts which others hold.
const WAITING_SHARE: f64 = 0.1;

/// One bound, and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The requirement's number.
    pub requirement: &'static str,
    /// What is bounded, with its unit.
    pub what: String,
    /// What was found, and None where the target does not tell.
    pub found: Option<f64>,
    /// What it must stay under, or reach.
    pub bound: f64,
    /// Whether it must be at least the bound, not under it.
    pub at_least: bool,
}

impl Verdict {
    /// Whether the bound is held; None where it cannot be told.
    #[must_use]
    pub fn held(&self) -> Option<bool> {
        self.found.map(|found| if self.at_least { found >= self.bound } else { found < self.bound })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { requirement, what, found, bound, at_least } = self;
        let Some(found) = found else {
            return write!(f, "{requirement}  {what}: this target does not tell (bound {bound})");
        };
        let word = if *at_least { "at least" } else { "under" };
        write!(f, "{requirement}  {what}: {found:.2}, {word} {bound}: ")?;
        match self.held() {
            Some(true) if !at_least && *found > 0.0 => {
                write!(f, "held, with a factor of {:.1} to spare", bound / found)
            }
            Some(true) => f.write_str("held"),
            _ => f.write_str("BROKEN"),
        }
    }
}

/// What `run` says about E2 and E3; nothing where its workload is not the one that they are about.
#[must_use]
pub fn verdicts(run: &Run) -> Vec<Verdict> {
    match run.workload.as_str() {
        "open" => of_open(run),
        "create" if run.settings.callers <= CREATES_AT_ONCE => p99(run, "CreateAccount", 10.0).into_iter().collect(),
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
    let bounds = [("GetBalance", 5.0), ("UpdateBalance", 20.0), ("TransferFunds", 50.0)];
    let mut verdicts: Vec<_> = bounds.into_iter().filter_map(|(call, bound)| p99(run, call, bound)).collect();
    if let Some(rate) = run.settings.rate {
        verdicts.push(Verdict {
            requirement: "E2",
            what: format!("requests a second, of {rate} asked for"),
            found: Some(run.rate),
            bound: rate * SUSTAINED,
            at_least: true,
        });
    }
    let cores = run.usage.as_ref().map(|usage| usage.cpu_seconds / run.settings.seconds);
    verdicts.push(under("E2", "cores used by the service", cores, CORES));
    verdicts
}

fn p99(run: &Run, call: &str, bound: f64) -> Option<Verdict> {
    let found = run.calls.iter().find(|found| found.name == call)?;
    Some(under("E2", &format!("{call} p99, ms"), Some(found.latency.p99 / 1_000.0), bound))
}

fn under(requirement: &'static str, what: &str, found: Option<f64>, bound: f64) -> Verdict {
    Verdict { requirement, what: what.to_owned(), found, bound, at_least: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E2: a bound that is held says by how much, one that is broken says so.
    #[test]
    fn bounds_are_judged() {
        let verdict = under("E2", "GetBalance p99, ms", Some(0.5), 5.0);
        assert_eq!(verdict.to_string(), "E2  GetBalance p99, ms: 0.50, under 5: held, with a factor of 10.0 to spare");
        let verdict = Verdict { found: Some(5.0), ..verdict };
        assert_eq!(verdict.to_string(), "E2  GetBalance p99, ms: 5.00, under 5: BROKEN");
        let rate = Verdict { found: Some(499.0), bound: 495.0, at_least: true, ..verdict };
        assert_eq!((rate.held(), Verdict { found: Some(480.0), ..rate.clone() }.held()), (Some(true), Some(false)));
        // E3: what is not told is neither held nor broken.
        assert_eq!(Verdict { found: None, ..rate }.held(), None);
    }
}
