//! Whether a ledger holds what it must after a run: the total, every account's version, and the journal against a
//! snapshot.

use super::Check;
use super::names::Names;
use super::tally::Tally;

/// How many faults are told one by one.
const MOST_TOLD: usize = 20;

/// What the run did, as its callers know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Accounts that were opened before it, and with how much each.
    pub(super) accounts: u32,
    pub(super) initial: i64,
    pub(super) tally: Tally,
}

/// The run's accounts at one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) sequence: u64,
    /// By number.
    pub(super) accounts: Vec<Option<State>>,
}

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) balance: i64,
    pub(super) version: u64,
}

/// An account's part of an entry of the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg<'a> {
    pub(super) account: &'a [u8],
    pub(super) delta: i64,
    pub(super) after: State,
}

/// Follows a journal, and compares.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    names: &'a Names,
    /// From the run's first entry on: then every account's first entry must open it.
    whole: bool,
    last: Option<u64>,
    replayed: Vec<Option<State>>,
    /// Entries that touch accounts of the run.
    ours: u64,
    found: Found,
}

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Total,
    Versions,
    Journal,
}

#[derive(Debug)]
struct Found {
    check: Check,
    more: u64,
}

impl Found {
    fn add(&mut self, part: Part, text: String) {
        match part {
            Part::Total => self.check.total = Some(false),
            Part::Versions => self.check.versions = Some(false),
            Part::Journal => self.check.journal = Some(false),
        }
        if self.check.faults.len() < MOST_TOLD {
            self.check.faults.push(text);
        } else {
            self.more += 1;
        }
    }
}

impl Shown {
    pub(super) fn put(&mut self, number: u32, state: State) {
        put(&mut self.accounts, number, state);
    }
}

fn put(accounts: &mut Vec<Option<State>>, number: u32, state: State) {
    let place = number as usize;
    if accounts.len() <= place {
        accounts.resize(place + 1, None);
    }
    accounts[place] = Some(state);
}

impl<'a> Checker<'a> {
    /// For a journal that is read from the run's first entry on (`whole`), or from a later one.
    pub(super) fn new(names: &'a Names, whole: bool) -> Self {
        let [total, versions, journal] = [Some(true); 3];
        let check = Check { total, versions, journal, faults: Vec::new(), notes: Vec::new() };
        let found = Found { check, more: 0 };
        Checker { names, whole, last: None, replayed: Vec::new(), ours: 0, found }
    }

    /// The next entry, or the next member of one.
    pub(super) fn entry<'l>(&mut self, sequence: u64, accepted: bool, legs: impl Iterator<Item = Leg<'l>>) {
        if let Some(last) = self.last
            && sequence != last
            && sequence != last + 1
        {
            self.found.add(Part::Journal, format!("the journal goes from sequence {last} to {sequence}"));
        }
        self.last = Some(sequence);
        let mut ours = false;
        for leg in legs {
            let Some(number) = self.names.number(leg.account) else { continue };
            ours = true;
            if accepted {
                self.leg(sequence, number, &leg);
            }
        }
        self.ours += u64::from(ours);
    }

    fn leg(&mut self, sequence: u64, number: u32, leg: &Leg<'_>) {
        let before = match self.replayed.get(number as usize).copied().flatten() {
            Some(state) => Some(state),
            // Opened by this entry, or before the journal that is kept.
            None if self.whole || leg.after.version == 1 => Some(State { balance: 0, version: 0 }),
            None => None,
        };
        if let Some(before) = before {
            let name = || String::from_utf8_lossy(leg.account).into_owned();
            let State { balance, version } = leg.after;
            if version != before.version + 1 {
                let text =
                    format!("{} at sequence {sequence}: version {} is followed by {version}", name(), before.version);
                self.found.add(Part::Versions, text);
            }
            if i128::from(balance) != i128::from(before.balance) + i128::from(leg.delta) {
                let text = format!(
                    "{} at sequence {sequence}: {} and {} are not {balance}",
                    name(),
                    before.balance,
                    leg.delta
                );
                self.found.add(Part::Journal, text);
            }
        }
        put(&mut self.replayed, number, leg.after);
    }

    /// Compares with what a snapshot shows, and both with what the callers know. The journal must have been followed up
    /// to the snapshot's sequence.
    pub(super) fn finish(mut self, shown: &Shown, expected: &Expected, read: bool) -> Check {
        self.sums(shown, expected);
        if read {
            self.against(shown);
        } else {
            self.found.check.journal = None;
        }
        if read && self.whole {
            let tally = &expected.tally;
            let least = u64::from(expected.accounts) + tally.decided;
            let most = least + tally.unknown.operations;
            if !(least..=most).contains(&self.ours) {
                let text =
                    format!("the journal has {} entries of this run, {} were decided", self.ours, range(least, most));
                self.found.add(Part::Journal, text);
            }
        }
        if self.found.more > 0 {
            self.found.check.faults.push(format!("and {} more", self.found.more));
        }
        self.found.check
    }

    /// Checks the sums, which needs no journal: an operation that was lost or done twice changes one of them.
    fn sums(&mut self, shown: &Shown, expected: &Expected) {
        let Expected { accounts, initial, tally } = expected;
        let states = || shown.accounts.iter().flatten();
        let total: i128 = states().map(|state| i128::from(state.balance)).sum();
        let opened = i128::from(*accounts) * i128::from(*initial) + tally.added;
        let (least, most) = (opened + tally.unknown.less, opened + tally.unknown.more);
        if !(least..=most).contains(&total) {
            self.found.add(Part::Total, format!("the balances add up to {total}, not to {}", range(least, most)));
        }
        let versions: u64 = states().map(|state| state.version).sum();
        let least = u64::from(*accounts) + tally.changes;
        let most = least + tally.unknown.changes;
        if !(least..=most).contains(&versions) {
            let text = format!("the versions add up to {versions}, {} changes were accepted", range(least, most));
            self.found.add(Part::Versions, text);
        }
        let least = u64::from(*accounts) + tally.opened;
        let most = least + tally.unknown.opened;
        let count = states().count() as u64;
        if !(least..=most).contains(&count) {
            let text = format!("there are {count} accounts, {} were opened", range(least, most));
            self.found.add(Part::Total, text);
        }
        let below = shown.accounts.iter().zip(0..).filter_map(|(state, number)| Some((state.as_ref()?, number)));
        for (state, number) in below.filter(|(state, _)| state.balance < 0) {
            let text = format!("account {number} of this run is at {}", state.balance);
            self.found.add(Part::Total, text);
        }
    }

    /// Every account that the journal changed is as its newest entry left it.
    fn against(&mut self, shown: &Shown) {
        if let Some(last) = self.last
            && last != shown.sequence
        {
            let text = format!("the journal ends at sequence {last}, the snapshot is at {}", shown.sequence);
            self.found.add(Part::Journal, text);
        }
        let length = shown.accounts.len().max(self.replayed.len());
        for number in 0..length {
            let [shown, replayed] = [&shown.accounts, &self.replayed].map(|all| all.get(number).copied().flatten());
            let text = |what: &str| format!("account {number} of this run is {shown:?} in the snapshot, {what}");
            match (shown, replayed) {
                (Some(shown), Some(replayed)) if shown == replayed => {}
                (_, None) if !self.whole => {}
                (None, None) => {}
                (shown, Some(replayed)) => {
                    let versions = shown.is_none_or(|shown| shown.version != replayed.version);
                    let text = text(&format!("{replayed:?} after its newest entry"));
                    self.found.add(if versions { Part::Versions } else { Part::Journal }, text);
                }
                (Some(_), None) => self.found.add(Part::Journal, text("and no entry opened it")),
            }
        }
    }
}

fn range<T: PartialEq + std::fmt::Display>(least: T, most: T) -> String {
    if least == most { least.to_string() } else { format!("{least} to {most}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tally::{Effect, Unknown};

    /// An entry: its sequence, whether it was accepted, and for each leg the account, the delta, the balance and the
    /// version.
    type Row = (u64, bool, Vec<(u32, i64, i64, u64)>);

    fn good() -> (Vec<Row>, Shown, Expected) {
        let journal = vec![
            (11, true, vec![(0, 100, 100, 1)]),
            (12, true, vec![(1, 100, 100, 1)]),
            (13, true, vec![(0, -30, 70, 2), (1, 30, 130, 2)]),
            (14, false, vec![(0, -500, 70, 2)]),
            (15, true, vec![(1, 5, 135, 3)]),
            (16, true, vec![(0, -1, 69, 3), (1, 1, 136, 4)]),
        ];
        let mut shown = Shown { sequence: 16, ..Shown::default() };
        shown.put(0, State { balance: 69, version: 3 });
        shown.put(1, State { balance: 136, version: 4 });
        let mut tally = Tally::default();
        let update = |delta| Effect { changes: 1, opened: false, delta };
        for (effect, refused) in [(Effect::TRANSFER, 0), (update(-500), 1), (update(5), 0), (Effect::TRANSFER, 0)] {
            tally.begun(effect, 1);
            tally.decided(effect, 1, refused);
        }
        (journal, shown, Expected { accounts: 2, initial: 100, tally })
    }

    fn check(journal: &[Row], shown: &Shown, expected: &Expected, whole: bool) -> Check {
        let names = Names::new(2).expect("names");
        let mut checker = Checker::new(&names, whole);
        for (sequence, accepted, legs) in journal {
            let ids: Vec<_> = legs.iter().map(|leg| names.account_id(leg.0).expect("an id")).collect();
            let legs = legs.iter().zip(&ids).map(|(&(_, delta, balance, version), id)| Leg {
                account: id.as_str().as_bytes(),
                delta,
                after: State { balance, version },
            });
            checker.entry(*sequence, *accepted, legs);
        }
        checker.finish(shown, expected, true)
    }

    /// C3: what is right is found right, whole or from a later entry on.
    #[test]
    fn a_sound_ledger_has_no_faults() {
        let (journal, shown, expected) = good();
        for from in [0, 2, 4] {
            let check = check(&journal[from..], &shown, &expected, from == 0);
            assert!(check.holds(), "{check:?}");
        }
    }

    /// C1, C3: an entry that is lost, also where the sequences were closed up over it.
    #[test]
    fn a_lost_entry_is_found() {
        let (journal, shown, expected) = good();
        let mut gap = journal.clone();
        gap.remove(4);
        let found = check(&gap, &shown, &expected, false);
        assert!(found.journal == Some(false) && found.faults[0].contains("from sequence 14 to 16"), "{found:?}");
        let mut closed_up = gap;
        closed_up[4].0 = 15;
        let found = check(&closed_up, &Shown { sequence: 15, ..shown }, &expected, true);
        assert!(
            found.versions == Some(false) && found.journal == Some(false) && found.total == Some(true),
            "{found:?}"
        );
    }

    /// C1: a refusal that left no entry changes no balance, and is missed all the same.
    #[test]
    fn a_lost_refusal_is_found() {
        let (mut journal, mut shown, expected) = good();
        journal.remove(3);
        for (row, sequence) in journal.iter_mut().zip(11..) {
            row.0 = sequence;
        }
        shown.sequence = 15;
        let found = check(&journal, &shown, &expected, true);
        assert_eq!(found.faults, ["the journal has 5 entries of this run, 6 were decided"]);
    }

    /// A5, A10: a lost update, a total that is off, a version that is skipped.
    #[test]
    fn what_does_not_add_up_is_found() {
        let (journal, shown, expected) = good();
        let mut wrong = shown.clone();
        wrong.put(1, State { balance: 137, version: 4 });
        let found = check(&journal, &wrong, &expected, true);
        assert!(
            found.total == Some(false) && found.journal == Some(false) && found.versions == Some(true),
            "{found:?}"
        );
        let mut wrong = shown.clone();
        wrong.put(0, State { balance: 69, version: 4 });
        let found = check(&journal, &wrong, &expected, false);
        assert!(found.versions == Some(false) && found.total == Some(true), "{found:?}");
        let mut wrong = journal.clone();
        wrong[4].2[0] = (1, 5, 135, 4);
        assert!(check(&wrong, &shown, &expected, true).versions == Some(false));
        let mut wrong = journal.clone();
        wrong[2].2[0] = (0, -30, 71, 2);
        assert!(check(&wrong, &shown, &expected, true).journal == Some(false));
        assert!(check(&journal[..5], &shown, &expected, false).journal == Some(false));
        let found = check(&journal[1..], &shown, &expected, true);
        assert!(found.versions == Some(false) && found.journal == Some(false), "{found:?}");
    }

    /// B1: one transfer that was done twice, everywhere alike: nothing but the count of what was asked for tells.
    #[test]
    fn a_doubled_transfer_is_found() {
        let (mut journal, mut shown, expected) = good();
        journal.push((17, true, vec![(0, -1, 68, 4), (1, 1, 137, 5)]));
        shown.sequence = 17;
        shown.put(0, State { balance: 68, version: 4 });
        shown.put(1, State { balance: 137, version: 5 });
        for whole in [true, false] {
            let found = check(&journal, &shown, &expected, whole);
            assert!(found.versions == Some(false) && found.total == Some(true), "{found:?}");
            assert_eq!(found.journal, Some(!whole));
        }
    }

    /// A call that nobody answered may have been done or not: neither is a fault, anything else is.
    #[test]
    fn what_nobody_answered_may_be_there() {
        let (journal, shown, mut expected) = good();
        expected.tally.decided -= 1;
        expected.tally.changes -= 1;
        expected.tally.added -= 5;
        assert!(!check(&journal, &shown, &expected, true).holds());
        expected.tally.unknown = Unknown { operations: 1, changes: 1, opened: 0, less: 0, more: 5 };
        assert!(check(&journal, &shown, &expected, true).holds());
    }

    #[test]
    fn many_faults_are_counted() {
        let (_, shown, expected) = good();
        let journal: Vec<Row> = (0..100).map(|row| (row * 3, true, vec![])).collect();
        let found = check(&journal, &shown, &expected, false);
        assert_eq!(found.faults.len(), MOST_TOLD + 1);
        assert_eq!(found.faults.last().map(String::as_str), Some("and 80 more"));
    }
}
