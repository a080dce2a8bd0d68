//! Runs the binary, and a service that ends with its test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{CreateAccountRequest, ExecuteBatchRequest, Operation};
use serde_json::Value;

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");

/// The binary, in an environment that says nothing to it.
pub fn equipoise(arguments: &[&str]) -> Command {
    undisturbed(BINARY, arguments)
}

/// A command that hears signals, even when whoever runs the tests ignores them: what is ignored is inherited.
pub fn interruptible(program: &str, arguments: &[&str]) -> Command {
    if cfg!(target_os = "linux") {
        undisturbed("env", &[&["--default-signal=HUP,INT,TERM", program], arguments].concat())
    } else {
        undisturbed(program, arguments)
    }
}

fn undisturbed(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["EQUIPOISE_", "KAFKA_", "DATABASE_URL"].iter().any(|begin| text.starts_with(begin));
        if ours || text == "NO_COLOR" || text == "CLICOLOR_FORCE" {
            command.env_remove(name);
        }
    }
    // A service that is started with nothing said must not write into the home of whoever runs the tests.
    command.env("XDG_DATA_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a command that ended left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The lines of stdout, as JSON.
    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The only line of stderr, as a JSON error.
    pub fn error(&self) -> Value {
        let mut error: Value = serde_json::from_str(self.stderr.trim_end()).expect(&self.stderr);
        error["error"].take()
    }
}

pub fn run(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// As [`run`], of what might not end: then it has no exit code.
pub fn run_for(command: &mut Command, limit: Duration) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let began = Instant::now();
    while child.try_wait().expect("a child").is_none() && began.elapsed() < limit {
        thread::sleep(Duration::from_millis(5));
    }
    // It may have ended already.
    let _ = child.kill();
    let Output { status, stdout, stderr } = child.wait_with_output().expect("an end");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Sends `signal` (`TERM`, `INT`) to a child.
pub fn signal(child: &Child, signal: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
    assert!(status.expect("sh runs").success());
}

/// Waits for a child that should end soon.
pub fn ends_within(child: &mut Child, limit: Duration) -> ExitStatus {
    let began = Instant::now();
    loop {
        // Before the look: a test that sleeps too long is not the child's fault.
        let passed = began.elapsed();
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(passed < limit, "still running after {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A service on a free port, killed when it is dropped.
pub struct Service {
    pub child: Child,
    pub address: String,
    /// What it said on stderr until it was ready.
    pub said: Vec<String>,
    /// What it says since.
    more: mpsc::Receiver<String>,
}

impl Service {
    pub fn start() -> Self {
        Self::start_as(&mut equipoise(&["serve", "--in-memory", "--listen", "127.0.0.1:0"]))
    }

    pub fn start_as(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (lines, told) = mpsc::channel();
        // Reads to the end: the service must not wait for us.
        thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        let mut service = Service { child, address: String::new(), said: Vec::new(), more: told };
        while service.said.last().is_none_or(|line| line != "ready") {
            let line = service.next_line();
            if let Some(address) = line.strip_prefix("listening on ") {
                service.address = address.to_owned();
            }
            service.said.push(line);
        }
        service
    }

    fn next_line(&self) -> String {
        self.more.recv_timeout(SOON).expect("the service says more")
    }

    /// Waits until it says something.
    pub fn says(&self, what: &str) {
        while !self.next_line().contains(what) {}
    }

    /// Waits until a run of the bench changes accounts.
    pub fn wait_for_load(&self) {
        let began = Instant::now();
        let loaded = |account: &Value| account["version"].as_u64() > Some(9);
        while !self.json(&["accounts", "--prefix", "bench-"]).iter().any(loaded) {
            assert!(began.elapsed() < SOON, "nothing happens");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client command for this service.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = equipoise(arguments);
        command.env("EQUIPOISE_SERVER", &self.address);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments))
    }

    /// Opens `count` accounts in one batch.
    pub fn open(&self, prefix: &str, count: usize) {
        let server = format!("http://{}", self.address);
        let operation = |number| {
            let account_id = format!("{prefix}{number:06}");
            let create = CreateAccountRequest { account_id, initial_balance: 1, transaction_id: String::new() };
            Operation { operation: Some(Kind::CreateAccount(create)), linked: false }
        };
        let request = ExecuteBatchRequest { operations: (0..count).map(operation).collect() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(async {
            let mut client = AccountServiceClient::connect(server).await.expect("a connection");
            client.execute_batch(request).await.expect("an answer").into_inner()
        });
        assert!(answer.results.len() == count && answer.results.iter().all(|result| result.code == 0));
    }

    /// Runs what must succeed, with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let ended = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        ended.json()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of this test, removed with it.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(name: &str, text: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        TempFile(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
