//! A run as a table for people, or as one JSON object.

use std::io;

use serde::Serialize;

use crate::bench::{Call, Run, Settings, Target};
use crate::cli::output::{Page, Record, escape};

/// A run, as it is printed.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Report<'a>(pub(super) &'a Run);

impl Record for Report<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let run = self.0;
        page.line(self.heading())?;
        page.line(format_args!(
            "  {:<16} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "call", "calls", "rate", "p50", "p90", "p99", "p99.9", "max"
        ))?;
        for call in &run.calls {
            page.line(self.row(call))?;
        }
        page.field("operations", format_args!("{} at {}", run.operations, per_second(run.rate)))?;
        for call in run.calls.iter().filter(|call| call.refused + call.failed + call.unanswered > 0) {
            let Call { name, due, unanswered, refused, failed, .. } = call;
            page.field(name, format_args!("{due} due, {unanswered} unanswered, {refused} refused, {failed} failed"))?;
        }
        if let Some(usage) = &run.usage {
            let cores = usage.cpu_share * f64::from(run.machine.cores);
            let (of, megabytes) = (run.machine.cores, usage.resident_bytes as f64 / 1e6);
            page.field("used", format_args!("{cores:.2} of {of} cores, {megabytes:.0} MB at the end"))?;
        }
        if let Some(contention) = &run.contention {
            let (helped, share) = (contention.helped, contention.waiting_share * 100.0);
            let waiting = contention.waiting_seconds;
            page.field(
                "contention",
                format_args!("{helped} helped, {waiting:.3} s waiting, {share:.2} % of its time"),
            )?;
        }
        for verdict in &run.verdicts {
            page.line(format_args!("  {verdict}"))?;
        }
        let check = &run.check;
        let say = |holds: Option<bool>| match holds {
            Some(true) => "holds",
            Some(false) => "DOES NOT HOLD",
            None => "not looked at",
        };
        let [total, versions, journal] = [check.total, check.versions, check.journal].map(say);
        page.field("check", format_args!("total {total}, versions {versions}, journal {journal}"))?;
        for fault in &check.faults {
            let style = page.refusal();
            page.field("fault", format_args!("{style}{}{style:#}", escape(fault)))?;
        }
        for note in &check.notes {
            page.field("note", escape(note))?;
        }
        page.line("")
    }
}

impl Report<'_> {
    fn heading(&self) -> String {
        let Run { workload, target, settings, .. } = self.0;
        let Settings { seconds, warm_up, callers, connections, batch, accounts, rate, .. } = settings;
        let target = match target {
            Target::Service { server, durable: Some(true), .. } => format!("a service on disk at {server}"),
            Target::Service { server, durable: Some(false), .. } => format!("a service in memory at {server}"),
            Target::Service { server, durable: None, label: Some(label) } => {
                format!("the service at {server} ({label})")
            }
            Target::Service { server, durable: None, label: None } => format!("the service at {server}"),
            Target::Embedded { durable: true } => "a ledger on disk".to_owned(),
            Target::Embedded { durable: false } => "a ledger in memory".to_owned(),
        };
        let mut text =
            format!("{workload}: {seconds:.1} s after {warm_up:.1} s, {accounts} accounts, {callers} callers");
        if *connections > 0 {
            text += &format!(", {connections} connections");
        }
        if *batch > 1 {
            text += &format!(", batches of {batch}");
        }
        if let Some(rate) = rate {
            text += &format!(", {rate} calls a second");
        }
        format!("{text}; {}", escape(&target))
    }

    fn row(&self, call: &Call) -> String {
        let latency = &call.latency;
        let seconds = self.0.settings.seconds;
        let rate = if seconds > 0.0 { call.calls as f64 / seconds } else { 0.0 };
        let [p50, p90, p99, p99_9, max] = [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max].map(time);
        let (name, calls, rate) = (&call.name, call.calls, per_second(rate));
        format!("  {name:<16} {calls:>10} {rate:>10} {p50:>9} {p90:>9} {p99:>9} {p99_9:>9} {max:>9}")
    }
}

/// 31234.5 as `31.2 k/s`.
fn per_second(rate: f64) -> String {
    match rate {
        high if high >= 1e6 => format!("{:.2} M/s", high / 1e6),
        high if high >= 1e4 => format!("{:.1} k/s", high / 1e3),
        low => format!("{low:.0} /s"),
    }
}

/// Microseconds, with a unit that suits them.
fn time(micros: f64) -> String {
    match micros {
        long if long >= 1e6 => format!("{:.2} s", long / 1e6),
        long if long >= 1e3 => format!("{:.2} ms", long / 1e3),
        short if short >= 10.0 => format!("{short:.0} µs"),
        short => format!("{short:.2} µs"),
    }
}
