//! How a command ends: its exit code, and what is said on stderr.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::interrupt::{INTERRUPTED, Signal};
use super::output::escape;
use crate::OpenError;
use crate::config::ConfigError;
use crate::grpc::code_name;
use crate::verify::Problem;

/// How long an ending process waits for a reader of stderr. Its supervisor or script waits as long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The exit codes. They are part of the interface: scripts branch on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Refused = 1,
    Usage = 2,
    Unreachable = 3,
    Failed = 4,
    HungUp = Signal::Hangup.exit_code() as isize,
    Interrupted = INTERRUPTED as isize,
    Terminated = Signal::Terminate.exit_code() as isize,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// A setting or argument that cannot be used.
    Usage(String),
    /// What the service answered, or what came in place of an answer.
    Call {
        status: Box<Status>,
        /// The id of the change: if its outcome is unknown, it can be sent again under this id.
        id: Option<String>,
        /// What can be done about it.
        note: Option<String>,
    },
    /// What was asked for does not fit what is there.
    Refused(String),
    /// The end was requested before it was done.
    Interrupted(String),
    /// The end was requested before the answer to the change with this id had come.
    Unanswered { id: String, signal: Signal },
    /// Results cannot be written.
    Output(io::Error),
    /// A change was done under this id, and that cannot be written.
    Untold { error: io::Error, id: String },
    /// A data directory that is not whole, or cannot be read.
    Damage(Problem),
    /// Anything else.
    Other(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { file, offset, what } => Failure::Damage(Problem {
                file,
                offset: Some(offset),
                batch: None,
                sequence: None,
                what,
                unreadable: false,
            }),
            other => Failure::Other(other.to_string()),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Call { status: Box::new(status), id: None, note: None }
    }
}

/// An error as `--json` prints it.
#[derive(Serialize)]
struct ErrorRecord<'a> {
    code: &'static str,
    /// The service's reason, for programs: `INSUFFICIENT_BALANCE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    message: &'a str,
    exit: u8,
    /// An earlier call with this id was refused so, and this is its answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Where a data directory is not whole.
    #[serde(flatten)]
    place: Option<PlaceRecord>,
}

#[derive(Serialize)]
struct PlaceRecord {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

impl From<&Problem> for PlaceRecord {
    fn from(problem: &Problem) -> Self {
        let Problem { file, offset, batch, sequence, .. } = problem;
        PlaceRecord { file: file.display().to_string(), offset: *offset, batch: *batch, sequence: *sequence }
    }
}

impl Failure {
    /// The failure of a change under `id`, which was made for it (`new`) or given. If the outcome is unknown, tells
    /// under which id the change may be sent again; if it was refused, names a new id.
    pub(super) fn of_change(self, id: &str, new: bool) -> Self {
        match self {
            Failure::Call { status, note, .. } => {
                let own = match exit_of(status.code()) {
                    Exit::Unreachable => Some(safe_again(id)),
                    Exit::Refused if new => Some(its_id(id)),
                    _ => None,
                };
                Failure::Call { status, note: note.or(own), id: Some(id.to_owned()) }
            }
            Failure::Output(error) => Failure::Untold { error, id: id.to_owned() },
            other => other,
        }
    }

    /// Whether the service was not there to answer: worth another try.
    pub(super) fn unavailable(&self) -> bool {
        matches!(self, Failure::Call { status, .. } if status.code() == Code::Unavailable)
    }

    /// Adds what may be done about it.
    pub(super) fn with_note(mut self, text: String) -> Self {
        if let Failure::Call { note, .. } = &mut self {
            *note = Some(text);
        }
        self
    }

    /// Reports on stderr what went wrong, and returns the exit code. A reader that closes our pipe has seen enough:
    /// that is no failure (case A20).
    pub(super) fn report(&self, json: bool) -> ExitCode {
        let exit = self.exit();
        if exit != Exit::Done {
            let said = if json { self.say_json(exit) } else { self.say() };
            // There is no third place to complain in.
            let _ = said;
        }
        ExitCode::from(exit as u8)
    }

    /// Like [`Self::report`], but waits for a reader of stderr for [`LAST_WORDS`] at most.
    pub(super) fn report_within(self, json: bool) -> ExitCode {
        let code = ExitCode::from(self.exit_code());
        say_within(move || self.report(json)).unwrap_or(code)
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.exit() as u8
    }

    fn exit(&self) -> Exit {
        match self {
            Failure::Usage(_) => Exit::Usage,
            Failure::Refused(_) => Exit::Refused,
            Failure::Interrupted(_) => Exit::Interrupted,
            Failure::Unanswered { signal, .. } => match signal {
                Signal::Hangup => Exit::HungUp,
                Signal::Interrupt => Exit::Interrupted,
                Signal::Terminate => Exit::Terminated,
            },
            Failure::Call { status, .. } => exit_of(status.code()),
            Failure::Output(error) | Failure::Untold { error, .. } if error.kind() == io::ErrorKind::BrokenPipe => {
                Exit::Done
            }
            Failure::Output(_) | Failure::Untold { .. } | Failure::Damage(_) | Failure::Other(_) => Exit::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Failure::Usage(_) => code_name(Code::InvalidArgument),
            Failure::Refused(_) => code_name(Code::FailedPrecondition),
            Failure::Interrupted(_) | Failure::Unanswered { .. } => code_name(Code::Cancelled),
            Failure::Call { status, .. } => code_name(status.code()),
            Failure::Damage(problem) if !problem.unreadable => code_name(Code::DataLoss),
            Failure::Damage(_) | Failure::Output(_) | Failure::Untold { .. } | Failure::Other(_) => {
                code_name(Code::Internal)
            }
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Usage(text) | Failure::Refused(text) | Failure::Interrupted(text) | Failure::Other(text) => {
                text.clone()
            }
            Failure::Call { status, .. } if status.message().is_empty() => code_name(status.code()).to_owned(),
            Failure::Call { status, .. } => status.message().to_owned(),
            Failure::Unanswered { .. } => "interrupted before the answer came".to_owned(),
            Failure::Damage(problem) => problem.to_string(),
            Failure::Output(error) => format!("cannot write the output: {error}"),
            Failure::Untold { error, .. } => format!("it was done, but cannot be printed: {error}"),
        }
    }

    /// The service's reason.
    pub(super) fn reason(&self) -> Option<String> {
        self.details().0
    }

    /// The service's reason, and whether an earlier call with the same id was refused so.
    fn details(&self) -> (Option<String>, bool) {
        let Failure::Call { status, .. } = self else { return (None, false) };
        match status.get_details_error_info() {
            Some(info) => (Some(info.reason), info.metadata.get("replayed").is_some_and(|value| value == "true")),
            None => (None, false),
        }
    }

    fn say(&self) -> io::Result<()> {
        let mut stderr = io::stderr().lock();
        let colour = AutoStream::choice(&stderr) != ColorChoice::Never;
        let style = if colour { AnsiColor::Red.on_default().bold() } else { Style::new() };
        writeln!(stderr, "{style}error:{style:#} {}", escape(&self.message()))?;
        if self.details().1 {
            writeln!(stderr, "  note: replayed, this is the answer of the first time")?;
        }
        self.note().map_or(Ok(()), |note| writeln!(stderr, "  note: {}", escape(&note)))
    }

    /// What can be done about it.
    fn note(&self) -> Option<String> {
        match self {
            Failure::Call { note, .. } => note.clone(),
            Failure::Unanswered { id, .. } => Some(safe_again(id)),
            Failure::Untold { id, .. } => Some(its_id(id)),
            _ => None,
        }
    }

    fn say_json(&self, exit: Exit) -> io::Result<()> {
        let transaction_id = match self {
            Failure::Call { id, .. } => id.as_deref(),
            Failure::Untold { id, .. } | Failure::Unanswered { id, .. } => Some(id.as_str()),
            _ => None,
        };
        let place = match self {
            Failure::Damage(problem) => Some(PlaceRecord::from(problem)),
            _ => None,
        };
        let (reason, replayed) = self.details();
        let (code, exit, message, note) = (self.code(), exit as u8, self.message(), self.note());
        let error = ErrorRecord { code, reason, message: &message, exit, replayed, transaction_id, note, place };
        let line = serde_json::to_string(&BTreeMap::from([("error", error)]))?;
        writeln!(io::stderr().lock(), "{line}")
    }
}

/// Runs `say`, which writes to stderr, and waits for a reader for [`LAST_WORDS`] at most.
pub(super) fn say_within<T: Send + 'static>(say: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (said, waiting) = mpsc::channel();
    // After that time nobody receives this. If no thread can be started, nothing is written.
    let _ = thread::Builder::new().spawn(move || said.send(say()));
    waiting.recv_timeout(LAST_WORDS).ok()
}

fn safe_again(id: &str) -> String {
    format!("it may have been done; sending it again with --id '{id}' is safe")
}

fn its_id(id: &str) -> String {
    format!("its transaction id is {id}")
}

/// What clap has to say: help and version on stdout, errors on stderr.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Err(output) if !error.use_stderr() && output.kind() != io::ErrorKind::BrokenPipe => {
            Failure::Output(output).report(false)
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8)),
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Aborted
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        Code::InvalidArgument => Exit::Usage,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => Exit::Unreachable,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Exit::Failed,
    }
}
