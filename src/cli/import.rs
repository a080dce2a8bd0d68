//! `equipoise import`: opens the accounts of an export in another data directory.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::exit::Failure;
use super::exported::{Exported, Reader};
use super::output::{Output, Page, Record, escape};
use super::progress::Bar;
use crate::{Exhausted, HistoryError, Kind, Ledger, Operation, Outcome, Request, SubmitError, TransactionId};

/// After how many accounts it waits for the disk.
const STEP: u64 = 50_000;
/// How many entries are read at once.
const PAGE: usize = 1_000;
/// After how many accounts the progress bar moves.
const SHOWN_EVERY: u64 = 1_000;

/// Open the accounts that export wrote, with their balances, in a data directory
///
/// The directory is made if it does not exist; no service may be using it. All of the input is checked before any
/// account is opened: its form, its order, its number of accounts, and that no account exists already with another
/// history. Input that cannot be read twice, such as a pipe, is kept in an unnamed temporary file meanwhile (see
/// TMPDIR): nothing is left of it, however the command ends.
///
/// Each account is opened under a transaction id that is made from the exported ledger and the account's id: after an
/// interruption, run the same import again, and it passes over the accounts that are there already. That holds as long
/// as transaction ids are honoured (24 hours), and for accounts that did not change since as long as the journal's
/// entries are there. Versions begin at 1 again, and sequences are those of the directory: those of the export are not
/// used, and may be left out.
///
/// The exported ledger's transaction ids are not taken over either: a request that was done there and is sent again to
/// this one runs again. To keep them, stop the service there and copy its directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise import /var/lib/equipoise-new accounts.jsonl
  equipoise export /var/lib/equipoise | equipoise import /var/lib/equipoise-new")]
pub(super) struct Import {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// What export wrote [default: stdin]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl Import {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let file = self.file.as_deref().filter(|path| *path != Path::new("-")).map(Source::open).transpose()?;
        super::warn_of_owner(&self.directory);
        // A directory in use is reported at once; a new one is made only for good input.
        let there = self.directory.join("LOCK").exists();
        let opened = if there { Some(self.open()?) } else { None };
        let input = file.map_or_else(|| Input::spool(&mut io::stdin().lock()), Input::of)?;
        let checked = input.check()?;
        let ledger = opened.map_or_else(|| self.open(), Ok)?;
        let importing = Importing { ledger, input, bar: Bar::of_accounts(self.json), page: RefCell::default() };
        let summary = importing.run(&checked);
        importing.bar.clear();
        let mut output = Output::new(self.json);
        output.record(&summary?)?;
        Ok(output.flush()?)
    }

    fn open(&self) -> Result<Ledger, Failure> {
        let bar = Bar::of_bytes(self.json);
        let told = bar.clone();
        let ledger = Ledger::builder().progress(move |progress| told.follow(progress)).open(&self.directory);
        bar.clear();
        Ok(ledger?)
    }
}

/// An input file: whether it can be read once only, like a pipe, or again.
enum Source {
    Once(File),
    Again(File),
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failure> {
        let cannot = |error| Failure::Usage(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(cannot)?;
        match file.metadata().map_err(cannot)? {
            metadata if metadata.is_file() => Ok(Source::Again(file)),
            metadata if metadata.is_dir() => Err(cannot(io::ErrorKind::IsADirectory.into())),
            _ => Ok(Source::Once(file)),
        }
    }
}

/// The export, in a file that can be read from the beginning again.
struct Input(File);

/// What all of the input comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Checked {
    accounts: u64,
    total: i128,
}

impl Input {
    fn of(source: Source) -> Result<Self, Failure> {
        match source {
            Source::Once(mut file) => Self::spool(&mut file),
            Source::Again(file) => Ok(Input(file)),
        }
    }

    /// Keeps what can be read only once.
    fn spool(source: &mut dyn io::Read) -> Result<Self, Failure> {
        let folder = std::env::temp_dir();
        let cannot = |error| Failure::Other(format!("cannot keep the input in {}: {error}", folder.display()));
        let path = folder.join(format!("equipoise-import-{}", super::new_uuid().simple()));
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(cannot)?;
        fs::remove_file(&path).map_err(cannot)?;
        io::copy(source, &mut file).map_err(cannot)?;
        Ok(Input(file))
    }

    fn read(&self) -> Result<Reader<BufReader<&File>>, Failure> {
        let mut file = &self.0;
        file.rewind().map_err(|error| Failure::Other(format!("cannot read the input: {error}")))?;
        Reader::begin(BufReader::with_capacity(1 << 20, file))
    }

    fn check(&self) -> Result<Checked, Failure> {
        let mut reader = self.read()?;
        let mut total = 0;
        while let Some(exported) = reader.next()? {
            total += i128::from(exported.balance);
        }
        Ok(Checked { accounts: reader.accounts, total })
    }
}

struct Importing {
    ledger: Ledger,
    input: Input,
    bar: Bar,
    /// Entries that were read ahead: an import's accounts have one each, in the order of the input.
    page: RefCell<Vec<Outcome>>,
}

impl Importing {
    fn run(&self, checked: &Checked) -> Result<Summary, Failure> {
        if self.ledger.stats().accounts > 0 {
            self.look_for_others()?;
        }
        let before = self.total()?;
        let mut summary = Summary { accounts: 0, opened: 0, already_there: 0, total: 0, sequence: 0 };
        let mut opened_total = 0;
        let mut reader = self.input.read()?;
        while let Some(exported) = reader.next()? {
            let id = transaction_id(&reader.ledger, &exported)?;
            if self.is_there(&exported, &id)? {
                summary.already_there += 1;
            } else {
                summary.sequence = self.create(&exported, id)?;
                summary.opened += 1;
                opened_total += i128::from(exported.balance);
                if summary.opened.is_multiple_of(STEP) {
                    self.wait(summary.sequence)?;
                }
            }
            summary.accounts += 1;
            summary.total += i128::from(exported.balance);
            if summary.accounts.is_multiple_of(SHOWN_EVERY) {
                self.bar.show(summary.accounts, checked.accounts);
            }
        }
        self.wait(summary.sequence)?;
        summary.sequence = self.ledger.durable();
        let imported = Checked { accounts: summary.accounts, total: summary.total };
        if imported != *checked {
            return Err(Failure::Other("the input changed while it was read".to_owned()));
        }
        let after = self.total()?;
        if before + opened_total != after {
            let what = format!("the ledger's total is {after}, and not {before} + {opened_total}");
            return Err(Failure::Other(what));
        }
        Ok(summary)
    }

    /// Fails when an account is there that this import did not open.
    fn look_for_others(&self) -> Result<(), Failure> {
        let mut reader = self.input.read()?;
        while let Some(exported) = reader.next()? {
            self.is_there(&exported, &transaction_id(&reader.ledger, &exported)?)?;
        }
        Ok(())
    }

    /// Whether an earlier run opened the account.
    fn is_there(&self, exported: &Exported, id: &TransactionId) -> Result<bool, Failure> {
        let Some(state) = self.ledger.balance(&exported.account) else { return Ok(false) };
        if self.transaction(id)?.is_some_and(|outcome| opens(&outcome, exported, id)) {
            return Ok(true);
        }
        // Its id may be forgotten; the entry that opened it, and was its only one, may still be read.
        if state.version == 1 && self.entry(state.sequence)?.is_some_and(|outcome| opens(&outcome, exported, id)) {
            return Ok(true);
        }
        let Exported { line, account, .. } = exported;
        Err(Failure::Refused(format!(
            "line {line}: account {account} is there already with another history: balance {}, version {}",
            state.balance, state.version
        )))
    }

    fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, Failure> {
        none_when_gone(self.ledger.transaction(id))
    }

    fn entry(&self, sequence: u64) -> Result<Option<Outcome>, Failure> {
        let mut page = self.page.borrow_mut();
        let place = |page: &[Outcome]| page.binary_search_by_key(&sequence, Outcome::sequence).ok();
        if place(&page).is_none() {
            *page = none_when_gone(self.ledger.history(sequence, PAGE).map(Some))?.unwrap_or_default();
        }
        Ok(place(&page).map(|place| page[place].clone()))
    }

    /// Opens the account; the sequence of that.
    fn create(&self, exported: &Exported, id: TransactionId) -> Result<u64, Failure> {
        let invalid = |error| Failure::Usage(format!("line {}: {error}", exported.line));
        let operation = Operation::create(exported.account.clone(), exported.balance).map_err(invalid)?;
        let request = Request::single(operation, Some(id));
        let outcome = loop {
            match self.ledger.submit(request.clone()) {
                Ok(outcome) => break outcome,
                Err(SubmitError::Exhausted(Exhausted::Backlog { .. })) => self.wait(self.ledger.sequence())?,
                Err(error) => return Err(self.stopped(exported.line, &error)),
            }
        };
        match outcome.result() {
            Ok(_) => Ok(outcome.sequence()),
            Err(refusal) => Err(Failure::Refused(format!("line {}: {refusal}", exported.line))),
        }
    }

    fn stopped(&self, line: u64, error: &SubmitError) -> Failure {
        if let SubmitError::AnswerGone(_) = error {
            return Failure::Refused(format!("line {line}: {error}"));
        }
        let what = format!("line {line}: {error}; the accounts before it are open: run the same import again");
        match error {
            SubmitError::Invalid(_) => Failure::Refused(what),
            _ => Failure::Other(what),
        }
    }

    fn wait(&self, sequence: u64) -> Result<(), Failure> {
        self.ledger.wait_durable(sequence).map_err(|closed| {
            let what = self.ledger.failure().unwrap_or_else(|| closed.to_string());
            Failure::Other(format!("{what}; run the same import again"))
        })
    }

    fn total(&self) -> Result<i128, Failure> {
        let snapshot = self.ledger.snapshot();
        Ok(snapshot.map_err(|error| Failure::Other(error.to_string()))?.total())
    }
}

/// Under which id the account is opened: always the same for the same exported ledger, so that it is opened once.
fn transaction_id(ledger: &str, exported: &Exported) -> Result<TransactionId, Failure> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(ledger.as_bytes()).update(exported.account.as_str().as_bytes());
    let digits = hasher.finalize().to_hex();
    TransactionId::new(&format!("import-{}", &digits[..32])).map_err(|error| Failure::Other(error.to_string()))
}

/// Whether `outcome` is that `id` opened the account as it was exported.
fn opens(outcome: &Outcome, exported: &Exported, id: &TransactionId) -> bool {
    let same = |kind: &Kind| {
        matches!(kind, Kind::Create { account, initial_balance }
            if *account == exported.account && *initial_balance == exported.balance)
    };
    let mut members = outcome.members().iter();
    outcome.result().is_ok() && members.any(|member| member.id.as_ref() == Some(id) && same(member.operation.kind()))
}

fn none_when_gone<T>(found: Result<Option<T>, HistoryError>) -> Result<Option<T>, Failure> {
    match found {
        Err(HistoryError::Gone(_)) => Ok(None),
        found => found.map_err(|error| Failure::Other(error.to_string())),
    }
}

/// What came of it.
#[derive(Serialize)]
struct Summary {
    /// All of the input's.
    accounts: u64,
    opened: u64,
    /// An earlier run had opened them.
    already_there: u64,
    /// What the input's balances add up to.
    total: i128,
    /// Where the ledger stands.
    sequence: u64,
}

impl Record for Summary {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Summary { accounts, opened, already_there, total, sequence } = self;
        page.line(escape(&format!(
            "{accounts} accounts, total {total}: {opened} opened, {already_there} were there already; sequence {sequence}"
        )))
    }
}
