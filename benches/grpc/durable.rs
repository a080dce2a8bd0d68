//! Durable transfers against the same in memory, against the empty service, and against what the disk allows.

use std::path::Path;
use std::time::Duration;

use crate::Settings;
use crate::served::{Served, Used};
use crate::unary::{Call, Series, load};
use crate::workload::{at_least, at_most, data_directory, fdatasync, median, rate, write_through};

/// The flusher's name, as far as the system keeps it.
const FLUSHER: &str = "equipoise-flush";

pub async fn on_disk(settings: &Settings) {
    let dir = data_directory();
    let memory = Served::start("ours", settings.connections).await;
    let disk = Served::start("disk", settings.connections).await;
    let empty = Served::start("empty", settings.connections).await;
    for callers in [1, 64, 200] {
        let mut measured = Measured { callers, ..Measured::default() };
        for _ in 0..settings.repetitions {
            measured.measure(dir.path(), [&memory, &disk, &empty], settings).await;
        }
        measured.report(dir.path());
    }
}

/// So many callers: what came of them.
#[derive(Default)]
struct Measured {
    callers: u64,
    in_memory: Series,
    on_disk: Series,
    empty: Series,
    /// Seconds of an fdatasync: one after the other, and each after as long as a call in memory takes.
    floor: Vec<f64>,
    paced: Vec<f64>,
    journal: Journal,
}

impl Measured {
    async fn measure(&mut self, dir: &Path, [memory, disk, empty]: [&Served; 3], settings: &Settings) {
        self.floor.push(fdatasync(dir).percentile(500).as_secs_f64());
        load(memory, Call::TransferFunds, settings, self.callers, &mut self.in_memory).await;
        let before = (disk.cpu_time(), disk.threads(FLUSHER));
        let calls = load(disk, Call::TransferFunds, settings, self.callers, &mut self.on_disk).await;
        self.journal.add(calls, disk.cpu_time().saturating_sub(before.0), disk.threads(FLUSHER).since(before.1));
        load(empty, Call::TransferFunds, settings, self.callers, &mut self.empty).await;
        if self.callers == 1 {
            let pause = self.in_memory.latencies.percentile(500);
            self.paced.push(write_through(dir, 4096, pause).syncs.percentile(500).as_secs_f64());
        }
    }

    fn report(&mut self, dir: &Path) {
        let callers = self.callers;
        let floor = median(&mut self.floor);
        let (memory_rate, disk_rate) = (median(&mut self.in_memory.rates), median(&mut self.on_disk.rates));
        let allowed = memory_rate.min(callers as f64 / floor);
        println!(
            "{callers} callers, TransferFunds: on disk {}, in memory {}, the disk allows {} (fdatasync {:.0} us): of the smaller {}",
            rate(disk_rate),
            rate(memory_rate),
            rate(callers as f64 / floor),
            floor * 1e6,
            at_least(disk_rate / allowed, 0.8)
        );
        let [memory, disk, empty] = [&self.in_memory, &self.on_disk, &self.empty].map(|series| &series.latencies);
        println!(
            "{callers} callers: p50/p99/max on disk {:.2?}/{:.2?}/{:.1?}, in memory {:.2?}/{:.2?}, empty service {:.2?}/{:.2?}",
            disk.percentile(500),
            disk.percentile(990),
            disk.longest(),
            memory.percentile(500),
            memory.percentile(990),
            empty.percentile(500),
            empty.percentile(990)
        );
        let [memory, disk, empty] = [memory, disk, empty].map(|latencies| latencies.percentile(500).as_secs_f64());
        let over = |sync: f64, call: f64| disk / ((sync + call) * 1.2);
        println!(
            "{callers} callers: p50 against (fdatasync + in memory) + 20 %: {}",
            at_most(over(floor, memory), 1.0)
        );
        println!(
            "{callers} callers: p50 against (fdatasync + empty service) + 20 %: {}",
            at_most(over(floor, empty), 1.0)
        );
        if callers == 1 {
            let paced = median(&mut self.paced);
            println!(
                "1 caller: fdatasync {:.0} us one after the other, which is judged by; {:.0} us where each waits as long as a call in memory \
                 takes, as those of a lone caller do: by that {:.2} of in memory, {:.2} of the empty service",
                floor * 1e6,
                paced * 1e6,
                over(paced, memory),
                over(paced, empty)
            );
        }
        println!(
            "{callers} callers: CPU of the service a call {:.1} us on disk, {:.1} us in memory",
            median(&mut self.on_disk.costs),
            median(&mut self.in_memory.costs)
        );
        self.journal.report(callers, dir);
    }
}

/// What the calls cost the service, and its flusher, which appends to the journal and wakes those who wait for that.
#[derive(Default)]
struct Journal {
    calls: u64,
    whole: Duration,
    flusher: Used,
}

impl Journal {
    fn add(&mut self, calls: u64, whole: Duration, flusher: Used) {
        self.calls += calls;
        self.whole += whole;
        self.flusher.program += flusher.program;
        self.flusher.system += flusher.system;
        self.flusher.written += flusher.written;
    }

    /// C5, the sync apart: the flusher's time in the program, and of its time in the system what writing takes. Written and synced as a
    /// batch is by hand, a file tells how that time divides.
    fn report(&self, callers: u64, dir: &Path) {
        let entry = self.flusher.written / self.calls;
        // A batch has at most an entry of each caller.
        let disk = write_through(dir, (entry * callers) as usize, Duration::ZERO);
        let writing = disk.writing.as_secs_f64() / (disk.writing + disk.syncing).as_secs_f64();
        let [program, system] = [self.flusher.program, self.flusher.system].map(|time| time.as_secs_f64());
        let (append, whole) = (program + system * writing, self.whole.as_secs_f64());
        let an_entry = append / self.calls as f64;
        println!(
            "{callers} callers: an append without fdatasync, CPU of the flusher: {:.2} us an entry of {entry} bytes, at most {:.1} us a \
             flush, of C5's 1 ms {}",
            an_entry * 1e6,
            an_entry * callers as f64 * 1e6,
            at_most(an_entry * callers as f64 / 1e-3, 1.0)
        );
        println!(
            "{callers} callers: of the CPU of the service the flusher takes {:.1} % in the program and {:.1} % in the system, of which writing \
             {:.1} % (the rest is fdatasync and waking); append and write of C5's 5 %: {}",
            100.0 * program / whole,
            100.0 * system / whole,
            100.0 * system * writing / whole,
            at_most(append / whole / 0.05, 1.0)
        );
    }
}
