//! A plain seqlock an account: odd while a writer holds it, and everybody else spins. The accounts are fixed.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU64, fence};

use equipoise::{AccountId, AccountState, InvalidRequest, Kind, Refusal, Request};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::smallvec;

use super::locks::ShardedIds;
use super::{Answer, Bank, Held, Limits, Log, accounts_of, moved, only, update};

/// Spins before the thread gives way to whoever holds the word.
const SPINS: u32 = 128;

pub struct Seqlocks {
    places: HashMap<AccountId, usize, RandomState>,
    words: Vec<Word>,
    ids: ShardedIds,
    log: Mutex<Log>,
}

#[repr(align(64))]
struct Word {
    /// Odd while a writer is inside.
    word: AtomicU64,
    balance: AtomicI64,
    version: AtomicU64,
    sequence: AtomicU64,
}

fn rest(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(SPINS) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

impl Word {
    fn new(held: Held) -> Self {
        Word {
            word: AtomicU64::new(0),
            balance: AtomicI64::new(held.balance),
            version: AtomicU64::new(held.version),
            sequence: AtomicU64::new(held.sequence),
        }
    }

    fn held(&self) -> Held {
        Held {
            balance: self.balance.load(Relaxed),
            version: self.version.load(Relaxed),
            sequence: self.sequence.load(Relaxed),
        }
    }

    fn read(&self) -> Held {
        let mut spins = 0;
        loop {
            let before = self.word.load(Acquire);
            if before.is_multiple_of(2) {
                let held = self.held();
                // Pairs with the fence in acquire(): a field of a later writer shows its odd word below.
                fence(Acquire);
                if self.word.load(Relaxed) == before {
                    return held;
                }
            }
            rest(&mut spins);
        }
    }

    fn acquire(&self) {
        let mut spins = 0;
        loop {
            let word = self.word.load(Relaxed);
            if word.is_multiple_of(2) && self.word.compare_exchange_weak(word, word + 1, Acquire, Relaxed).is_ok() {
                fence(Release);
                return;
            }
            rest(&mut spins);
        }
    }

    fn set(&self, balance: i64, sequence: u64) -> Held {
        self.balance.store(balance, Relaxed);
        self.version.store(self.version.load(Relaxed) + 1, Relaxed);
        self.sequence.store(sequence, Relaxed);
        self.held()
    }

    fn release(&self) {
        self.word.store(self.word.load(Relaxed) + 1, Release);
    }
}

impl Bank for Seqlocks {
    const NAME: &'static str = "plain seqlocks";

    fn build(accounts: &[AccountId], initial: i64, limits: Limits) -> Self {
        Seqlocks {
            places: accounts.iter().cloned().zip(0..).collect(),
            words: (1..).take(accounts.len()).map(|sequence| Word::new(Held::opened(initial, sequence))).collect(),
            ids: ShardedIds::new(limits.ids),
            log: Mutex::new(Log::new(accounts.len() as u64, limits.log)),
        }
    }

    fn read(&self, account: &AccountId) -> Option<AccountState> {
        self.places.get(account).map(|place| self.words[*place].read().state(account))
    }

    #[inline]
    fn submit(&self, make: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest> {
        let request = make();
        let mut ids = self.ids.lock(&request);
        if let Some(known) = ids.get(&request) {
            return known.replay(&request);
        }
        let (first, second) = accounts_of(&only(&request).operation);
        let place = |account| self.places.get(account).map(|place| &self.words[*place]);
        let (first_word, second_word) = (place(first), second.and_then(place));
        let order = if second.is_none_or(|second| first < second) {
            [first_word, second_word]
        } else {
            [second_word, first_word]
        };
        order.iter().flatten().for_each(|word| word.acquire());
        let (entry, dropped) = self.log.lock().append(request, |sequence, operation| match operation.kind() {
            Kind::Transfer { from, to, amount } => {
                let held = [first_word, second_word].map(|word| word.map(|word| word.held().balance));
                let after = moved(from, to, held, *amount)?;
                let (Some(source), Some(target)) = (first_word, second_word) else {
                    unreachable!("both hold something")
                };
                let (source, target) = (source.set(after[0], sequence), target.set(after[1], sequence));
                Ok(smallvec![source.state(from), target.state(to)])
            }
            Kind::Update { account: id, delta } => {
                let account =
                    first_word.map(|word| (word.held().balance, move |balance| word.set(balance, sequence).state(id)));
                update(id, account, *delta)
            }
            _ => Err(Refusal::Group { index: 0 }),
        });
        order.iter().flatten().for_each(|word| word.release());
        let forgotten = ids.insert(&entry);
        drop(ids);
        let answer = entry.answer(false);
        drop((dropped, forgotten));
        Ok(answer)
    }

    fn snapshot(&self) -> (usize, i128) {
        // As with locks: all words at once, in id order.
        let mut order: Vec<_> = self.places.iter().map(|(id, place)| (id, &self.words[*place])).collect();
        order.sort_unstable_by_key(|(id, _)| *id);
        order.iter().for_each(|(_, word)| word.acquire());
        let copy: Vec<_> = order.iter().map(|(id, word)| word.held().state(id)).collect();
        order.iter().for_each(|(_, word)| word.release());
        (copy.len(), copy.iter().map(|state| i128::from(state.balance)).sum())
    }
}
