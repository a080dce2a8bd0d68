//! Arbitrary changes to the files of a good data directory: never a panic, never a silent change.

#![no_main]

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use equipoise::{AccountId, Operation, Request, TransactionId};
use equipoise_fuzz::directory::{Directory, check};
use libfuzzer_sys::fuzz_target;

/// What happens to a file, chosen among those there are.
#[derive(Arbitrary, Debug)]
struct Harm {
    file: u8,
    kind: Kind,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Overwrite {
        at: u16,
        bytes: Vec<u8>,
    },
    Cut {
        at: u16,
    },
    Append {
        bytes: Vec<u8>,
    },
    Replace {
        bytes: Vec<u8>,
    },
    /// Copies what stands at one place to another.
    Copy {
        from: u16,
        to: u16,
        length: u16,
    },
    Remove,
    Rename {
        name: u8,
    },
}

const NAMES: [&str; 6] = [
    "journal/0000000001.segment",
    "journal/0000000002.segment",
    "journal/0000000003.segment",
    "journal/spare",
    "checkpoints/00000000000000000020.checkpoint",
    "checkpoints/00000000000000000040.checkpoint",
];

/// The files of a ledger that was closed after some dozens of operations.
fn good() -> &'static Vec<(String, Vec<u8>)> {
    static GOOD: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let directory = Directory::new();
        let ledger = directory.open().expect("an empty directory");
        let accounts = ["alice", "bob"].map(|name| AccountId::new(name).expect("an id"));
        for account in &accounts {
            ledger.create(account, 1_000).expect("new");
        }
        for number in 0..40 {
            let [from, to] = accounts.clone();
            let operation = Operation::transfer(from, to, 30).expect("valid");
            let id = TransactionId::new(&format!("transfer-{number}")).expect("an id");
            let outcome = ledger.submit(Request::single(operation, Some(id))).expect("decided");
            ledger.wait_durable(outcome.sequence()).expect("durable");
        }
        drop(ledger);
        let root = directory.contents();
        let name = |path: &std::path::Path| {
            let folder = path.parent().and_then(std::path::Path::file_name).expect("a folder");
            format!("{}/{}", folder.to_string_lossy(), path.file_name().expect("a name").to_string_lossy())
        };
        root.into_iter().map(|(path, bytes)| (name(&path), bytes)).collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(harms) = Vec::<Harm>::arbitrary(&mut input) else { return };
    let mut files = good().clone();
    for Harm { file, kind } in harms.into_iter().take(6) {
        if files.is_empty() {
            break;
        }
        let chosen = usize::from(file) % files.len();
        let (name, bytes) = &mut files[chosen];
        let place = |at: u16| usize::from(at).min(bytes.len());
        match kind {
            Kind::Overwrite { at, bytes: new } => {
                let at = place(at);
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            Kind::Cut { at } => bytes.truncate(usize::from(at)),
            Kind::Append { bytes: more } => bytes.extend(more),
            Kind::Replace { bytes: new } => *bytes = new,
            Kind::Copy { from, to, length } => {
                let (from, to) = (place(from), place(to));
                let length = usize::from(length).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
            Kind::Remove => drop(files.remove(chosen)),
            Kind::Rename { name: new } => *name = NAMES[usize::from(new) % NAMES.len()].to_owned(),
        }
    }
    let directory = Directory::new();
    for (name, bytes) in &files {
        directory.put(name, bytes);
    }
    check(&directory);
});
