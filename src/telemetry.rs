//! The log: JSON lines on standard error, written by a thread of its own.
//!
//! Logging never blocks a call: lines wait in a bounded queue, and when nobody reads standard error, or its disk is
//! full, lines are lost and counted.

mod lines;

use std::time::Duration;
use std::{fmt, io};

use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::{Event as Logged, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use self::lines::Lines;
use crate::Event;

/// The target of the events of failed operations, and their field that is a JSON array.
const AUDIT: &str = "equipoise::audit";
const ACCOUNT_IDS: &str = "account_ids";

/// Lines that may wait; a line is about 300 bytes, at most a few KB.
const QUEUE_LINES: usize = 16_384;

/// Why there is no log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The filter is not one: a level, or `target=level` pairs with commas between.
    #[error("bad log filter: {0}")]
    Filter(#[from] ParseError),
    /// The process has a log already.
    #[error(transparent)]
    Installed(#[from] TryInitError),
}

/// How often it is looked whether lines were lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the log going; dropping it writes what waits, for at most a second.
#[must_use = "the log ends when this is dropped"]
#[derive(Debug)]
pub struct Guard {
    _worker: WorkerGuard,
    losses: Losses,
}

impl Guard {
    /// What was lost.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }
}

/// Lines that were lost: nobody took them in time, or writing them failed.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Those that found the queue full.
    crowded_out: ErrorCounter,
    unwritten: Counter,
}

impl Losses {
    /// How many so far.
    #[must_use]
    pub fn lines(&self) -> usize {
        let unwritten = usize::try_from(self.unwritten.get()).unwrap_or(usize::MAX);
        self.crowded_out.dropped_lines().saturating_add(unwritten)
    }

    /// Says in the log, once there is room for it, how many were lost; for ever.
    pub async fn tell(self) {
        let mut told = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.tell_new(&mut told);
        }
    }

    /// The level is that of what was lost: a filter that lets those through lets this through.
    fn tell_new(&self, told: &mut usize) {
        let lost = self.lines();
        if lost == *told {
            return;
        }
        tracing::error!(
            lost_lines = lost,
            "lines of this log were lost: nobody took them in time, or they could not be written"
        );
        // Another one may be this one: then it is told again.
        if self.lines() == lost {
            *told = lost;
        }
    }
}

/// Starts the log of this process. `filter` is a level (`info`) or `target=level` pairs with commas between.
///
/// # Errors
/// [`enum@Error`] for a bad filter, or when a log was started before.
pub fn init(filter: &str) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(filter)?;
    let (writer, guard) = writer(io::stderr());
    subscriber(filter, writer).try_init()?;
    Ok(guard)
}

/// Whether `filter` lets nothing of Equipoise through, not even errors, without saying `off`: one that names other
/// targets alone.
#[must_use]
pub fn is_deaf(filter: &str) -> bool {
    const OURS: &str = env!("CARGO_PKG_NAME");
    // A target of the filter stands for all that begin with it; `[` begins a span of any.
    let ours = |target: &str| target.starts_with(OURS) || OURS.starts_with(target) || target.starts_with('[');
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    parts.peek().is_some()
        && !parts.any(|part| match part.split_once('=') {
            Some((target, _)) => ours(target),
            None => part.parse::<LevelFilter>().is_ok() || ours(part),
        })
}

/// Logs what a ledger says of itself: the end of its journal as an error, what an operator should see to as a warning.
pub fn log(event: &Event) {
    match event {
        Event::JournalFailed { .. } => tracing::error!("{event}"),
        Event::NoRoom { .. }
        | Event::SegmentFailed { .. }
        | Event::IndexFailed { .. }
        | Event::IndexRebuilt { .. }
        | Event::CheckpointFailed { .. }
        | Event::CheckpointLeft { .. }
        | Event::CheckpointDamaged { .. } => tracing::warn!("{event}"),
        Event::TornTail { .. } | Event::CheckpointWritten { .. } | Event::RoomAgain => tracing::info!("{event}"),
    }
}

fn writer(to: impl io::Write + Send + 'static) -> (NonBlocking, Guard) {
    let unwritten = Counter::default();
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("equipoise-log")
        .finish(Lines::new(to, unwritten.clone()));
    let losses = Losses { crowded_out: writer.error_counter(), unwritten };
    (writer, Guard { _worker: worker, losses })
}

fn subscriber(filter: EnvFilter, writer: NonBlocking) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .map_event_format(Line)
        .finish()
}

/// JSON lines in which a field of a failed operation is an array: tracing's own have texts and numbers alone.
struct Line(Format<Json>);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Logged<'_>) -> fmt::Result {
        if event.metadata().target() != AUDIT {
            return self.0.format_event(context, writer, event);
        }
        write!(writer, r#"{{"timestamp":""#)?;
        SystemTime.format_time(&mut writer)?;
        let mut fields = Fields { writer, written: Ok(()) };
        write!(fields.writer, r#"","level":"{}""#, event.metadata().level())?;
        event.record(&mut fields);
        fields.written?;
        writeln!(fields.writer, r#","target":"{AUDIT}"}}"#)
    }
}

/// The fields of a failed operation: texts, and the array.
struct Fields<'a> {
    writer: Writer<'a>,
    written: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.written = self.written.and_then(|()| write!(self.writer, r#","{}":{value}"#, field.name()));
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, &serde_json::Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            ACCOUNT_IDS => self.write(field, &format_args!("{value:?}")),
            _ => self.record_str(field, &format!("{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::*;

    /// A13: a misspelt target would silence errors without a word.
    #[test]
    fn a_filter_for_others_alone_is_noticed() {
        for deaf in ["equipose=debug", "h2=info, hyper=warn", "h2"] {
            assert!(is_deaf(deaf), "{deaf}");
        }
        for fine in
            ["", "off", "info", "warn,equipose=debug", "equipoise=debug", "equipoise::audit=info", "[span]=info"]
        {
            assert!(!is_deaf(fine), "{fine}");
        }
    }

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A13: one JSON line an event, whatever is in it.
    #[test]
    fn an_event_is_one_json_line() {
        let lines = Text::default();
        let (writer, guard) = writer(lines.clone());
        tracing::subscriber::with_default(subscriber(EnvFilter::new("error"), writer), || {
            tracing::error!(operation = "GetBalance", details = "a\nb", "operation failed");
            tracing::info!("below the level");
        });
        drop(guard);
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["operation"], "GetBalance");
        assert_eq!(line["details"], "a\nb");
        assert_eq!(line["level"], "ERROR");
        assert!(line["timestamp"].is_string());
        assert_eq!(text.matches('\n').count(), 1);
    }

    /// A13: the ids of a failed operation are an array, whatever is in them.
    #[test]
    fn account_ids_are_an_array() {
        let lines = Text::default();
        let (writer, guard) = writer(lines.clone());
        tracing::subscriber::with_default(subscriber(EnvFilter::new("error"), writer), || {
            let ids = r#"["a b","c"]"#;
            tracing::error!(target: AUDIT, account_ids = %ids, code = "NOT_FOUND", details = %"a\n\"b\"", "operation failed");
        });
        drop(guard);
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["account_ids"], serde_json::json!(["a b", "c"]));
        assert_eq!((&line["details"], &line["code"]), (&"a\n\"b\"".into(), &"NOT_FOUND".into()));
        assert_eq!((&line["message"], &line["target"]), (&"operation failed".into(), &AUDIT.into()));
        assert_eq!(line["level"], "ERROR");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn events_have_their_level() {
        let lines = Text::default();
        let (writer, guard) = writer(lines.clone());
        tracing::subscriber::with_default(subscriber(EnvFilter::new("info"), writer), || {
            log(&Event::JournalFailed { what: "no\ndisk".to_owned() });
            log(&Event::CheckpointFailed { what: "no room".to_owned() });
            log(&Event::RoomAgain);
        });
        drop(guard);
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
        let levels: Vec<_> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["ERROR", "WARN", "INFO"]);
        assert_eq!(lines[0]["message"], "the journal failed: no\ndisk");
    }

    /// Writes while nobody holds the lock.
    struct Gated(Arc<Mutex<()>>, Text);

    impl io::Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.0.lock();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A13, A09: how many lines were lost is told as soon as there is room, and once.
    #[test]
    fn losses_are_told_when_there_is_room() {
        let (gate, lines) = (Arc::new(Mutex::new(())), Text::default());
        let (writer, guard) = writer(Gated(gate.clone(), lines.clone()));
        let (losses, mut told) = (guard.losses(), 0);
        let text = || String::from_utf8(lines.0.lock().clone()).unwrap();
        tracing::subscriber::with_default(subscriber(EnvFilter::new("error"), writer), || {
            losses.tell_new(&mut told);
            let closed = gate.lock();
            for _ in 0..QUEUE_LINES + 100 {
                tracing::error!("operation failed");
            }
            losses.tell_new(&mut told);
            assert_eq!(told, 0, "there was no room");
            drop(closed);
            let until = Instant::now() + Duration::from_secs(60);
            while text().lines().count() < QUEUE_LINES {
                assert!(Instant::now() < until);
                std::thread::sleep(Duration::from_millis(5));
            }
            losses.tell_new(&mut told);
            losses.tell_new(&mut told);
        });
        assert_eq!(told, losses.lines());
        drop(guard);
        let text = text();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lost: Vec<_> = lines.filter_map(|line| line["lost_lines"].as_u64()).collect();
        assert_eq!(lost, [told as u64]);
    }

    /// A disk with room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<usize>>, Text);

    impl io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.0.lock();
            if *room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(*room);
            *room -= taken;
            self.1.write(&bytes[..taken])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A13, A09: lines that a full disk did not take are counted and told, and those after a torn one are whole.
    #[test]
    fn losses_to_a_full_disk_are_told_when_there_is_room() {
        const LOST: usize = 50;
        let disk = Disk::default();
        *disk.0.lock() = 20;
        let (writer, guard) = writer(disk.clone());
        let (losses, mut told) = (guard.losses(), 0);
        let counted = |lines: usize| {
            let until = Instant::now() + Duration::from_secs(30);
            while losses.lines() < lines {
                assert!(Instant::now() < until, "{} of {lines} lost lines are counted", losses.lines());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        tracing::subscriber::with_default(subscriber(EnvFilter::new("error"), writer), || {
            for _ in 0..LOST {
                tracing::error!("operation failed");
            }
            counted(LOST);
            losses.tell_new(&mut told);
            counted(LOST + 1);
            *disk.0.lock() = usize::MAX;
            losses.tell_new(&mut told);
            losses.tell_new(&mut told);
            tracing::error!("operation failed");
        });
        drop(guard);
        assert_eq!(losses.lines(), LOST + 1);
        let text = String::from_utf8(disk.1.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["lost_lines"], LOST + 1);
        assert_eq!(lines[1]["message"], "operation failed");
    }

    struct Stuck;

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(500));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A13, A09: a reader that does not read loses lines and holds up nobody.
    #[test]
    fn a_stuck_reader_holds_up_nobody() {
        let (writer, guard) = writer(Stuck);
        let began = Instant::now();
        tracing::subscriber::with_default(subscriber(EnvFilter::new("error"), writer), || {
            for _ in 0..2 * QUEUE_LINES {
                tracing::error!("operation failed");
            }
        });
        assert!(guard.losses().lines() > 0);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
