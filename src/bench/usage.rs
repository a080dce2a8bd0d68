//! What a process uses of the machine.

use std::time::Duration;

use super::{Machine, Usage};

/// The process's time so far, of all cores together, and its resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) cpu: Duration,
    pub(super) resident_bytes: u64,
}

/// Reads it from /proc; None where there is none, or no such process.
#[cfg(target_os = "linux")]
pub(super) fn read(pid: u32) -> Option<Reading> {
    use procfs::WithCurrentSystemInfo as _;

    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let ticks = stat.utime + stat.stime;
    let cpu = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
    Some(Reading { cpu, resident_bytes: stat.rss_bytes().get() })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_: u32) -> Option<Reading> {
    None
}

impl Usage {
    /// Between two readings, `seconds` apart.
    pub(super) fn between(before: Reading, after: Reading, seconds: f64, machine: &Machine) -> Self {
        let cpu_seconds = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        let cores = f64::from(machine.cores.max(1));
        let cpu_share = if seconds > 0.0 { cpu_seconds / seconds / cores } else { 0.0 };
        Usage { cpu_seconds, cpu_share, resident_bytes: after.resident_bytes }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// E2: what a process uses is read while it runs.
    #[test]
    fn this_process_uses_what_it_works() {
        let before = read(std::process::id()).expect("Linux");
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let after = read(std::process::id()).expect("Linux");
        assert!(after.cpu > before.cpu && after.resident_bytes > 1 << 20, "{before:?} {after:?}");
        let usage = Usage::between(before, after, 0.1, &Machine::here());
        assert!(usage.cpu_seconds > 0.0 && usage.cpu_share > 0.0, "{usage:?}");
        assert_eq!(read(u32::MAX), None);
    }
}
