//! A service in a process of its own, started for the run.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{Error, Interrupt};

/// How long the service may take to end: what it promises, and a margin.
const END: Duration = Duration::from_secs(7);
/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// What it prints before it is ready.
const LISTENING: &str = "listening on ";
const METRICS: &str = "metrics on http://";

/// A child that serves, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Spawned {
    child: Child,
    pub(super) address: String,
    /// Where its metrics are, without the scheme and the path.
    pub(super) metrics: String,
    interrupt: Arc<Interrupt>,
}

impl Spawned {
    /// Starts `program serve`, on free ports, with its state in `dir` or in memory, and waits until it is ready.
    pub(super) fn start(program: &Path, dir: Option<&Path>, interrupt: &Arc<Interrupt>) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log", "off"]);
        // However this process ends, that closes its end of the child's standard input.
        command.arg("--end-with-stdin");
        match dir {
            Some(dir) => command.arg("--data-dir").arg(dir),
            None => command.arg("--in-memory"),
        };
        // The service's settings in this environment do not apply to the one that is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| configures(name)) {
            command.env_remove(name);
        }
        // In a process group of its own: Ctrl-C at a terminal ends the run, and the run ends the service.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let shown = program.display().to_string();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| Error::Other(format!("cannot start {shown}: {error}")))?;
        interrupt.set_child(Some(child.id()));
        let interrupt = interrupt.clone();
        let mut spawned = Spawned { child, address: String::new(), metrics: String::new(), interrupt };
        spawned.wait_until_ready(shown)?;
        Ok(spawned)
    }

    fn wait_until_ready(&mut self, program: String) -> Result<(), Error> {
        let Some(stderr) = self.child.stderr.take() else { return Ok(()) };
        let (lines, told) = mpsc::channel();
        // Reads to the end: the service must not wait for us.
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)));
        });
        let mut said = Vec::new();
        loop {
            let line = match told.recv_timeout(LOOK) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) if self.interrupt.is_asked() => return Err(Error::Interrupted),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(address) = line.strip_prefix(LISTENING) {
                self.address = address.to_owned();
            } else if let Some(url) = line.strip_prefix(METRICS) {
                self.metrics = url.trim_end_matches("/metrics").to_owned();
            } else if line == "ready" {
                return Ok(());
            }
            said.push(line);
        }
        Err(Error::Spawn { program, said: said.join("; ") })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, waits for that, and returns what went wrong.
    pub(super) fn stop(mut self) -> Result<(), String> {
        self.ask();
        let began = Instant::now();
        while began.elapsed() < END {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the service ended with {status}")),
                Ok(None) => std::thread::sleep(LOOK),
                Err(error) => return Err(format!("cannot wait for the service: {error}")),
            }
        }
        Err(format!("the service did not end within {END:?}, and was killed"))
    }

    #[cfg(unix)]
    fn ask(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};

        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    #[cfg(not(unix))]
    fn ask(&mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // Before its process id may be reused.
        self.interrupt.set_child(None);
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configures(name: &OsString) -> bool {
    let text = name.to_string_lossy();
    name == OsStr::new("DATABASE_URL") || ["EQUIPOISE_", "KAFKA_"].iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that cannot start says why, and nothing waits for it.
    #[cfg(unix)]
    #[test]
    fn what_ends_before_it_is_ready_is_quoted() {
        let error = Spawned::start(Path::new("/bin/sh"), None, &Arc::default()).expect_err("sh knows no such script");
        assert!(error.to_string().starts_with("/bin/sh ended before it was ready: "), "{error}");
        let error = Spawned::start(Path::new("/nowhere/equipoise"), None, &Arc::default()).expect_err("not there");
        assert!(error.to_string().starts_with("cannot start /nowhere/equipoise: "), "{error}");
    }
}
