//! A broker and a database: those that all tests share, and own ones that a trial may kill.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How many partitions a topic has here.
pub const PARTITIONS: i32 = 8;

/// A server that a script of `tests/servers` starts, on a port of its own; ended and deleted when it is dropped.
pub struct Server {
    script: String,
    variables: Vec<(&'static str, String)>,
    pub address: String,
    /// Locked while the port is in use: whoever else wants it, in another run of the tests too, waits.
    _port: File,
}

impl Server {
    pub fn broker(port: u16) -> Self {
        let mut variables = of_broker(port);
        // It may be killed, and is to be back soon.
        variables.push(("KAFKA_SESSION_MS", "3000".to_owned()));
        Server::begin("kafka", port, variables)
    }

    /// A broker with more properties than others, and options for what formats its data.
    pub fn broker_with(port: u16, properties: &Path, format: &str) -> Self {
        let mut variables = of_broker(port);
        variables.push(("KAFKA_PROPERTIES", properties.display().to_string()));
        variables.push(("KAFKA_FORMAT_OPTIONS", format.to_owned()));
        Server::begin("kafka", port, variables)
    }

    pub fn database(port: u16) -> Self {
        let home = home("postgres", port);
        let variables = vec![("POSTGRES_PORT", port.to_string()), ("POSTGRES_HOME_DIR", home.display().to_string())];
        Server::begin("postgres", port, variables)
    }

    fn begin(name: &str, port: u16, mut variables: Vec<(&'static str, String)>) -> Self {
        // Several may start at once.
        variables.extend(["KAFKA_START_TIMEOUT", "POSTGRES_START_TIMEOUT"].map(|name| (name, "300".to_owned())));
        let lock = File::create(home(name, port).with_extension("lock")).expect("a lock file");
        lock.lock().expect("the port");
        let script = format!("tests/servers/{name}.sh");
        let mut server = Server { script, variables, address: String::new(), _port: lock };
        server.run("destroy");
        server.start();
        server
    }

    pub fn start(&mut self) {
        self.address = self.run("start").trim().to_owned();
    }

    /// kill -9: the data stay as they are.
    pub fn kill(&self) {
        self.run("kill");
    }

    /// As `pg_ctl restart --mode=immediate`: sessions end without a word, and the log is recovered.
    pub fn restart_immediately(&mut self) {
        self.run("restart-immediately");
    }

    /// A PostgreSQL server becomes what another one is at this moment, with a life of its own. The other is down meanwhile.
    pub fn become_copy_of(&mut self, other: &mut Server) {
        self.run("destroy");
        other.run("stop");
        let [from, to] = [&*other, &*self].map(|server| server.home().join("data"));
        let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
        assert!(copied.success());
        other.start();
        self.start();
    }

    fn home(&self) -> &Path {
        let (_, home) = self.variables.iter().find(|(name, _)| *name == "POSTGRES_HOME_DIR").expect("a database");
        Path::new(home)
    }

    /// A PostgreSQL server comes back as a standby: it is read, and cannot be written.
    pub fn demote(&mut self) {
        self.run("stop");
        std::fs::write(self.home().join("data/standby.signal"), []).expect("written");
        self.start();
    }

    #[track_caller]
    fn run(&self, what: &str) -> String {
        self.try_run(what).unwrap_or_else(|said| panic!("{said}"))
    }

    fn try_run(&self, what: &str) -> Result<String, String> {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(&self.script));
        command.arg(what).envs(self.variables.iter().cloned()).stdin(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().expect("the script runs");
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).expect("an address"));
        }
        Err(format!("{} {what}: {}", self.script, String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.try_run("destroy");
        // A second panic would end all tests.
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

fn of_broker(port: u16) -> Vec<(&'static str, String)> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kafka-broker");
    vec![
        ("KAFKA_PORT", port.to_string()),
        ("KAFKA_HOME_DIR", home("kafka", port).display().to_string()),
        ("KAFKA_CACHE_DIR", cache.display().to_string()),
    ]
}

fn home(name: &str, port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("equipoise-{name}-{port}"))
}

/// The broker of the test run.
pub fn shared_broker() -> String {
    variable("TEST_KAFKA")
}

/// A fresh database on the server of the test run: its URL.
pub async fn fresh_database(name: &str) -> String {
    let server = variable("TEST_POSTGRES");
    let name = format!("inventory_{name}_{}", std::process::id());
    let client = crate::state::connect(&server).await;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (host, _) = server.rsplit_once('/').expect("a URL with a database");
    format!("{host}/{name}")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test.sh, which starts the servers"))
}
