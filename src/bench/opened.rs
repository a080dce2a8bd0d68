//! The target of a run: where it is, and how it is opened, filled and closed.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::call::{Stub, submit};
use super::metrics;
use super::names::Names;
use super::patience::Patience;
use super::spawned::Spawned;
use super::usage;
use super::{Error, Interrupt, Target};
use crate::grpc::proto;
use crate::grpc::proto::operation::Operation as OneOf;
use crate::{Durability, Ledger, Operation, Request};

/// How many entries a ledger in memory keeps, as a service does.
const HISTORY: usize = 100_000;
/// Accounts that are opened in one call.
const AT_ONCE: usize = 5_000;
/// The caller that opens them: nobody else counts ids from there.
pub(super) const OPENER: u32 = 9_999;

/// Where the target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A running service.
    Server {
        /// Its URL.
        url: String,
        /// Its process id, if it is on this machine.
        pid: Option<u32>,
        /// What it is; figures without a label are not compared.
        label: Option<String>,
    },
    /// A service that is started for the run.
    Spawn {
        /// The program.
        program: PathBuf,
        /// Its data directory; None for a temporary one.
        data_dir: Option<PathBuf>,
        /// Whether it keeps its state in memory.
        in_memory: bool,
    },
    /// A ledger in this process.
    Embedded {
        /// Its data directory; None to keep state in memory.
        data_dir: Option<PathBuf>,
    },
}

/// A target that can be called.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) target: Target,
    pub(super) reach: Reach,
    /// What a reader of the figures should know about it.
    pub(super) note: Option<String>,
    pid: Option<u32>,
    spawned: Option<Spawned>,
    /// Removed when everything else is gone.
    _dir: Option<TempDir>,
}

/// How it is called.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    Service(Box<Endpoint>),
    Ledger(Embedded),
}

/// A ledger in this process.
#[derive(Clone, Debug)]
pub(super) struct Embedded {
    pub(super) ledger: Ledger,
    pub(super) durable: bool,
}

impl Place {
    /// Whether callers are threads of this process.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self, Place::Embedded { .. })
    }
}

impl Opened {
    /// Opens the target at `place`; a ledger of its own with room for `accounts`.
    pub(super) fn open(
        place: &Place,
        accounts: u32,
        patience: Duration,
        interrupt: &Arc<Interrupt>,
    ) -> Result<Self, Error> {
        match place {
            Place::Server { url, pid, label } => {
                let target = Target::Service { server: url.clone(), durable: None, label: label.clone() };
                Ok(Opened { target, reach: service(url, patience)?, note: None, pid: *pid, spawned: None, _dir: None })
            }
            Place::Spawn { program, data_dir, in_memory } => {
                let temporary = if *in_memory || data_dir.is_some() { None } else { Some(temporary()?) };
                let dir = data_dir.as_deref().or(temporary.as_ref().map(TempDir::path));
                let spawned = Spawned::start(program, dir, interrupt)?;
                let url = format!("http://{}", spawned.address);
                let target = Target::Service { server: url.clone(), durable: Some(!in_memory), label: None };
                let (reach, pid) = (service(&url, patience)?, Some(spawned.pid()));
                let note = dir.and_then(no_disk);
                Ok(Opened { target, reach, note, pid, spawned: Some(spawned), _dir: temporary })
            }
            Place::Embedded { data_dir } => {
                let embedded = Embedded::open(data_dir.as_deref(), accounts)?;
                let target = Target::Embedded { durable: embedded.durable };
                let pid = Some(std::process::id());
                let note = data_dir.as_deref().and_then(no_disk);
                Ok(Opened { target, reach: Reach::Ledger(embedded), note, pid, spawned: None, _dir: None })
            }
        }
    }

    /// What the process that answers has used so far, where that can be seen.
    pub(super) fn usage(&self) -> Option<usage::Reading> {
        usage::read(self.pid?)
    }

    /// What the target tells of itself.
    pub(super) fn metrics(&self) -> metrics::Reading {
        match (&self.reach, &self.spawned) {
            (Reach::Ledger(embedded), _) => metrics::Reading::of_ledger(&embedded.ledger),
            (Reach::Service(_), Some(spawned)) => metrics::Reading::of_service(&spawned.metrics),
            (Reach::Service(_), None) => metrics::Reading::default(),
        }
    }

    /// Ends what was started for the run, and says what was wrong with that.
    pub(super) fn close(self) -> Result<(), String> {
        drop(self.reach);
        self.spawned.map_or(Ok(()), Spawned::stop)
    }
}

/// A directory for the time of the run.
fn temporary() -> Result<TempDir, Error> {
    tempfile::Builder::new().prefix("equipoise-bench-").tempdir().map_err(|error| {
        Error::Other(format!("cannot make a directory in {}: {error}", std::env::temp_dir().display()))
    })
}

/// Says so where `dir` is kept in memory: nothing waits for a disk there.
#[cfg(target_os = "linux")]
fn no_disk(dir: &Path) -> Option<String> {
    const TMPFS: i128 = 0x0102_1994;

    let system = rustix::fs::statfs(dir).ok()?;
    // Its type differs between the kinds of Linux.
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "where the type is another one it is needed"
    )]
    let kind = system.f_type as i128;
    (kind == TMPFS).then(|| format!("{} is in memory (tmpfs): nothing waited for a disk", dir.display()))
}

#[cfg(not(target_os = "linux"))]
fn no_disk(_: &Path) -> Option<String> {
    None
}

fn service(url: &str, patience: Duration) -> Result<Reach, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| Error::Other(format!("{url}: {error}")))?;
    Ok(Reach::Service(Box::new(endpoint.tcp_nodelay(true).connect_timeout(patience))))
}

/// A connection; what went wrong is told by its first cause.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect().await.map_err(|error| {
        let mut cause = error.source();
        while let Some(deeper) = cause.and_then(std::error::Error::source) {
            cause = Some(deeper);
        }
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        Status::unavailable(format!("cannot reach {}: {cause}", endpoint.uri())).into()
    })
}

impl Reach {
    /// Opens the run's accounts, and returns the newest sequence before that. `told` gets the number opened so far, and
    /// of how many.
    pub(super) async fn open_accounts(
        &self,
        names: &Names,
        initial: i64,
        patience: &Patience,
        told: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        match self {
            Reach::Service(endpoint) => {
                let mut stub = Stub::new(patience.wait(connect(endpoint)).await?);
                let request = proto::ListAccountsRequest { page_size: 1, ..proto::ListAccountsRequest::default() };
                let before = patience.wait(stub.list_accounts(request)).await?.into_inner().sequence;
                open_by_batches(&mut stub, names, initial, patience, told).await?;
                Ok(before)
            }
            Reach::Ledger(embedded) => {
                let before = embedded.ledger.sequence();
                embedded.open_accounts(names, initial, patience, told)?;
                Ok(before)
            }
        }
    }
}

async fn open_by_batches(
    stub: &mut Stub,
    names: &Names,
    initial: i64,
    patience: &Patience,
    told: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut ids = names.transactions(OPENER);
    let mut done = 0;
    for accounts in names.accounts().chunks(AT_ONCE) {
        let operation = |account: &crate::AccountId| {
            let create = proto::CreateAccountRequest {
                account_id: account.as_str().to_owned(),
                initial_balance: initial,
                transaction_id: ids.next_text().to_owned(),
            };
            proto::Operation { operation: Some(OneOf::CreateAccount(create)), linked: false }
        };
        let request = proto::ExecuteBatchRequest { operations: accounts.iter().map(operation).collect() };
        let results = patience.wait(stub.execute_batch(request)).await?.into_inner().results;
        if let Some(wrong) = results.into_iter().find(|result| result.code != 0) {
            return Err(Status::new(wrong.code.into(), wrong.message).into());
        }
        done += accounts.len() as u64;
        told(done);
    }
    Ok(())
}

impl Embedded {
    fn open(dir: Option<&Path>, accounts: u32) -> Result<Self, Error> {
        let builder = Ledger::builder().reserve(accounts as usize);
        let ledger = match dir {
            Some(dir) => builder.open(dir)?,
            None => builder.history(HISTORY).build(),
        };
        Ok(Embedded { ledger, durable: dir.is_some() })
    }

    /// A handle whose calls return when their answer cannot be lost any more: at once, in memory.
    pub(super) fn caller(&self) -> Self {
        let durability = if self.durable { Durability::OnDisk } else { Durability::Applied };
        Embedded { ledger: self.ledger.with_durability(durability), durable: self.durable }
    }

    fn open_accounts(
        &self,
        names: &Names,
        initial: i64,
        patience: &Patience,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let other = |error: &dyn std::fmt::Display| Error::Other(format!("cannot open an account: {error}"));
        let mut ids = names.transactions(OPENER);
        for (account, done) in names.accounts().iter().zip(1..) {
            let request = Request::single(Operation::create(account.clone(), initial)?, Some(ids.next_id()?));
            submit(&self.ledger, request)
                .map_err(|error| other(&error))?
                .result()
                .map_err(|refusal| other(&refusal))?;
            if done % AT_ONCE as u64 == 0 {
                patience.look()?;
                told(done);
            }
        }
        self.ledger.wait_durable(self.ledger.sequence()).map_err(|_| other(&"the ledger was closed"))
    }
}
