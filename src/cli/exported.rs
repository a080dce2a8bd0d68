//! What `export` writes and `import` reads: a header, then one account a line, in the order of the ids' bytes.

use std::io::{BufRead, Read};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::exit::Failure;
use crate::AccountId;

/// What the header of accounts begins with.
pub(super) const ACCOUNTS: &str = "equipoise-export";
/// What the header of entries begins with.
pub(super) const ENTRIES: &str = "equipoise-entries";
/// What the line after the entries begins with.
pub(super) const ENTRIES_END: &str = "equipoise-entries-end";
pub(super) const VERSION: u32 = 1;

/// The longest line: an id of 128 bytes, each escaped, and three numbers are far below it.
const LONGEST_LINE: u64 = 16 * 1024;
/// How much of what is wrong is shown, in characters.
const SHOWN: usize = 80;

/// The first line of exported accounts.
#[derive(Serialize)]
pub(super) struct Header {
    pub(super) kind: &'static str,
    pub(super) version: u32,
    /// The ledger's id, in hexadecimal digits.
    pub(super) ledger: String,
    pub(super) sequence: u64,
    pub(super) accounts: u64,
}

/// One account of the export.
pub(super) struct Exported {
    /// Which line it is on, from 1.
    pub(super) line: u64,
    pub(super) account: AccountId,
    pub(super) balance: i64,
}

/// Reads an export, and checks it on the way.
pub(super) struct Reader<R> {
    source: R,
    line: u64,
    buffer: Vec<u8>,
    pub(super) ledger: String,
    /// How many accounts there are, as the header says.
    pub(super) accounts: u64,
    read: u64,
    /// The ledger's sequence, as the header says.
    sequence: u64,
    last: Option<AccountId>,
}

/// As it stands in the file: which value is wrong is said by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderFields {
    kind: Value,
    version: Value,
    ledger: Value,
    sequence: Value,
    accounts: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountFields {
    account_id: Value,
    balance: Value,
    version: Option<Value>,
    sequence: Option<Value>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub(super) fn begin(source: R) -> Result<Self, Failure> {
        let (buffer, ledger) = (Vec::new(), String::new());
        let mut reader = Reader { source, line: 0, buffer, ledger, accounts: 0, read: 0, sequence: 0, last: None };
        if !reader.read_line()? {
            return Err(Failure::Usage("the input is empty".to_owned()));
        }
        let HeaderFields { kind, version, ledger, sequence, accounts } = reader.parse()?;
        if kind != ACCOUNTS {
            return Err(reader.wrong("kind", &format!("\"{ACCOUNTS}\""), &kind));
        }
        if version != VERSION {
            return Err(reader.wrong("version", &VERSION.to_string(), &version));
        }
        let hex = |text: &&str| text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        match ledger.as_str().filter(hex) {
            Some(id) => reader.ledger = id.to_owned(),
            None => return Err(reader.wrong("ledger", "32 hexadecimal digits", &ledger)),
        }
        reader.sequence = reader.whole("sequence", &sequence, 0)?;
        reader.accounts = reader.whole("accounts", &accounts, 0)?;
        Ok(reader)
    }

    /// The next account; None when as many were read as the header says, and nothing follows.
    pub(super) fn next(&mut self) -> Result<Option<Exported>, Failure> {
        if !self.read_line()? {
            return if self.read == self.accounts { Ok(None) } else { Err(self.count()) };
        }
        let AccountFields { account_id, balance, version, sequence } = self.parse()?;
        let Some(text) = account_id.as_str() else { return Err(self.wrong("account_id", "a text", &account_id)) };
        let account = AccountId::parse("account_id", text).map_err(|invalid| {
            Failure::Usage(format!("line {}: {invalid}: {}", self.line, cut(&account_id.to_string())))
        })?;
        let Some(amount) = balance.as_i64().filter(|amount| *amount >= 0) else {
            return Err(self.wrong("balance", "a whole number from 0 to 9223372036854775807", &balance));
        };
        version.map_or(Ok(1), |version| self.whole("version", &version, 1))?;
        if let Some(sequence) = sequence
            && self.whole("sequence", &sequence, 1)? > self.sequence
        {
            return Err(self.wrong("sequence", &format!("at most the header's, {}", self.sequence), &sequence));
        }
        if let Some(last) = self.last.as_ref().filter(|last| **last >= account) {
            let expected = format!("after \"{last}\" in the order of bytes");
            return Err(self.wrong("account_id", &expected, &account_id));
        }
        self.read += 1;
        if self.read > self.accounts {
            return Err(self.count());
        }
        self.last = Some(account.clone());
        Ok(Some(Exported { line: self.line, account, balance: amount }))
    }

    /// Fills the buffer with the next line; false at the end.
    fn read_line(&mut self) -> Result<bool, Failure> {
        self.buffer.clear();
        let read = (&mut self.source).take(LONGEST_LINE).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| Failure::Other(format!("cannot read the input: {error}")))?;
        self.line += 1;
        if read as u64 == LONGEST_LINE {
            return Err(Failure::Usage(format!("line {} is longer than {LONGEST_LINE} bytes", self.line)));
        }
        // A line that is cut is told from one that goes on.
        self.buffer.pop_if(|last| *last == b'\n');
        Ok(read > 0)
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        // Serde would also accept an array of the fields in their order.
        if self.buffer.trim_ascii_start().first() == Some(&b'[') {
            let line = String::from_utf8_lossy(&self.buffer);
            return Err(Failure::Usage(format!("line {}: expected an object: {}", self.line, cut(line.trim_end()))));
        }
        serde_json::from_slice(&self.buffer).map_err(|error| {
            let text = error.to_string();
            // It numbers the lines of what it was given: that is one.
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            let line = String::from_utf8_lossy(&self.buffer);
            Failure::Usage(format!("line {}: {what}: {}", self.line, cut(line.trim_end())))
        })
    }

    fn whole(&self, field: &str, value: &Value, least: u64) -> Result<u64, Failure> {
        let number = value.as_u64().filter(|number| *number >= least);
        number.ok_or_else(|| self.wrong(field, &format!("a whole number from {least}"), value))
    }

    fn wrong(&self, field: &str, expected: &str, value: &Value) -> Failure {
        Failure::Usage(format!("line {}: {field} must be {expected}, got {}", self.line, cut(&value.to_string())))
    }

    fn count(&self) -> Failure {
        let (accounts, read) = (self.accounts, self.read);
        let more = if read > accounts { "more follow" } else { "the input ends before" };
        Failure::Usage(format!("line {}: the header says {accounts} accounts, and {more}: {read}", self.line))
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
