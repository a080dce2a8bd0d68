//! Who asks for what: account ids, request ids, random choices, latencies; the same for every contender.

#![allow(dead_code, reason = "each bench uses its part")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger, TransactionId};

/// The allocator of the `equipoise` binary, for every contender.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What an account opens with: enough for any run.
pub const INITIAL: i64 = 1_000_000_000;

/// `count` ids of 16 bytes.
pub fn account_ids(count: usize) -> Vec<AccountId> {
    (0..count).map(|number| AccountId::new(&format!("account-{number:08}")).expect("a short id")).collect()
}

/// Opens the accounts `ids`, each with [`INITIAL`].
pub fn open_accounts(ledger: &Ledger, ids: &[AccountId]) {
    for id in ids {
        ledger.create(id, INITIAL).expect("a new account");
    }
}

/// A request id: the number's digits.
#[inline]
pub fn transaction_id(number: u64) -> TransactionId {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    let mut rest = number;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let text = std::str::from_utf8(&digits[first..]).expect("digits");
    TransactionId::new(text).expect("at most 20 digits")
}

/// splitmix64: cheap, and good enough to choose accounts.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Two different numbers below `bound`.
    #[inline]
    pub fn pair(&mut self, bound: usize) -> (usize, usize) {
        let first = self.below(bound);
        let second = self.below(bound - 1);
        (first, if second >= first { second + 1 } else { second })
    }
}

/// Which accounts the transfers touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All, each as likely.
    Uniform,
    /// Ten of them.
    Hot,
}

impl Spread {
    pub const BOTH: [Spread; 2] = [Spread::Uniform, Spread::Hot];

    pub fn name(self) -> &'static str {
        match self {
            Spread::Uniform => "uniform",
            Spread::Hot => "hot",
        }
    }

    pub fn of(self, accounts: &[AccountId]) -> &[AccountId] {
        match self {
            Spread::Uniform => accounts,
            Spread::Hot => &accounts[..10],
        }
    }
}

/// Latencies in nanoseconds, to within 2 %: 64 steps a power of two.
#[derive(Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    longest: u64,
}

const STEPS: u64 = 64;

impl Default for Latencies {
    fn default() -> Self {
        Latencies { counts: vec![0; (64 * STEPS) as usize], longest: 0 }
    }
}

impl Latencies {
    pub fn record(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.longest = self.longest.max(nanoseconds);
        self.counts[Self::place(nanoseconds)] += 1;
    }

    fn place(nanoseconds: u64) -> usize {
        let place = match nanoseconds.checked_ilog2() {
            Some(power) if power >= 6 => u64::from(power - 5) * STEPS + ((nanoseconds >> (power - 6)) - STEPS),
            _ => nanoseconds,
        };
        place as usize
    }

    fn value(place: usize) -> u64 {
        let place = place as u64;
        match place / STEPS {
            0 => place,
            power => (STEPS + place % STEPS) << (power - 1),
        }
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.longest = self.longest.max(other.longest);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    pub fn percentile(&self, per_mille: u64) -> Duration {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total * per_mille).div_ceil(1000);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_nanos(Self::value(place.unwrap_or(0)))
    }

    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }
}

/// A data directory, in `DURABLE_DIR` or where temporary files go.
pub fn data_directory() -> tempfile::TempDir {
    let root = std::env::var_os("DURABLE_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(root).expect("a directory")
}

/// What the disk under a directory takes for writes into a file that is allocated already, each made durable.
pub struct Disk {
    /// Of this thread's processor time for all writes, and for all syncs.
    pub writing: Duration,
    pub syncing: Duration,
    /// By the clock, of each sync.
    pub syncs: Latencies,
}

/// Writes so many bytes 500 times, one after the other, with a pause before each.
pub fn write_through(dir: &Path, bytes: usize, pause: Duration) -> Disk {
    use std::os::unix::fs::FileExt;
    let path = dir.join("probe");
    let file = std::fs::File::create(&path).expect("a file");
    file.write_all_at(&vec![0; (500 * bytes).max(4 << 20)], 0).expect("room");
    file.sync_all().expect("synced");
    let mut disk = Disk { writing: Duration::ZERO, syncing: Duration::ZERO, syncs: Latencies::default() };
    for block in 0..500 {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let content = vec![block as u8; bytes];
        let before = cpu_time();
        file.write_all_at(&content, block * bytes as u64).expect("room");
        let written = cpu_time();
        let began = Instant::now();
        file.sync_data().expect("synced");
        disk.syncs.record(began.elapsed());
        disk.writing += written.saturating_sub(before);
        disk.syncing += cpu_time().saturating_sub(written);
    }
    std::fs::remove_file(path).expect("removed");
    disk
}

/// How long the disk under `dir` takes to make 4 KiB durable in a file that is allocated already: the floor of a commit.
pub fn fdatasync(dir: &Path) -> Latencies {
    write_through(dir, 4096, Duration::ZERO).syncs
}

/// What this thread has used of a processor.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// 3_140_000.0 as `3.14 M/s`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        high if high >= 1e6 => format!("{:.2} M/s", high / 1e6),
        high if high >= 1e3 => format!("{:.1} k/s", high / 1e3),
        low => format!("{low:.1} /s"),
    }
}

/// 0.79 of a goal of at least 1.00, and whether that is reached.
pub fn at_least(ratio: f64, goal: f64) -> String {
    format!("ratio {ratio:.2} (goal {goal:.2}: {})", if ratio >= goal { "reached" } else { "MISSED" })
}

/// 1.30 of a goal of at most 1.50, and whether that is kept.
pub fn at_most(ratio: f64, goal: f64) -> String {
    format!("ratio {ratio:.2} (goal at most {goal:.2}: {})", if ratio <= goal { "reached" } else { "MISSED" })
}
