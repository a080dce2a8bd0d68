//! What the callers do, drawn before the run, in which a choice is only a table look-up.

use std::sync::Arc;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Error;
use super::workload::{Kind, Mix};

/// How many steps are drawn. Each caller goes round all of them, from a place of its own.
const STEPS: usize = 1 << 18;

/// One operation, without its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// A transfer's amount, or an update's delta.
    pub(super) amount: i16,
    /// The account's number; a transfer's source.
    pub(super) account: u32,
    /// A transfer's destination, which is another account.
    pub(super) to: u32,
}

/// The table; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Choices(Arc<[Step]>);

impl Choices {
    /// Draws from `mix` over `accounts` accounts: the same for the same seed.
    pub(super) fn draw(mix: &Mix, accounts: u32, seed: u64) -> Result<Self, Error> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let kinds: Vec<Kind> =
            mix.shares.iter().flat_map(|(kind, share)| std::iter::repeat_n(*kind, *share as usize)).collect();
        let mut spread = Spread::new(mix.zipf, accounts, &mut random)?;
        let steps = (0..STEPS).map(|_| {
            let kind = kinds[random.random_range(0..kinds.len())];
            let (account, to) = match kind {
                Kind::Create => (0, 0),
                Kind::Read | Kind::Update => (spread.one(&mut random), 0),
                Kind::Transfer => spread.two(&mut random),
            };
            let amount = match kind {
                Kind::Update => {
                    let size = random.random_range(1..=mix.most);
                    if random.next_u32().is_multiple_of(2) { size } else { -size }
                }
                _ => random.random_range(1..=mix.most),
            };
            Step { kind, amount, account, to }
        });
        Ok(Choices(steps.collect()))
    }

    /// The steps of `caller`, without end.
    pub(super) fn of_caller(&self, caller: u32) -> Steps {
        // Far from its neighbours', and odd: no two of up to as many callers as there are steps begin alike.
        let next = (caller as usize).wrapping_mul(0x9_e377) % STEPS;
        Steps { choices: self.clone(), next }
    }
}

/// A caller's place in the table.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    choices: Choices,
    next: usize,
}

impl Steps {
    #[inline]
    pub(super) fn next(&mut self) -> Step {
        let step = self.choices.0[self.next];
        self.next = (self.next + 1) % STEPS;
        step
    }
}

/// Which accounts are touched how often.
enum Spread {
    Uniform(u32),
    /// The account of each rank: neighbours in the ledger are not neighbours in rank.
    Zipf(Zipf<f64>, Vec<u32>),
}

impl Spread {
    fn new(zipf: Option<f64>, accounts: u32, random: &mut Xoshiro256PlusPlus) -> Result<Self, Error> {
        let Some(exponent) = zipf else { return Ok(Spread::Uniform(accounts)) };
        let zipf = Zipf::new(f64::from(accounts), exponent)
            .map_err(|error| Error::Other(format!("no distribution over {accounts} accounts: {error}")))?;
        let mut ranks: Vec<u32> = (0..accounts).collect();
        ranks.shuffle(random);
        Ok(Spread::Zipf(zipf, ranks))
    }

    fn one(&mut self, random: &mut Xoshiro256PlusPlus) -> u32 {
        match self {
            Spread::Uniform(accounts) => random.random_range(0..*accounts),
            // A rank is a whole number from 1 to the count.
            Spread::Zipf(zipf, ranks) => ranks[(zipf.sample(random) as usize - 1).min(ranks.len() - 1)],
        }
    }

    fn two(&mut self, random: &mut Xoshiro256PlusPlus) -> (u32, u32) {
        let first = self.one(random);
        loop {
            let second = self.one(random);
            if second != first {
                return (first, second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workload;

    fn table(workload: Workload, seed: u64) -> Vec<Step> {
        let accounts = workload.defaults(false).accounts;
        Choices::draw(&workload.mix(), accounts, seed).expect("a table").0.to_vec()
    }

    #[test]
    fn a_seed_says_everything() {
        assert_eq!(table(Workload::Zipf, 3), table(Workload::Zipf, 3));
        assert_ne!(table(Workload::Zipf, 3), table(Workload::Zipf, 4));
    }

    #[test]
    fn kinds_come_as_often_as_they_should() {
        let steps = table(Workload::Mixed, 1);
        let share = |kind| steps.iter().filter(|step| step.kind == kind).count() as f64 / steps.len() as f64;
        for (kind, expected) in [(Kind::Read, 0.5), (Kind::Update, 0.3), (Kind::Transfer, 0.2), (Kind::Create, 0.0)] {
            assert!((share(kind) - expected).abs() < 0.01, "{kind:?}: {}", share(kind));
        }
        let added: i64 = steps.iter().filter(|step| step.kind == Kind::Update).map(|step| i64::from(step.amount)).sum();
        assert!(added.abs() < 2_000, "{added}");
    }

    /// The first of 100,000 ranks with exponent 1.5 has 1 / zeta(1.5) of all draws, 38 %.
    #[test]
    fn zipf_is_skewed_as_it_should_be() {
        let share_of_first = |workload| {
            let mut counts = vec![0_u32; 100_000];
            let steps = table(workload, 1);
            steps.iter().for_each(|step| counts[step.account as usize] += 1);
            f64::from(counts.into_iter().max().unwrap_or_default()) / steps.len() as f64
        };
        assert!((share_of_first(Workload::Zipf) - 0.38).abs() < 0.02, "{}", share_of_first(Workload::Zipf));
        assert!(share_of_first(Workload::Uniform) < 0.001);
        assert!(table(Workload::Zipf, 1).iter().all(|step| step.account != step.to));
    }

    #[test]
    fn callers_begin_at_places_of_their_own() {
        let choices = Choices::draw(&Workload::Hot.mix(), 10, 1).expect("a table");
        let begins: std::collections::BTreeSet<_> = (0..10_000).map(|caller| choices.of_caller(caller).next).collect();
        assert_eq!(begins.len(), 10_000);
        let mut last = choices.of_caller(0);
        last.next = STEPS - 1;
        last.next();
        assert_eq!(last.next(), choices.0[0]);
    }
}
