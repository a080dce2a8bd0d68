//! The log of failed operations (requirement A13): one ERROR event each, bounded, without control characters.
//!
//! A call that ends before its operations are answered fails as one, and may have thousands of them: the log names the
//! first [`NAMED`], and counts the others in one more event.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::ops::Deref;

use tonic::{Code, Request, Response, Status};

use super::deadline;
use super::status::Failure;

/// The longest text of one field, in characters.
const MAX_TEXT: usize = 512;
/// How many operations of an unanswered call are logged with an event each. More would crowd the events of other calls
/// out of the log's queue.
const NAMED: usize = 100;

/// What a failed operation was about, as the request spelled it.
#[derive(Clone, Copy, Default)]
pub(super) struct Subject<'a> {
    pub(super) accounts: [&'a str; 2],
    pub(super) transaction: &'a str,
}

impl<'a> Subject<'a> {
    pub(super) fn account(id: &'a str, transaction: &'a str) -> Self {
        Subject { accounts: [id, ""], transaction }
    }
}

/// A request that can tell the log what it is about.
pub(super) trait About: Default {
    fn subject(&self) -> Subject<'_> {
        Subject::default()
    }

    /// Logs that the call of `operation` with this request failed.
    fn failed(&self, operation: &'static str, unanswered: &mut Unanswered) {
        unanswered.log(operation, self.subject());
    }
}

/// A request until it is answered. Dropped before that by [`end`], it logs how its call ended.
pub(super) struct Asked<M: About> {
    operation: &'static str,
    message: M,
    answered: bool,
}

impl<M: About> Asked<M> {
    /// # Errors
    /// The deadline passed before the call began.
    pub(super) fn new(operation: &'static str, request: Request<M>) -> Result<Self, Status> {
        let asked = Asked { operation, message: request.into_inner(), answered: false };
        if deadline::late() { Err(asked.refuse(&Failure::deadline(operation))) } else { Ok(asked) }
    }

    /// The status of a failure for which nothing was begun; each operation of the request is logged.
    pub(super) fn refuse(mut self, failure: &Failure) -> Status {
        self.answered = true;
        self.message.failed(self.operation, &mut Unanswered::of(failure));
        failure.status()
    }

    /// The answer, or the status of the failure, which is logged.
    pub(super) fn answer<T>(mut self, result: Result<T, Failure>) -> Result<Response<T>, Status> {
        self.answered = true;
        result.map(Response::new).map_err(|failure| refused(self.operation, self.message.subject(), &failure))
    }

    /// Hands the message to something that answers in its place.
    pub(super) fn into_inner(mut self) -> M {
        self.answered = true;
        std::mem::take(&mut self.message)
    }
}

impl<M: About> Deref for Asked<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

impl<M: About> Drop for Asked<M> {
    fn drop(&mut self) {
        if !self.answered {
            last_words(|unanswered| self.message.failed(self.operation, unanswered));
        }
    }
}

/// How a call ended whose operations were not answered. Dropping it logs how many operations were not named.
pub(super) struct Unanswered {
    code: Code,
    details: String,
    /// How many more operations may be named.
    left: usize,
    /// How many operations were not named.
    more: usize,
}

impl Unanswered {
    fn new(code: Code, details: String) -> Self {
        Unanswered { code, details, left: NAMED, more: 0 }
    }

    pub(super) fn of(failure: &Failure) -> Self {
        Self::new(failure.code(), failure.to_string())
    }

    /// Returns the operations of `all` that may still be named, and counts the others.
    pub(super) fn named<'s, T>(&mut self, all: &'s [T]) -> &'s [T] {
        let (named, more) = all.split_at(all.len().min(self.left));
        self.left -= named.len();
        self.more += more.len();
        named
    }

    pub(super) fn log(&self, operation: &'static str, subject: Subject<'_>) {
        failed(operation, subject, self.code, &self.details);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.more > 0 {
            let details = format!("{} more operations: {}", self.more, self.details);
            failed("ExecuteBatch", Subject::default(), self.code, &details);
        }
    }
}

/// How the call ends that is being dropped on this thread.
struct Ending {
    unanswered: Unanswered,
    told: bool,
}

thread_local! {
    static ENDING: RefCell<Option<Ending>> = const { RefCell::new(None) };
}

/// Drops `call`, which ended before its answer. The unanswered requests in it log that themselves, since only they know
/// what was asked. Returns whether there were any.
pub(super) fn end<T>(call: T, code: Code, details: String) -> bool {
    ENDING.set(Some(Ending { unanswered: Unanswered::new(code, details), told: false }));
    drop(call);
    ENDING.take().is_some_and(|ending| ending.told)
}

/// Calls `tell` for something unanswered that is being dropped, if [`end`] drops it.
pub(super) fn last_words(tell: impl FnOnce(&mut Unanswered)) {
    ENDING.with_borrow_mut(|ending| {
        if let Some(Ending { unanswered, told }) = ending {
            *told = true;
            tell(unanswered);
        }
    });
}

/// Logs `failure` and makes the status of it.
pub(super) fn refused(operation: &'static str, subject: Subject<'_>, failure: &Failure) -> Status {
    failed(operation, subject, failure.code(), &failure.to_string());
    failure.status()
}

/// Logs one failed operation.
pub(super) fn failed(operation: &'static str, subject: Subject<'_>, code: Code, details: &str) {
    tracing::error!(
        target: "equipoise::audit",
        operation,
        // The service's log knows target and field by these names.
        account_ids = %Ids(subject.accounts),
        transaction_id = %Escaped(subject.transaction),
        code = name(code),
        details = %Escaped(details),
        "operation failed"
    );
}

/// The name of a code as gRPC spells it.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Text in which whatever could forge a line or steer a terminal (controls, bidirectional marks, invisible characters)
/// is spelled as an escape, cut after [`MAX_TEXT`] characters.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for character in rest.by_ref().take(MAX_TEXT) {
            match character {
                '\'' | '"' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        match rest.as_str().len() {
            0 => Ok(()),
            more => write!(f, "… ({more} more bytes)"),
        }
    }
}

/// The ids that are there as a JSON array: an id may hold whatever else could stand between two.
struct Ids<'a>([&'a str; 2]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        let mut separator = "";
        for id in self.0.iter().filter(|id| !id.is_empty()) {
            // Text without controls, of which JSON escapes two characters.
            let text = Escaped(id).to_string().replace('\\', r"\\").replace('"', r#"\""#);
            write!(f, "{separator}\"{text}\"")?;
            separator = ",";
        }
        f.write_char(']')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A13, A09: an id cannot forge a log line or turn the text around.
    #[test]
    fn what_could_forge_a_line_is_escaped() {
        let hostile = "a\n2026-01-01 ERROR\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{feff}";
        let logged = Escaped(hostile).to_string();
        assert_eq!(logged, r"a\n2026-01-01 ERROR\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{feff}");
        assert_eq!(Escaped("é \"quoted\"").to_string(), "é \"quoted\"");
    }

    /// A13: where one id ends and the next begins is told, whatever is in them.
    #[test]
    fn ids_are_a_json_array() {
        let hostile = ["a b\", \"c\\", "\u{7f}\n,é\u{202e}"];
        let read: Vec<String> = serde_json::from_str(&Ids(hostile).to_string()).unwrap();
        assert_eq!(read, [r#"a b", "c\\"#, r"\u{7f}\n,é\u{202e}"]);
        assert_eq!([Ids(["", ""]).to_string(), Ids(["", "b"]).to_string()], ["[]", r#"["b"]"#]);
    }

    #[test]
    fn a_long_text_is_cut() {
        let logged = Escaped(&"x".repeat(1 << 20)).to_string();
        assert!(logged.len() < 600, "{}", logged.len());
        assert!(logged.ends_with("more bytes)"));
    }
}
