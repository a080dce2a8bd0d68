//! A real service on a directory, killed when it is dropped; and `verify`.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use equipoise::verify::{Options, Report, verify};
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");

/// The binary, in an environment that says nothing to it.
pub fn equipoise(arguments: &[&str]) -> Command {
    undisturbed(BINARY, arguments)
}

/// As [`equipoise`]; it hears signals, even when whoever runs the tests ignores them: what is ignored is inherited.
pub fn interruptible(arguments: &[&str]) -> Command {
    undisturbed("env", &[&["--default-signal=HUP,INT,TERM", BINARY], arguments].concat())
}

fn undisturbed(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    let ours = ["EQUIPOISE_", "KAFKA_", "DATABASE_URL"];
    let said = |name: &std::ffi::OsStr| ours.iter().any(|begin| name.to_string_lossy().starts_with(begin));
    for (name, _) in std::env::vars_os().filter(|(name, _)| said(name)) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// `equipoise serve` on `dir`: smallest segments, a checkpoint every 200 entries.
pub fn serve(dir: &Path) -> Command {
    serve_with(dir, &["--checkpoint-every", "200"])
}

pub fn serve_with(dir: &Path, more: &[&str]) -> Command {
    let dir = dir.to_str().unwrap();
    // Refusals are wanted here, and many.
    let log = "info,equipoise::audit=off";
    let arguments = ["serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--segment-bytes", "1048576", "--log", log];
    equipoise(&[&arguments, more].concat())
}

/// Sends a process a signal by name.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status();
    assert!(status.expect("sh runs").success());
}

type Said = Arc<parking_lot::Mutex<Vec<String>>>;

pub struct Service {
    child: Child,
    said: Said,
    listening: Option<JoinHandle<()>>,
    pub address: String,
}

impl Service {
    /// Starts it, and waits until it takes calls.
    pub fn start(command: &mut Command) -> Self {
        let service = Service::begin(command);
        service.wait_for("ready");
        service
    }

    /// Starts it, and waits until it listens.
    pub fn begin(command: &mut Command) -> Self {
        let mut service = Service::spawn(command);
        let line = service.wait_for("listening on ");
        line["listening on ".len()..].clone_into(&mut service.address);
        service
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let said = Said::default();
        let heard = said.clone();
        let listen = move || stderr.lines().map_while(Result::ok).for_each(|line| heard.lock().push(line));
        Service { child, said, listening: Some(thread::spawn(listen)), address: String::new() }
    }

    /// Waits for a line on stderr that begins with `start`.
    #[track_caller]
    pub fn wait_for(&self, start: &str) -> String {
        self.wait_for_line(start, |line| line.starts_with(start))
    }

    #[track_caller]
    fn wait_for_line(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + SOON;
        loop {
            if let Some(line) = self.said.lock().iter().find(|line| is_it(line)) {
                return line.clone();
            }
            let ended = self.listening.as_ref().is_none_or(JoinHandle::is_finished);
            let found = || self.said.lock().iter().any(|line| is_it(line));
            assert!(!ended || found(), "it ended without {what:?}:\n{}", self.said());
            assert!(Instant::now() < until, "no {what:?}:\n{}", self.said());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has said something.
    pub async fn says(&self, what: &str) {
        let until = Instant::now() + SOON;
        while !self.said().contains(what) {
            assert!(Instant::now() < until, "it does not say {what:?}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it is ready, or has ended; then what it said.
    pub fn ready_or_ended(&self) -> Result<(), String> {
        while self.listening.as_ref().is_some_and(|listening| !listening.is_finished()) {
            if self.said.lock().iter().any(|line| line == "ready") {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(self.said())
    }

    /// What is on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        })
    }

    /// What operators are told at `path`: the first line of the answer, and its body.
    pub fn told(&self, path: &str) -> (String, String) {
        self.try_told(path).unwrap()
    }

    /// The same of a service that may have ended.
    pub fn try_told(&self, path: &str) -> io::Result<(String, String)> {
        let line = self.wait_for("metrics on http://");
        let address = line.trim_start_matches("metrics on http://").trim_end_matches("/metrics");
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((head.lines().next().unwrap().to_owned(), body.to_owned()))
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.told("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// kill -9, and what it said until then; a panic among it is one too many.
    pub fn kill(mut self) -> String {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
        self.last_words()
    }

    /// SIGTERM: it ends with 0.
    pub fn stop(self) -> String {
        self.signal("TERM");
        self.ended_well(SOON)
    }

    /// E4: SIGTERM: it ends with 0 within 5 s of when it hears the signal.
    pub fn stop_in_time(self) -> String {
        self.signal("TERM");
        self.wait_for_line("shutting down", |line| line.contains("shutting down"));
        self.ended_well(Duration::from_secs(5))
    }

    fn ended_well(self, limit: Duration) -> String {
        let (status, said) = self.ended_within(limit);
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }

    /// Waits for it to end by itself: how it did, and what it said.
    pub fn ended_within(mut self, limit: Duration) -> (ExitStatus, String) {
        let began = Instant::now();
        loop {
            // Before the look: a test that sleeps too long is not the child's fault.
            let passed = began.elapsed();
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status, self.last_words());
            }
            assert!(passed < limit, "still running after {limit:?}:\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn last_words(&mut self) -> String {
        if let Some(listening) = self.listening.take() {
            listening.join().expect("a listener");
        }
        let said = self.said();
        assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
        said
    }

    pub fn endpoint(&self) -> Endpoint {
        Channel::from_shared(format!("http://{}", self.address)).unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::new(self.endpoint().connect().await.unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let said = self.said();
            let last = said.lines().rev().take(20).collect::<Vec<_>>();
            eprintln!("the service had said, newest first:\n{}", last.join("\n"));
        }
    }
}

/// Asserts that `dir` is whole.
#[track_caller]
pub fn verified(dir: &Path) -> Report {
    match verify(dir, &Options::default(), &mut |_, _| {}) {
        Ok(report) => report,
        Err(problem) => panic!("{}: {problem}", dir.display()),
    }
}

/// Says that something cannot be tried here, past what libtest keeps to itself: scripts/test.sh counts such lines.
pub fn skipped(what: &str) {
    let _ = writeln!(io::stderr(), "\nskipped: {what}");
}

/// Runs a command to its end: its exit code and stderr.
pub fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stderr(Stdio::piped()).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
