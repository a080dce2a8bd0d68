//! The `equipoise` command: the service, and a client for people and scripts.
//!
//! Results go to stdout, everything else to stderr; `--json` prints results and the error as one object per line. The
//! exit code says how a command ended; `equipoise --help` lists the codes.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use uuid::{NoContext, Timestamp, Uuid};

use self::exit::Failure;
use crate::config::{Config, Environment};

mod accounts;
mod bench;
mod change;
#[cfg(feature = "kafka")]
mod check;
mod client;
mod compact;
mod consuming;
#[cfg(feature = "kafka")]
mod dead_letters;
mod destination;
mod entry;
mod exit;
mod export;
mod exported;
mod import;
mod inspect;
mod interrupt;
#[cfg(feature = "kafka")]
mod kafka;
mod limits;
mod output;
#[cfg(feature = "kafka")]
mod produce;
mod progress;
mod record;
mod serve;
mod stats;
mod transactions;
mod verify;

const EXIT_CODES: &str = "\
Exit codes:
  0  done (also when the reader of the output closed the pipe)
  1  refused: unknown or existing account, insufficient balance, a sequence that is not there, ...;
     or a check failed (bench run, produce)
  2  wrong usage, a setting that cannot be used, or a request the service calls invalid
  3  the service cannot be reached, is overloaded, or did not answer in time
  4  anything else: the data directory is damaged, in use or cannot be opened, its journal failed,
     the output cannot be written (a closed stdout counts as /dev/null), a port is taken, the system
     does not give enough threads or files, an internal error
  130  interrupted before it was done (bench run, produce)

export --output that is interrupted before it is done, and create, update and transfer before the
answer came, end by the signal itself: shells show that as 130 (SIGINT), 143 (SIGTERM) or 129 (SIGHUP).

Results go to stdout, messages to stderr. With --json each result is one JSON object a line, and an
error {\"error\":{\"code\":...,\"message\":...,\"exit\":...}}; lines of stderr that begin with warning: or
note: and a wrong command line stay text. Numbers are JSON numbers and exact, up to 9223372036854775807
(totals beyond): read them with a parser that keeps integers whole (jq from 1.7 on).

Example:
  equipoise serve &
  equipoise create alice --balance 100
  equipoise create bob
  equipoise transfer alice bob 30";

/// Account balances that many callers change at once, never lost, doubled or torn.
#[derive(Debug, Parser)]
#[command(name = "equipoise", version, arg_required_else_help = true, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Create(change::Create),
    Balance(accounts::Balance),
    Update(change::Update),
    Transfer(change::Transfer),
    Accounts(accounts::Accounts),
    Snapshot(accounts::Snapshot),
    Transaction(transactions::Transaction),
    Watch(transactions::Watch),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Export(export::Export),
    Import(import::Import),
    Compact(compact::Compact),
    Stats(stats::Stats),
    Bench(bench::Bench),
    #[cfg(feature = "kafka")]
    DeadLetters(dead_letters::DeadLetters),
    #[cfg(feature = "kafka")]
    Produce(produce::Produce),
}

/// What every client command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection and output")]
struct Common {
    /// Where the service is: http://HOST:PORT, or HOST:PORT [env: EQUIPOISE_SERVER] [default: http://127.0.0.1:50051]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How long to wait for an answer, as in 500ms or 1m [env: EQUIPOISE_TIMEOUT] [default: 10s]
    ///
    /// A service that is not there, or says UNAVAILABLE, is asked up to three times within that time; a change always
    /// under the same id, so that it takes effect once. For streams it is the wait for each message, except for watch,
    /// which waits for ever.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command that `arguments` (the program's name first) ask for; the answer is its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(error) => return exit::usage(&error),
    };
    if let Err(error) = limits::outlive_long_files() {
        warn(&format!("a file longer than this process may write will be its end: {error}"));
    }
    let environment = Environment::of_process();
    warn_of_unknown(&environment);
    let (result, json) = match &command {
        Command::Serve(serve) => (serve.run(&environment), false),
        Command::Create(create) => (create.run(&environment), create.common.json),
        Command::Balance(balance) => (balance.run(&environment), balance.common.json),
        Command::Update(update) => (update.run(&environment), update.common.json),
        Command::Transfer(transfer) => (transfer.run(&environment), transfer.common.json),
        Command::Accounts(accounts) => (accounts.run(&environment), accounts.common.json),
        Command::Snapshot(snapshot) => (snapshot.run(&environment), snapshot.common.json),
        Command::Transaction(transaction) => (transaction.run(&environment), transaction.common.json),
        Command::Watch(watch) => (watch.run(&environment), watch.common.json),
        Command::Verify(verify) => (verify.run(&environment), verify.json),
        Command::Inspect(inspect) => (inspect.run(), inspect.json),
        Command::Export(export) => (export.run(), false),
        Command::Import(import) => (import.run(), import.json),
        Command::Compact(compact) => (compact.run(&environment), compact.json),
        Command::Stats(stats) => (stats.run(), stats.json),
        Command::Bench(bench) => (bench.run(), bench.json()),
        #[cfg(feature = "kafka")]
        Command::DeadLetters(letters) => (letters.run(), letters.json()),
        #[cfg(feature = "kafka")]
        Command::Produce(produce) => (produce.run(&environment), produce.json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if matches!(command, Command::Serve(_)) => failure.report_within(false),
        Err(failure) => failure.report(json),
    }
}

/// How long the service honours a transaction id: the flag, or else what the service itself would use.
fn id_window(flag: Option<Duration>, config: Option<&Path>, environment: &Environment) -> Result<Duration, Failure> {
    let file = config.map(Path::to_owned).or_else(|| environment.get_os("config").map(PathBuf::from));
    flag.map_or_else(|| Ok(Config::resolve(&[], environment, file.as_deref())?.id_window), Ok)
}

/// Warns root of a directory of another user, or of a new one in such a place: that user's service cannot open what
/// root creates.
#[cfg(unix)]
fn warn_of_owner(directory: &Path) {
    use std::os::unix::fs::MetadataExt as _;

    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(path) = std::path::absolute(directory) else { return };
    let found = path.ancestors().find_map(|path| std::fs::metadata(path).ok().map(|there| (path, there)));
    let Some((nearest, there)) = found else { return };
    // Where everybody may write, as in /tmp, the owner of the place need not be that of the new directory.
    let for_all = nearest != path && there.mode() & 0o002 != 0;
    if there.uid() != 0 && !for_all {
        warn(&format!(
            "{} belongs to the user {}, who cannot open what root makes in it: run this as that user, or chown it \
             afterwards",
            nearest.display(),
            there.uid()
        ));
    }
}

#[cfg(not(unix))]
fn warn_of_owner(_: &Path) {}

/// A new UUID, of this moment; of the epoch, where the clock is before 1970.
fn new_uuid() -> Uuid {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Uuid::new_v7(Timestamp::from_unix(NoContext, since.as_secs(), since.subsec_nanos()))
}

/// Something worth knowing that is no result.
fn note(text: &str) {
    // The command can do without.
    let _ = writeln!(std::io::stderr(), "note: {}", output::escape(text));
}

/// Something that is probably not as it was meant.
fn warn(text: &str) {
    // Nobody can be told when stderr is closed, and the command can do without.
    let _ = writeln!(std::io::stderr(), "warning: {}", output::escape(text));
}

fn warn_of_unknown(environment: &Environment) {
    let unknown: Vec<_> = environment.unknown().collect();
    if !unknown.is_empty() {
        warn(&format!("no setting is called {}; ignored", unknown.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    /// The defaults in the help are those of [`Config`].
    #[test]
    fn help_of_serve_names_each_variable_and_default() {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut("serve").expect("serve").render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let defaults: toml::Table = Config::default().to_toml().parse().expect("TOML");
        for (key, value) in defaults {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            let expected = format!("[env: EQUIPOISE_{}] [default: {value}]", key.to_uppercase());
            assert!(help.contains(&expected), "{expected} is not in {help}");
        }
    }

    /// The service's limit is the one that the settings say.
    #[test]
    fn limits_have_one_default() {
        assert_eq!(Config::default().max_connections, crate::grpc::Options::default().max_connections);
    }

    /// Case A20: every command shows how it is used.
    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_help().to_string();
            assert!(help.contains(&format!("equipoise {}", command.get_name())), "{help}");
            assert!(help.contains("Example"), "{help}");
        }
    }
}
