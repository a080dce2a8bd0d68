//! `equipoise serve`: the account service, from its settings to its end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::consuming::Consuming;
use super::exit::Failure;
use super::limits;
use crate::config::{Config, Environment};
use crate::grpc::Books;
use crate::ledger::Ledger;
use crate::monitor::{self, LedgerMetrics, LogMetrics, Monitor};
use crate::telemetry::Losses;
use crate::{grpc, telemetry};

/// When the process ends, whatever still runs, counted from the signal: inside the 5 s of requirement E4.
const LATEST_END: Duration = Duration::from_millis(4_500);

/// How many calls may wait for a disk that does not answer before the others wait as well: each keeps a thread.
const BLOCKED: usize = 8192;

/// The ledger's name among the parts that must be ready.
const LEDGER: &str = "ledger";

/// The whole's name among the parts that must be ready.
const SERVICE: &str = "service";

/// How long a database may take to come up; the service is alive and not ready meanwhile.
#[cfg(feature = "postgres")]
const DATABASE_START: Duration = Duration::from_secs(60 * 60);

/// A service's threads besides the runtime's: for signals, the log, the journal, the id index, checkpoints and blocking
/// work.
const OTHER_THREADS: usize = 12;

/// How long work that outlived the service may take to stop.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// Run the account service
///
/// State lives in the data directory: what was answered survives a crash. The service is alive at once, and ready once
/// it has read what the directory holds; until then account calls get UNAVAILABLE. With --in-memory, state is lost when
/// the service ends. SIGINT or SIGTERM ends it within 5 seconds, a second signal at once. If the directory cannot be
/// opened (also because another process has it), or its journal fails, the exit code is 4.
///
/// Every option can also be set in the environment and in the configuration file, where it has the same name with
/// underscores: max_connections = 500. An option overrides the environment, and the environment overrides the file. An
/// empty variable counts as unset. An unknown variable starting with EQUIPOISE_ causes a warning; an unknown key in the
/// file is refused.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise serve --data-dir /var/lib/equipoise
  equipoise serve --in-memory --listen 127.0.0.1:0 --log warn,equipoise=info
  equipoise serve --ids 1000000 --print-config > equipoise.toml
  equipoise serve --config equipoise.toml"
)]
pub(super) struct Serve {
    /// The address to listen on; port 0 takes a free one [env: EQUIPOISE_LISTEN] [default: 127.0.0.1:50051]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The address for metrics, /healthz and /readyz over HTTP [env: EQUIPOISE_METRICS_LISTEN] [default: not served]
    #[arg(long, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// Where the journal lives; made if it is not there [env: EQUIPOISE_DATA_DIR] [default: $XDG_DATA_HOME/equipoise,
    /// else ~/.local/share/equipoise, else ./equipoise-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Keep state in memory; it is lost when the service ends [env: EQUIPOISE_IN_MEMORY] [default: false]
    ///
    /// A data directory from a weaker source is ignored then, one from the same or a stronger source is an error.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    in_memory: Option<String>,
    /// How many transaction ids stay in memory [env: EQUIPOISE_IDS] [default: 100000]
    ///
    /// Older ones are looked up on disk; with --in-memory they are forgotten.
    #[arg(long, value_name = "N")]
    ids: Option<String>,
    /// How long a transaction id is honoured, on disk and in PostgreSQL [env: EQUIPOISE_ID_WINDOW] [default: 24h]
    #[arg(long, value_name = "DURATION")]
    id_window: Option<String>,
    /// How long each file of the journal is [env: EQUIPOISE_SEGMENT_BYTES] [default: 16777216]
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<String>,
    /// After how many entries a checkpoint is written; about as many are read again at a start
    /// [env: EQUIPOISE_CHECKPOINT_EVERY] [default: 1000000]
    #[arg(long, value_name = "ENTRIES")]
    checkpoint_every: Option<String>,
    /// How many journal entries stay in memory, with --in-memory [env: EQUIPOISE_HISTORY] [default: 100000]
    #[arg(long, value_name = "ENTRIES")]
    history: Option<String>,
    /// How many connections may be open at once [env: EQUIPOISE_MAX_CONNECTIONS] [default: 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<String>,
    /// What is logged: error, warn, info, debug, trace or off, or target=level pairs [env: EQUIPOISE_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// A TOML file with any of these settings [env: EQUIPOISE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in effect as TOML, and nothing else, and end
    #[arg(long)]
    print_config: bool,
    /// End when standard input ends: with the process that started it and holds the other end
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

impl Serve {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        if self.print_config {
            let config = self.resolve(environment)?;
            let mut stdout = io::stdout().lock();
            stdout.write_all(config.to_toml().as_bytes())?;
            return Ok(stdout.flush()?);
        }
        // First of all: from now on a signal means a graceful end.
        let (exit_code, ends_with) = watch::channel(0);
        let shutdown = shutdown(ends_with, self.end_with_stdin)
            .map_err(|error| Failure::Other(format!("cannot wait for signals: {error}")))?;
        let config = self.resolve(environment)?;
        limits::try_threads(workers() + OTHER_THREADS).map_err(cannot_start)?;
        // Dropped last: it writes the lines that still wait.
        let log = telemetry::init(&config.log).map_err(|error| Failure::Other(format!("cannot log: {error}")))?;
        if telemetry::is_deaf(&config.log) {
            super::warn(&format!(
                "the log filter {} names no target of equipoise: not even errors are logged",
                config.log
            ));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .max_blocking_threads(BLOCKED)
            .build()
            .map_err(cannot_start)?;
        let result = runtime.block_on(serve(shutdown, config, log.losses()));
        if let Err(failure) = &result {
            exit_code.send_replace(failure.exit_code());
        }
        runtime.shutdown_timeout(LEFTOVERS);
        result
    }

    fn resolve(&self, environment: &Environment) -> Result<Config, Failure> {
        let flags = [
            ("listen", self.listen.as_deref()),
            ("metrics_listen", self.metrics_listen.as_deref()),
            ("data_dir", self.data_dir.as_deref()),
            ("in_memory", self.in_memory.as_deref()),
            ("ids", self.ids.as_deref()),
            ("id_window", self.id_window.as_deref()),
            ("segment_bytes", self.segment_bytes.as_deref()),
            ("checkpoint_every", self.checkpoint_every.as_deref()),
            ("history", self.history.as_deref()),
            ("max_connections", self.max_connections.as_deref()),
            ("log", self.log.as_deref()),
        ];
        let file = self.config.clone().or_else(|| environment.get_os("config").map(PathBuf::from));
        Ok(Config::resolve(&flags, environment, file.as_deref())?)
    }
}

async fn serve(shutdown: oneshot::Receiver<()>, config: Config, losses: Losses) -> Result<(), Failure> {
    // Settings that can be refused are refused before anything is reported.
    let opening = opening(&config)?;
    let consuming = Arc::new(Consuming::new(&config)?);
    let starting = consuming.clone();
    let (listener, address) = bind(&config.listen).await?;
    let monitor = Arc::<Monitor>::default();
    monitor.watch(LEDGER, || Some("not open yet".to_owned()));
    let counted = losses.clone();
    monitor.register(|registry| registry.register_collector(Box::new(LogMetrics(move || counted.lines()))));
    tokio::spawn(losses.tell());
    if let Some(listen) = &config.metrics_listen {
        let (listener, address) = bind(listen).await?;
        // Runs until the process ends, to show the shutdown, too.
        tokio::spawn(monitor::serve(listener, monitor.clone(), std::future::pending()));
        say(&format!("metrics on http://{address}/metrics"));
    }
    say(&match &config.data_dir {
        Some(dir) => format!("state lives in {}", absolute(dir).display()),
        None if config.database_url.is_some() => "state lives in PostgreSQL".to_owned(),
        None => "state lives in memory: it is lost when the service ends".to_owned(),
    });
    say(&format!("listening on {address}"));
    let options = grpc::Options { max_connections: config.max_connections, ..grpc::Options::default() };
    let ending = monitor.clone();
    let end = async move {
        // The sender is never dropped: it waits for signals as long as the process lives.
        let _ = shutdown.await;
        // So that load balancers send nothing more.
        ending.watch(SERVICE, || Some("it is shutting down".to_owned()));
        consuming.stop().await;
    };
    let opening = opening.on_ready(move |books| {
        opened(books, &monitor);
        starting.start(books, &monitor);
        say_ready();
    });
    grpc::serve(listener, opening, options, end).await.map_err(|error| match error {
        grpc::Error::Open(_) | grpc::Error::JournalFailed { .. } | grpc::Error::NoConnections { .. } => {
            Failure::Other(error.to_string())
        }
        #[cfg(feature = "postgres")]
        grpc::Error::Postgres(_) => Failure::Other(error.to_string()),
        _ => Failure::Other(format!("the service ended: {error}")),
    })
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::Other(format!("cannot start: {error}"))
}

/// How many worker threads the runtime has.
fn workers() -> usize {
    let said = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// The accounts are there.
fn opened(books: &Books, monitor: &Monitor) {
    match books {
        Books::Ledger(ledger) => {
            let metrics = Box::new(LedgerMetrics::new(ledger.clone()));
            monitor.register(|registry| registry.register_collector(metrics));
        }
        #[cfg(feature = "postgres")]
        Books::Postgres(store) => monitor.register(|registry| store.metrics().register(registry)),
    }
    let books = books.clone();
    monitor.watch(LEDGER, move || books.unavailable());
}

/// The accounts, on their way.
fn opening(config: &Config) -> Result<grpc::Opening, Failure> {
    if let Some(url) = &config.database_url {
        return on_postgres(url.expose(), config.id_window);
    }
    let builder = Ledger::builder().id_capacity(config.ids).observer(telemetry::log);
    Ok(match &config.data_dir {
        Some(dir) => {
            let builder = builder.segment_bytes(config.segment_bytes).checkpoint_every(config.checkpoint_every);
            grpc::Opening::on_disk(builder.id_window(config.id_window), dir)
        }
        None => builder.history(config.history).build().into(),
    })
}

#[cfg(feature = "postgres")]
fn on_postgres(url: &str, id_window: Duration) -> Result<grpc::Opening, Failure> {
    let mut settings = crate::postgres::Settings::new(url);
    settings.wait_for_start = DATABASE_START;
    settings.id_window = id_window;
    settings.check().map_err(|error| Failure::Usage(format!("DATABASE_URL: {error}")))?;
    Ok(grpc::Opening::on_postgres(settings))
}

/// A service that keeps its state elsewhere than where it was told to would be worse than none.
#[cfg(not(feature = "postgres"))]
fn on_postgres(_: &str, _: Duration) -> Result<grpc::Opening, Failure> {
    Err(Failure::Usage("DATABASE_URL is set, but this program was built without the feature postgres".to_owned()))
}

/// The path that somebody in another working directory would need.
fn absolute(dir: &str) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| PathBuf::from(dir))
}

/// On a thread of its own: a pipe that nobody reads must not stop the service.
fn say_ready() {
    tokio::task::spawn_blocking(|| say("ready"));
}

async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let cannot = |error| Failure::Other(format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

/// Prints a line for whoever started the service, whatever the log filter is. Blocks on a pipe that is not read.
fn say(line: &str) {
    // A closed stderr is no reason not to serve.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Resolves at the first SIGINT or SIGTERM, or, if `with_stdin`, at the end of standard input. After that the next
/// signal, or [`LATEST_END`], ends the process, whatever the service's threads wait for: this listens on a thread of
/// its own. The exit code is then 0, unless `exit_code` says otherwise.
fn shutdown(exit_code: watch::Receiver<u8>, with_stdin: bool) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let (asked, answer) = oneshot::channel();
    let listen = async move {
        let why = tokio::select! {
            name = signals.next() => name,
            () = end_of_stdin(), if with_stdin => "the end of standard input",
        };
        tracing::info!(signal = why, "shutting down");
        // The service may have ended by itself.
        let _ = asked.send(());
        tokio::select! {
            _ = signals.next() => {}
            () = sleep(LATEST_END) => {}
        }
        // What was answered is as safe as it will be, and the caller asked for an end.
        std::process::exit((*exit_code.borrow()).into())
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(listen))?;
    Ok(answer)
}

async fn end_of_stdin() {
    // An error counts as the end: nothing is read after it.
    let _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await;
}

/// SIGINT and SIGTERM.
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

/// Ctrl-C.
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
