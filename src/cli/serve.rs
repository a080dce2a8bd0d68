//! `equipoise serve`: the account service, from its settings to its end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::exit::Failure;
use crate::config::{Config, Environment};
use crate::ledger::Ledger;
use crate::{grpc, telemetry};

/// When the process ends, whatever still runs, counted from the signal: inside the 5 s of requirement E4.
const LATEST_END: Duration = Duration::from_millis(4_500);

/// How long work that outlived the service may take to notice.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// Run the account service
///
/// State lives in memory: it is lost when the service ends. SIGINT or SIGTERM ends it within 5 seconds, a second one
/// at once.
///
/// Every option can also be set in the environment and in the configuration file, there under its name with
/// underscores: max_connections = 500. An option wins over the environment, that over the file. An empty variable
/// counts as unset; an unknown one starting with EQUIPOISE_ is warned of, an unknown key in the file is refused.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise serve --listen 127.0.0.1:0 --log warn,equipoise=info
  equipoise serve --history 1000000 --print-config > equipoise.toml
  equipoise serve --config equipoise.toml"
)]
pub(super) struct Serve {
    /// The address to listen on; port 0 takes a free one [env: EQUIPOISE_LISTEN] [default: 127.0.0.1:50051]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// How many journal entries stay in memory [env: EQUIPOISE_HISTORY] [default: 100000]
    #[arg(long, value_name = "ENTRIES")]
    history: Option<String>,
    /// How many transaction ids stay in memory; past it the oldest are forgotten [env: EQUIPOISE_IDS] [default: 100000]
    #[arg(long, value_name = "N")]
    ids: Option<String>,
    /// How many connections may be open at once [env: EQUIPOISE_MAX_CONNECTIONS] [default: 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<String>,
    /// What is logged: error, warn, info, debug, trace or off, or target=level pairs [env: EQUIPOISE_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Where the journal will live; not there yet, so it is refused [env: EQUIPOISE_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// A TOML file with any of these settings [env: EQUIPOISE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in effect as TOML, and nothing else, and end
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        let config = self.resolve(environment)?;
        if self.print_config {
            let mut stdout = io::stdout().lock();
            stdout.write_all(config.to_toml().as_bytes())?;
            return Ok(stdout.flush()?);
        }
        // Last to go: it writes what is still waiting.
        let _log = telemetry::init(&config.log).map_err(|error| Failure::Other(format!("cannot log: {error}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Other(format!("cannot start: {error}")))?;
        let result = runtime.block_on(serve(config));
        runtime.shutdown_timeout(LEFTOVERS);
        result
    }

    fn resolve(&self, environment: &Environment) -> Result<Config, Failure> {
        let flags = [
            ("listen", self.listen.as_deref()),
            ("history", self.history.as_deref()),
            ("ids", self.ids.as_deref()),
            ("max_connections", self.max_connections.as_deref()),
            ("log", self.log.as_deref()),
            ("data_dir", self.data_dir.as_deref()),
        ];
        let file = self.config.clone().or_else(|| environment.get_os("config").map(PathBuf::from));
        Ok(Config::resolve(&flags, environment, file.as_deref())?)
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    // Before anything that takes time: a signal from now on is a graceful end.
    let shutdown = shutdown().map_err(|error| Failure::Other(format!("cannot wait for signals: {error}")))?;
    let (listener, address) = bind(&config.listen).await?;
    let ledger = Ledger::builder().history(config.history).id_capacity(config.ids).build();
    let options = grpc::Options { max_connections: config.max_connections, ..grpc::Options::default() };
    say("state lives in memory: it is lost when the service ends");
    say(&format!("listening on {address}"));
    let end = async {
        // The sender is never dropped: it waits for signals as long as the process lives.
        let _ = shutdown.await;
    };
    let result = grpc::serve(listener, ledger.clone(), options, end).await;
    ledger.close();
    result.map_err(|error| Failure::Other(format!("the service ended: {error}")))
}

async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let cannot = |error| Failure::Other(format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

/// A line for whoever started the service, whatever the log filter. Only before the service takes calls: a pipe that
/// nobody reads must not stop it later.
fn say(line: &str) {
    // A closed stderr is no reason not to serve.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Resolves at the first SIGINT or SIGTERM. From then on the process ends at the next one, or at [`LATEST_END`].
fn shutdown() -> io::Result<oneshot::Receiver<()>> {
    let mut signals = Signals::new()?;
    let (asked, answer) = oneshot::channel();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "shutting down");
        // The service may have ended by itself.
        let _ = asked.send(());
        tokio::select! {
            _ = signals.next() => {}
            () = sleep(LATEST_END) => {}
        }
        // What was answered is as safe as it will be, and the caller asked for an end: that is no failure.
        std::process::exit(0);
    });
    Ok(answer)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "CTRL-C",
            Err(_) => std::future::pending().await,
        }
    }
}
