//! README's demonstration of the inventory door, as it stands there, on ports of its own and with fewer events.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use crate::service::{Service, equipoise};

/// The broker's port, whose controller takes the next one, and the database's; several servers may start at once.
const SERVERS: [(&str, &str); 4] = [
    ("KAFKA_PORT", "28196"),
    ("POSTGRES_PORT", "28542"),
    ("KAFKA_START_TIMEOUT", "300"),
    ("POSTGRES_START_TIMEOUT", "300"),
];

/// The commands in README's section, without their comments.
fn commands() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("## Inventory events").expect("the section");
    let indented = |line: &&str| line.starts_with("    ");
    let blocks = section.lines().skip_while(|line| !indented(line));
    let demonstration = blocks.take_while(|line| indented(line) || line.is_empty()).filter(indented);
    demonstration.map(|line| line.split(" # ").next().expect("a part").trim().to_owned()).collect()
}

/// Where things are, in the shell that README talks to.
struct Shell {
    variables: Vec<(String, String)>,
    destroy: String,
    /// Whoever else runs this, waits.
    _lock: File,
}

impl Shell {
    fn new(destroy: &str) -> Self {
        let lock = File::create(std::env::temp_dir().join("equipoise-readme.lock")).expect("a lock file");
        lock.lock().expect("the ports");
        let variables = SERVERS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let shell = Shell { variables, destroy: destroy.to_owned(), _lock: lock };
        shell.run(destroy);
        shell
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        succeeded(line, self.bash(line).output().expect("bash runs"))
    }

    fn bash(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", line]).envs(self.variables.iter().cloned()).stdin(Stdio::null());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    /// What the program is run with by `cargo run … -- …`.
    fn program(&self, line: &str) -> Command {
        let arguments = line.strip_prefix("cargo run --release --features full -- ").expect("the program");
        let arguments = arguments.trim_end_matches('&').split_whitespace();
        let said = |argument: &str| match argument.strip_prefix("\"$").and_then(|name| name.strip_suffix('"')) {
            Some(name) => self.variable(name),
            None => argument.to_owned(),
        };
        let arguments: Vec<_> = arguments.map(said).collect();
        let mut command = equipoise(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        for name in ["KAFKA_BROKERS", "DATABASE_URL"] {
            command.env(name, self.variable(name));
        }
        command
    }

    fn variable(&self, name: &str) -> String {
        let found = self.variables.iter().find(|(it, _)| it == name);
        found.unwrap_or_else(|| panic!("{name} is not set")).1.clone()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.destroy);
        let ended = self.bash(&line).output();
        // A second panic would end all tests.
        if !std::thread::panicking() {
            succeeded(&line, ended.expect("bash runs"));
        }
    }
}

#[track_caller]
fn succeeded(what: &str, output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {} {said}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

/// D1, D8: whoever types what README says gets what it says.
#[test]
fn the_demonstration_runs_as_it_is_written() {
    let commands = commands();
    let [start, serve, produce, psql, destroy] = &commands[..] else { panic!("{commands:?}") };
    let mut shell = Shell::new(destroy);
    let set = shell.run(&format!("{start}; printf '%s\\n' \"$KAFKA_BROKERS\" \"$DATABASE_URL\""));
    let [brokers, url] = set.lines().collect::<Vec<_>>()[..] else { panic!("{set}") };
    shell
        .variables
        .extend([("KAFKA_BROKERS", brokers), ("DATABASE_URL", url)].map(|(name, value)| (name.into(), value.into())));

    let other_ports = serve.replace("127.0.0.1:9464", "127.0.0.1:0");
    assert!(serve.ends_with('&') && other_ports != *serve, "{serve}");
    let service = Service::spawn(shell.program(&other_ports).env("EQUIPOISE_LISTEN", "127.0.0.1:0"));
    let fewer = produce
        .replace("--events 100000", "--events 5000")
        .replace("--poison 0.001", "--poison 0.01 --check-patience 10m");
    assert!(fewer.contains("5000") && fewer.contains("0.01"), "{produce}");
    let told = succeeded(&fewer, shell.program(&fewer).stdout(Stdio::piped()).output().expect("it runs"));
    assert!(told.contains("check        everything is as it must be"), "{told}");
    assert!(!told.contains(" 0 refused") && !told.contains("dead letters 0\n"), "{told}");
    let products = shell.run(psql);
    assert!(products.contains("sku-000000") && products.contains("(5 rows)"), "{products}");
    service.stop();
}
