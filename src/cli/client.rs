//! The connection of the client commands: where the service is, how long to wait for it, and when to ask again.

use std::error::Error;
use std::time::Duration;
use std::{future, io, thread};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

use super::Common;
use super::exit::Failure;
use crate::config::{ConfigError, Environment, Place, Source};
use crate::grpc::proto::account_service_client::AccountServiceClient;

/// What a command calls the service with; cheap to clone.
pub(super) type Stub = AccountServiceClient<Channel>;

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
const DEFAULT_PORT: u16 = 50051;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a call is tried while the service says UNAVAILABLE, and how much longer each pause is than the one before.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// How often a command that waits looks whether its reader is still there.
const LOOK: Duration = Duration::from_millis(250);

/// The service, as one command sees it.
pub(super) struct Client {
    stub: Stub,
    server: String,
    timeout: Duration,
}

/// Runs `command` with a client for the service that `common` and `environment` name.
pub(super) fn run<F>(
    common: &Common,
    environment: &Environment,
    command: impl FnOnce(Client) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let cannot = |error| Failure::Other(format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let handle = runtime.handle().clone();
    // On a thread of its own: the service cuts a connection that does not answer its pings, even while the command
    // waits for its reader.
    let connection = thread::Builder::new().name("connection".to_owned());
    connection.spawn(move || runtime.block_on(future::pending::<()>())).map_err(cannot)?;
    handle.block_on(async { command(Client::new(common, environment)?).await })
}

impl Client {
    /// Connects with the first call.
    fn new(common: &Common, environment: &Environment) -> Result<Self, Failure> {
        let timeout = setting("timeout", common.timeout.as_deref(), environment, duration)?.unwrap_or(DEFAULT_TIMEOUT);
        let server = setting("server", common.server.as_deref(), environment, server)?;
        let server = server.unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|error| Failure::Usage(format!("{server}: {error}")))?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(Client { stub: Stub::new(endpoint.connect_lazy()), server, timeout })
    }

    /// One answer to one question, within the timeout.
    pub(super) async fn call<Q, A, F>(&self, question: Q, ask: impl Fn(Stub, Request<Q>) -> F) -> Result<A, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.ask(|deadline| {
            let mut request = Request::new(question.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            ask(self.stub.clone(), request)
        })
        .await
    }

    /// The beginning of a stream, within the timeout; the stream itself may take longer.
    pub(super) async fn open<Q, A, F>(
        &self,
        question: Q,
        ask: impl Fn(Stub, Request<Q>) -> F,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<Streaming<A>>, Status>>,
    {
        self.ask(|_| ask(self.stub.clone(), Request::new(question.clone()))).await
    }

    /// The next message of a stream, within the timeout.
    pub(super) async fn next<A>(&self, stream: &mut Streaming<A>) -> Result<Option<A>, Failure> {
        match timeout(self.timeout, stream.message()).await {
            Ok(message) => message.map_err(|status| self.failure(status)),
            Err(_) => Err(self.too_late()),
        }
    }

    /// The next message of a stream, whenever it comes.
    pub(super) async fn wait<A>(&self, stream: &mut Streaming<A>) -> Result<Option<A>, Failure> {
        stream.message().await.map_err(|status| self.failure(status))
    }

    async fn ask<A, F>(&self, ask: impl Fn(Instant) -> F) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut tries = 1;
        loop {
            let failure = match timeout_at(deadline, ask(deadline)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => self.failure(status),
                Err(_) => return Err(self.too_late()),
            };
            let next = Instant::now() + PAUSE * tries;
            if !failure.unavailable() || tries == TRIES || next >= deadline {
                return Err(failure);
            }
            sleep_until(next).await;
            tries += 1;
        }
    }

    fn too_late(&self) -> Failure {
        let text = format!("no answer from {} within {}", self.server, humantime::format_duration(self.timeout));
        Status::deadline_exceeded(text).into()
    }

    /// A status with a cause was made on this side of the connection; the root cause tells what is wrong.
    fn failure(&self, status: Status) -> Failure {
        let mut cause = status.source();
        while let Some(deeper) = cause.and_then(Error::source) {
            cause = Some(deeper);
        }
        match (cause, status.code()) {
            (None, _) => status.into(),
            (Some(_), Code::Cancelled | Code::DeadlineExceeded) => self.too_late(),
            // A connection that breaks has many codes in tonic; to a caller the service is away.
            (Some(cause), _) => Status::unavailable(format!("cannot reach {}: {cause}", self.server)).into(),
        }
    }
}

/// Returns soon after the reader of standard output is gone, so that `watch | head -1` ends without another
/// transaction. Where that cannot be observed, it never returns.
pub(super) async fn reader_gone() -> io::Error {
    let mut looks = tokio::time::interval(LOOK);
    while reads(&io::stdout()) {
        looks.tick().await;
    }
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(unix)]
fn reads(stdout: &io::Stdout) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    // Asks for nothing: an error is always told, and the write end of a pipe without a reader is in error.
    let mut asked = [PollFd::new(stdout, PollFlags::empty())];
    match poll(&mut asked, Some(&Timespec::default())) {
        Ok(_) => !asked[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

#[cfg(not(unix))]
fn reads(_: &io::Stdout) -> bool {
    true
}

/// The value of `key` from the command line or else the environment.
fn setting<T>(
    key: &'static str,
    flag: Option<&str>,
    environment: &Environment,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    let (text, source) = match (flag, environment.get(key)) {
        (Some(text), _) => (text, Source::Flag),
        (None, text) => match text? {
            Some(text) => (text, Source::Environment),
            None => return Ok(None),
        },
    };
    let invalid = |expected| ConfigError::Value { value: text.to_owned(), place: Place::new(key, source), expected };
    parse(text).map(Some).map_err(invalid)
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("expected more than nothing".to_owned()),
        Ok(duration) if duration > LONGEST_TIMEOUT => Err("expected a day at most".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("expected a duration, as in 500ms or 1m: {error}")),
    }
}

/// An address with its scheme and port.
pub(super) fn server(text: &str) -> Result<String, String> {
    let expected = || "expected http://HOST:PORT or HOST:PORT".to_owned();
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Uri = url.parse().map_err(|_| expected())?;
    if url.scheme_str() == Some("https") {
        return Err("this version speaks plain HTTP/2 only, not https".to_owned());
    }
    let (Some(authority), Some("http"), "/", None) = (url.authority(), url.scheme_str(), url.path(), url.query())
    else {
        return Err(expected());
    };
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => DEFAULT_PORT,
        Some(_) => authority.port_u16().ok_or_else(expected)?,
        // A user's name stands before the host.
        None => return Err(expected()),
    };
    if host.is_empty() { Err(expected()) } else { Ok(format!("http://{host}:{port}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_port_may_be_left_out() {
        for text in ["http://host:50051", "http://host:50051/", "host:50051", "host", "http://host"] {
            assert_eq!(server(text).as_deref(), Ok("http://host:50051"), "{text}");
        }
        assert_eq!(server("[::1]:7").as_deref(), Ok("http://[::1]:7"));
        for bad in [
            "",
            "https://host",
            "ftp://host",
            "http://host/path",
            "host:port",
            "host:65536",
            "u@host:1",
            "host:",
            "a b",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeout_has_a_unit_and_bounds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "0s", "25h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
