//! A service in a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use tonic::transport::Channel;

/// A service in a process of its own, and connections to it.
pub struct Served {
    process: Child,
    /// Host and port.
    pub address: String,
    channels: Vec<Channel>,
    pub clients: Vec<AccountServiceClient<Channel>>,
}

/// What threads have used of the processors, in the program and in the system, and the bytes that they wrote.
#[derive(Clone, Copy, Default)]
pub struct Used {
    pub program: Duration,
    pub system: Duration,
    pub written: u64,
}

impl Used {
    pub fn since(self, before: Used) -> Used {
        Used {
            program: self.program.saturating_sub(before.program),
            system: self.system.saturating_sub(before.system),
            written: self.written - before.written,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The end of its input tells it to stop, and to remove what it has on disk.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Served {
    /// Starts `service` of this program, or of the one that the environment names.
    pub async fn start(service: &str, connections: usize) -> Self {
        let program = std::env::var_os("GRPC_SERVICE").map_or_else(std::env::current_exe, |path| Ok(path.into()));
        let mut command = Command::new(program.expect("a program"));
        command.args(["--serve", service]);
        Served::run(command, connections).await
    }

    /// Starts a program that prints its address first.
    pub async fn run(mut command: Command, connections: usize) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut address = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut address).expect("its address");
        let address = address.trim().to_owned();
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(endpoint.connect().await.expect("a connection"));
        }
        let clients = channels.iter().cloned().map(AccountServiceClient::new).collect();
        Served { process, address, channels, clients }
    }

    /// A connection, in turn.
    pub fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// What the process has used of the CPUs (Linux).
    pub fn cpu_time(&self) -> Duration {
        times(&format!("/proc/{}/stat", self.process.id())).iter().sum()
    }

    /// What its threads of that name have used.
    pub fn threads(&self, name: &str) -> Used {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("Linux");
        let mut used = Used::default();
        for task in tasks.flatten().map(|task| task.path()) {
            let of_that_name = std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
            if of_that_name {
                let [program, system] = times(&task.join("stat").display().to_string());
                let io = std::fs::read_to_string(task.join("io")).expect("Linux");
                let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok());
                used.program += program;
                used.system += system;
                used.written += written.expect("a number of bytes");
            }
        }
        used
    }
}

/// Time in the program and in the system, of a `stat` file of /proc.
pub fn times(stat: &str) -> [Duration; 2] {
    let text = std::fs::read_to_string(stat).expect("Linux");
    let fields: Vec<_> = text.rsplit(") ").next().expect("fields after the name").split(' ').collect();
    [11, 12].map(|field| Duration::from_millis(10 * fields[field].parse::<u64>().expect("ticks")))
}
