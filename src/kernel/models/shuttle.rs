//! Random and PCT schedules of whole workloads. `EQUIPOISE_SHUTTLE_ITERATIONS` schedules each (default 2,000).

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::super::transaction::Gate;
use super::super::{Consumer, Handle, Kernel, Leg, Owned, Plan, pin};
use super::World;

fn iterations() -> usize {
    std::env::var("EQUIPOISE_SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

fn check(body: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(body, iterations());
    shuttle::check_pct(body, iterations(), 3);
}

/// A world whose journal the model reads: what was committed, in order, is the truth.
struct Journaled {
    world: std::sync::Arc<World>,
    consumer: Mutex<Consumer<i64>>,
    taken: Mutex<Vec<Handle<i64>>>,
}

impl Journaled {
    fn new(balances: &[i64]) -> Arc<Self> {
        let (kernel, consumer) = Kernel::with_consumer(0, 0);
        let world = World::over(kernel, balances);
        let journaled = Journaled { world, consumer: Mutex::new(consumer), taken: Mutex::new(Vec::new()) };
        journaled.flush();
        Arc::new(journaled)
    }

    fn flush(&self) {
        let guard = pin();
        let through = self.world.kernel.begin_flush(&guard);
        self.consumer.lock().unwrap().take(&self.world.kernel, through, &mut self.taken.lock().unwrap(), &guard);
        thread::yield_now();
        self.world.kernel.end_flush(through);
    }

    /// What every account held at sequence `at`, replayed from the journal; no prefix below the floor.
    fn replay(&self, at: u64) -> Vec<i64> {
        let mut balances = vec![0; self.world.accounts.len()];
        for entry in self.taken.lock().unwrap().iter() {
            let decision = entry.decision().unwrap();
            if decision.sequence > at || decision.refusal.is_some() {
                continue;
            }
            for leg in decision.legs {
                let account = *leg.account().key() as usize;
                balances[account] += leg.ops()[0].1;
                assert!(balances[account] >= 0, "a prefix of the journal is below the floor");
            }
        }
        balances
    }

    /// What was seen of each account at a sequence is what the journal's prefix makes it.
    fn check_reads(&self, seen: &[(usize, u64, i64)]) {
        self.flush();
        for (account, at, balance) in seen {
            assert_eq!(self.replay(*at)[*account], *balance, "account {account} at {at} differs from the journal");
        }
    }

    fn check_dense(&self) {
        let taken = self.taken.lock().unwrap();
        for (entry, sequence) in taken.iter().zip(1..) {
            assert_eq!(entry.decision().unwrap().sequence, sequence, "dense");
        }
    }
}

fn random_transfer(accounts: usize) -> [(usize, i64); 2] {
    let mut random = thread_rng();
    let from = random.gen_range(0..accounts);
    let to = (from + 1 + random.gen_range(0..accounts - 1)) % accounts;
    let amount = random.gen_range(1..5);
    [(from, -amount), (to, amount)]
}

/// Writers, and readers that take snapshots: A9, A10, A11 on random schedules.
fn bank(accounts: usize, writers: usize, transfers: usize, readers: usize) {
    let world = World::new(&vec![5; accounts]);
    let opened = world.kernel.now(&pin());
    let mut threads = Vec::new();
    for _ in 0..writers {
        let world = world.clone();
        threads.push(thread::spawn(move || {
            for _ in 0..transfers {
                let deltas = random_transfer(accounts);
                let outcome = world.apply(&deltas);
                let guard = pin();
                let read = world.accounts[deltas[0].0].read(&guard).0;
                assert!(!outcome.accepted || read >= outcome.sequence, "read your writes");
                assert!(world.kernel.now(&guard) >= outcome.sequence);
            }
        }));
    }
    for _ in 0..readers {
        let world = world.clone();
        threads.push(thread::spawn(move || {
            let guard = pin();
            let mut last = 0;
            for _ in 0..3 {
                let seen = world.accounts[thread_rng().gen_range(0..accounts)].read(&guard).0;
                let snapshot = world.kernel.open_snapshot(&guard).unwrap();
                assert!(snapshot.sequence >= last && snapshot.sequence >= seen, "a snapshot went back");
                last = snapshot.sequence;
                let read = |account: &super::super::Account<i64>| {
                    account.read_at(snapshot.sequence, &guard).expect("a needed version was trimmed").1
                };
                let total: i64 = world.accounts.iter().map(read).sum();
                assert_eq!(total, 5 * accounts as i64, "a torn snapshot");
                world.kernel.close_snapshot(snapshot);
            }
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let guard = pin();
    assert_eq!(world.kernel.now(&guard), opened + (writers * transfers) as u64, "one entry a transaction");
    assert_eq!(world.accounts.iter().map(|account| account.read(&guard).1).sum::<i64>(), 5 * accounts as i64);
    for account in 0..accounts {
        world.apply(&[(account, 1)]);
        assert_eq!(world.accounts[account].depth(&guard), 0, "closed snapshots keep nothing");
    }
}

/// A9, A10, A11: writers whose transfers go in groups, a flusher, and readers of snapshots: what they saw is a prefix
/// of the journal.
fn grouped_bank(accounts: usize, groups: usize, size: usize) {
    let journaled = Journaled::new(&vec![5; accounts]);
    let mut threads = Vec::new();
    for _ in 0..2 {
        let journaled = journaled.clone();
        threads.push(thread::spawn(move || {
            for _ in 0..groups {
                let transfers: Vec<_> = (0..size).map(|_| random_transfer(accounts)).collect();
                let transfers: Vec<&[(usize, i64)]> = transfers.iter().map(|transfer| &transfer[..]).collect();
                let outcomes = journaled.world.apply_group(&transfers);
                let last = outcomes.last().unwrap().sequence;
                assert!(journaled.world.kernel.now(&pin()) >= last, "decided and not on the clock");
            }
        }));
    }
    let flusher = journaled.clone();
    threads.push(thread::spawn(move || (0..2).for_each(|_| flusher.flush())));
    let reader = journaled.clone();
    let reader = thread::spawn(move || {
        let (guard, mut seen) = (pin(), Vec::new());
        for _ in 0..2 {
            let snapshot = reader.world.kernel.open_snapshot(&guard).unwrap();
            for (index, account) in reader.world.accounts.iter().enumerate() {
                let read = account.read_at(snapshot.sequence, &guard).expect("a needed version was trimmed");
                seen.push((index, snapshot.sequence, read.1));
            }
            reader.world.kernel.close_snapshot(snapshot);
        }
        seen
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let seen = reader.join().unwrap();
    journaled.check_reads(&seen);
    journaled.check_dense();
    let sum = seen.iter().take(accounts).map(|(_, _, balance)| balance).sum::<i64>();
    assert_eq!(sum, 5 * accounts as i64, "a torn snapshot");
}

#[test]
fn a_bank_of_groups() {
    check(|| grouped_bank(4, 2, 3));
}

#[test]
fn a_bank_of_groups_that_collide() {
    check(|| grouped_bank(2, 1, 3));
}

/// A8: two groups in opposite orders and one who is alone, without a consumer: all are applied, each once, each group
/// in its order.
#[test]
fn groups_in_opposite_orders() {
    check(|| {
        let world = World::new(&[5; 4]);
        let opened = world.kernel.now(&pin());
        let mut threads = Vec::new();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
            let world = world.clone();
            threads.push(thread::spawn(move || {
                let single = order.map(|account| [(account, -1)]);
                let group: Vec<&[(usize, i64)]> = single.iter().map(|deltas| &deltas[..]).collect();
                assert!(world.apply_group(&group).iter().all(|outcome| outcome.accepted));
            }));
        }
        let alone = world.clone();
        threads.push(thread::spawn(move || {
            let outcome = alone.apply(&[(1, -1), (2, 1)]);
            let guard = pin();
            assert!(alone.kernel.now(&guard) >= outcome.sequence);
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        let guard = pin();
        assert_eq!(world.kernel.now(&guard), opened + 9, "one entry a transaction");
        assert_eq!([0, 1, 2, 3].map(|account| world.balance(account)), [3, 2, 4, 3]);
        assert!(world.accounts.iter().all(|account| !account.asks_transaction(&guard)));
    });
}

#[test]
fn a_small_bank() {
    check(|| bank(3, 3, 3, 2));
}

#[test]
fn a_hot_bank() {
    check(|| bank(2, 4, 3, 1));
}

#[test]
fn a_bank_of_disjoint_accounts() {
    check(|| bank(5, 3, 2, 2));
}

/// A11: durable reads equal the journal's prefix, with an older snapshot open, while flushes come and go.
fn durable_reads(held_open: bool) {
    let journaled = Journaled::new(&[20, 20]);
    let held = held_open.then(|| journaled.world.kernel.open_snapshot(&pin()).unwrap());
    let mut threads = Vec::new();
    for _ in 0..2 {
        let journaled = journaled.clone();
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                journaled.world.apply(&random_transfer(2));
            }
        }));
    }
    let flusher = journaled.clone();
    threads.push(thread::spawn(move || (0..4).for_each(|_| flusher.flush())));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let journaled = journaled.clone();
        readers.push(thread::spawn(move || {
            let guard = pin();
            let mut seen = Vec::new();
            for _ in 0..3 {
                let account = thread_rng().gen_range(0..2);
                let durable = journaled.world.kernel.durable();
                if let Ok((_, balance)) = journaled.world.accounts[account].read_at(durable, &guard) {
                    seen.push((account, durable, balance));
                }
                let read = journaled.world.kernel.read_durable(&journaled.world.accounts[account], &guard);
                assert!(read.0 <= journaled.world.kernel.durable(), "a durable read ran ahead");
            }
            seen
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let seen: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
    journaled.check_reads(&seen);
    journaled.check_dense();
    held.into_iter().for_each(|held| journaled.world.kernel.close_snapshot(held));
}

#[test]
fn durable_reads_equal_the_journal() {
    check(|| durable_reads(false));
}

#[test]
fn durable_reads_equal_the_journal_beside_an_old_snapshot() {
    check(|| durable_reads(true));
}

/// The narrow one: deposit and flush by turns, an old snapshot below, one durable reader.
#[test]
fn a_durable_reader_over_a_gap() {
    check(|| {
        let journaled = Journaled::new(&[100]);
        let held = journaled.world.kernel.open_snapshot(&pin()).unwrap();
        let writer = journaled.clone();
        let writer = thread::spawn(move || {
            for _ in 0..5 {
                writer.world.apply(&[(0, 10)]);
                writer.flush();
            }
        });
        let guard = pin();
        let durable = journaled.world.kernel.durable();
        if let Ok((_, balance)) = journaled.world.accounts[0].read_at(durable, &guard) {
            assert_eq!(balance, 100 + 10 * (durable as i64 - 1), "stale at {durable}");
        }
        writer.join().unwrap();
        journaled.world.kernel.close_snapshot(held);
    });
}

/// Snapshots at D and at the newest, a janitor, a flusher and a refusal, all at once: A10.
#[test]
fn snapshots_beside_a_janitor_and_a_flusher() {
    check(|| {
        let journaled = Journaled::new(&[50, 50]);
        let mut threads = Vec::new();
        let writer = journaled.clone();
        threads.push(thread::spawn(move || {
            for round in 0..6 {
                let (from, to) = if round % 3 == 0 { (1, 0) } else { (0, 1) };
                let amount = if round == 4 { 99 } else { 2 };
                writer.world.apply(&[(from, -amount), (to, amount)]);
                if round % 2 == 1 {
                    writer.flush();
                }
            }
        }));
        let janitor = journaled.clone();
        threads.push(thread::spawn(move || {
            for round in 0..6 {
                janitor.world.kernel.trim(&janitor.world.accounts[round % 2], &pin());
            }
        }));
        let mut readers = Vec::new();
        for durable in [true, false] {
            let journaled = journaled.clone();
            readers.push(thread::spawn(move || {
                let kernel = &journaled.world.kernel;
                let guard = pin();
                let mut seen = Vec::new();
                for _ in 0..2 {
                    let snapshot =
                        if durable { kernel.open_durable_snapshot() } else { kernel.open_snapshot(&guard) }.unwrap();
                    for (index, account) in journaled.world.accounts.iter().enumerate() {
                        let read = account.read_at(snapshot.sequence, &guard).expect("a needed version was trimmed");
                        seen.push((index, snapshot.sequence, read.1));
                    }
                    kernel.close_snapshot(snapshot);
                }
                seen
            }));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let seen: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        journaled.check_reads(&seen);
    });
}

/// A snapshot opened at D while a whole flush passes between a writer's look at the bits and at the slots.
#[test]
fn a_durable_snapshot_opened_while_a_flush_passes() {
    check(|| {
        let journaled = Journaled::new(&[100]);
        let writer = journaled.clone();
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                writer.world.apply(&[(0, 1)]);
            }
        });
        let flusher = journaled.clone();
        let flusher = thread::spawn(move || (0..2).for_each(|_| flusher.flush()));
        let guard = pin();
        let snapshot = journaled.world.kernel.open_durable_snapshot().unwrap();
        let first = journaled.world.accounts[0].read_at(snapshot.sequence, &guard).expect("trimmed").1;
        writer.join().unwrap();
        flusher.join().unwrap();
        let again = journaled.world.accounts[0].read_at(snapshot.sequence, &guard).expect("trimmed").1;
        assert_eq!(first, again, "a snapshot moved");
        assert_eq!(first, 100 + snapshot.sequence as i64 - 1);
        journaled.world.kernel.close_snapshot(snapshot);
    });
}

/// I2: when owner and helper are done, no head asks a transaction whose memory may be gone.
#[test]
fn no_head_asks_a_finished_transaction() {
    check(|| {
        let world = World::new(&[1, 1]);
        let handle = Arc::new(world.prepare(&[(0, -5), (1, 5)]));
        let (helper_world, helper_handle) = (world.clone(), handle.clone());
        let helper = thread::spawn(move || helper_world.drive(&helper_handle));
        let depositor_world = world.clone();
        let depositor = thread::spawn(move || {
            depositor_world.apply(&[(0, 9)]);
        });
        let mine = world.drive(&handle);
        assert_eq!(helper.join().unwrap(), mine, "owner and duplicate agree");
        depositor.join().unwrap();
        let guard = pin();
        assert!(world.accounts.iter().all(|account| !account.asks_transaction(&guard)));
        // Either the deposit came first or the transfer was refused.
        let after = if mine.accepted { [5, 6] } else { [10, 1] };
        assert_eq!([world.balance(0), world.balance(1)], after);
    });
}

/// B2: a transaction with an unsettled gate runs for nobody; settled, for everybody the same.
#[test]
fn the_first_to_settle_a_gate_decides_for_all() {
    check(|| {
        let world = World::new(&[10]);
        let mut leg = Leg::new(&world.accounts[0]);
        leg.push(0, -3);
        let plan = Plan { legs: [leg].into_iter().collect(), refusal: None, as_of: 0, time: 0, request: 0 };
        let handle = Arc::new(Owned::new(plan).publish());
        let settle = |gate: Gate| {
            let (world, handle) = (world.clone(), handle.clone());
            thread::spawn(move || {
                world.kernel.drive(&handle, &pin());
                let settled = handle.settle(gate);
                let ran = world.kernel.drive(&handle, &pin()).is_some();
                assert_eq!(ran, settled == Gate::Open, "driven as settled");
                settled
            })
        };
        let threads = [settle(Gate::Open), settle(Gate::Closed), settle(Gate::Open)];
        let settled = threads.map(|thread| thread.join().unwrap());
        assert!(settled.iter().all(|gate| *gate == settled[0]), "one gate, one answer: {settled:?}");
        assert_eq!(world.balance(0), if settled[0] == Gate::Open { 7 } else { 10 });
    });
}
