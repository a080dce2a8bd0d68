//! Snapshots beside a writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use equipoise::AccountId;

use crate::Settings;
use crate::baseline::{Bank, Mutexed, Ours};
use crate::callers::{Callers, Load, transfers};
use crate::workload::{INITIAL, Spread, account_ids, at_least, median, rate};

pub fn snapshot(settings: &Settings) {
    let ids = Arc::new(account_ids(settings.snapshot_accounts));
    let limits = settings.limits();
    let ours = Arc::new(Ours::build(&ids, INITIAL, limits));
    let mutex = Arc::new(Mutexed::build(&ids, INITIAL, limits));
    let duration = settings.measurement * 3;
    let mut kept = [const { Vec::new() }; 4];
    let mut scans = [const { Vec::new() }; 4];
    let mut alone = [const { Vec::new() }; 2];
    // A neighbour that shares nothing but the machine's memory with the writer.
    let copied: Vec<(AccountId, i64)> = ids.iter().map(|id| (id.clone(), INITIAL)).collect();
    let neighbour = || (copied.len(), copied.to_vec().iter().map(|(_, balance)| i128::from(*balance)).sum());
    let total = || {
        let snapshot = ours.ledger.snapshot().expect("a free slot");
        (ids.len(), snapshot.total())
    };
    for _ in 0..settings.repetitions {
        let (ours_alone, _) = beside(&ours, &ids, duration, None::<&fn() -> (usize, i128)>);
        let (mutex_alone, _) = beside(&mutex, &ids, duration, None::<&fn() -> (usize, i128)>);
        let runs = [
            (beside(&ours, &ids, duration, Some(&|| ours.snapshot())), ours_alone),
            (beside(&ours, &ids, duration, Some(&total)), ours_alone),
            (beside(&mutex, &ids, duration, Some(&|| mutex.snapshot())), mutex_alone),
            (beside(&ours, &ids, duration, Some(&neighbour)), ours_alone),
        ];
        alone[0].push(ours_alone);
        alone[1].push(mutex_alone);
        for (place, ((writes, taken), alone)) in runs.into_iter().enumerate() {
            kept[place].push(writes / alone);
            scans[place].push(taken);
        }
    }
    let count = ids.len();
    let [ours_alone, mutex_alone] = alone.map(|mut rates| median(&mut rates));
    println!(
        "transfers among {count} accounts, one writer alone: ours {}, mutex {}",
        rate(ours_alone),
        rate(mutex_alone)
    );
    let names = [
        "ours, snapshots in id order",
        "ours, totals",
        "mutex, clones under the lock",
        "ours beside a thread that copies",
    ];
    let goals = [Some(0.8), Some(0.8), None, None];
    for (((name, goal), kept), scans) in names.iter().zip(goals).zip(&mut kept).zip(&mut scans) {
        let kept = median(kept);
        let judged = goal.map_or_else(|| format!("ratio {kept:.2}"), |goal| at_least(kept, goal));
        println!(
            "writer beside a loop over all {count} accounts: {name}: keeps {:.0} %, {judged}; {} loops",
            kept * 100.0,
            rate(median(scans))
        );
    }
}

/// One writer, beside `scan` in a loop: transfers a second, and loops a second.
fn beside<B: Bank>(
    bank: &Arc<B>,
    ids: &Arc<Vec<AccountId>>,
    duration: Duration,
    scan: Option<&(impl Fn() -> (usize, i128) + Sync)>,
) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanner = scan.map(|scan| {
            scope.spawn(|| {
                let (began, mut taken) = (Instant::now(), 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(scan(), (ids.len(), ids.len() as i128 * i128::from(INITIAL)));
                    taken += 1;
                }
                f64::from(taken) / began.elapsed().as_secs_f64()
            })
        });
        let load = Load { spread: Spread::Uniform, callers: Callers::Threads(1), duration };
        let measured = transfers(bank, ids, load);
        stop.store(true, Ordering::Relaxed);
        (measured.per_second, scanner.map_or(0.0, |scanner| scanner.join().expect("a scanner")))
    })
}
