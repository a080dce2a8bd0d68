//! A run as tests want it.

use super::{Call, Check, Contention, Latency, Machine, Moment, Run, Settings, Target, Usage};

/// A run of `workload` that began at `started`, with nothing wrong.
pub(super) fn run(workload: &str, started: &str) -> Run {
    let curve = vec![(0.0, 80.0), (0.5, 200.0), (0.9, 350.0), (0.99, 900.0), (0.999, 4_000.0), (1.0, 21_000.0)];
    let latency = Latency { mean: 220.0, p50: 200.0, p90: 350.0, p99: 900.0, p99_9: 4_000.0, max: 21_000.0, curve };
    let call = |name: &str| {
        let (name, latency) = (name.to_owned(), latency.clone());
        Call { name, due: 40_000, calls: 40_000, unanswered: 0, refused: 12, failed: 0, latency }
    };
    let moment = |second: u32| {
        let rate = 20_000.0 + 100.0 * f64::from(second);
        Moment { second: f64::from(second), rate, p50: 200.0, p99: 900.0 }
    };
    Run {
        workload: workload.to_owned(),
        workload_version: 1,
        started: started.to_owned(),
        machine: machine(),
        target: Target::Service { server: "http://127.0.0.1:50051".to_owned(), durable: Some(true), label: None },
        settings: Settings {
            seconds: 10.0,
            warm_up: 1.0,
            callers: 64,
            connections: 4,
            threads: 1,
            batch: 1,
            accounts: 100_000,
            rate: None,
            seed: 1,
        },
        operations: 200_000,
        rate: 20_000.0,
        calls: vec![call("TransferFunds"), call("GetBalance")],
        timeline: (1..=10).map(moment).collect(),
        usage: Some(Usage { cpu_seconds: 12.0, cpu_share: 0.6, resident_bytes: 300 << 20 }),
        contention: Some(Contention { helped: 7, waiting_seconds: 0.25, waiting_share: 0.0125 }),
        check: Check {
            total: Some(true),
            versions: Some(true),
            journal: Some(true),
            faults: Vec::new(),
            notes: Vec::new(),
        },
        cut: false,
        verdicts: Vec::new(),
    }
}

pub(super) fn machine() -> Machine {
    Machine {
        cpu: "Example CPU".to_owned(),
        cores: 2,
        memory: 8 << 30,
        system: "linux x86_64".to_owned(),
        compiler: "rustc 1.90.0".to_owned(),
        profile: "release".to_owned(),
        version: "0.1.0".to_owned(),
        commit: Some("0123456789ab".to_owned()),
    }
}
