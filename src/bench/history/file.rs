//! The file: reading it line by line, and adding to it so that a crash can be seen.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{FORM, Row, VERSION};
use crate::bench::Run;

/// Why a history cannot be read or added to. `path` is as it was given.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system refused.
    #[error("{}: {what}", path.display())]
    Io {
        /// Of which file.
        path: PathBuf,
        /// What the system says.
        what: io::Error,
    },
    /// The last line has no end and is not a row: its writer was interrupted.
    #[error(
        "{0}:{line}: the last line is torn, whoever wrote it was interrupted; of a history, \
         `equipoise bench collect --history {0} --repair` cuts it off",
        path.display()
    )]
    Torn {
        /// In which file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
    },
    /// A line is something else than it should be.
    #[error("{}:{line}: {what}", path.display())]
    Malformed {
        /// In which file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A row of a form that this build does not know.
    #[error(
        "{}:{line}: this row has version {version} of the form, and this build knows {VERSION}: use a newer equipoise",
        path.display()
    )]
    Newer {
        /// In which file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// The version.
        version: u64,
    },
}

/// What a line can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A row of a history.
    Row(Box<Row>),
    /// A run, as `equipoise bench run --json` prints it.
    Run(Box<Run>),
}

/// A history opened for writing. Other writers wait until this is dropped.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: File,
    rows: Vec<Row>,
    /// What the next row has to begin with: a line end, when the last row has none.
    before: &'static str,
}

impl History {
    /// Opens the file, or creates it, and reads it. With `repair` a torn last line is cut off, and its number returned.
    ///
    /// # Errors
    /// When it cannot be opened, or a line of it is no row.
    pub fn open(path: &Path, repair: bool) -> Result<(Self, Option<usize>), HistoryError> {
        let io = |what| HistoryError::Io { path: path.to_owned(), what };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        file.lock().map_err(io)?;
        let mut rows = Vec::new();
        let mut lines = Lines::new(path, BufReader::new(&file));
        let torn = loop {
            match lines.next() {
                Ok(None) => break None,
                Ok(Some(Line::Row(row))) => rows.push(*row),
                Ok(Some(Line::Run(_))) => {
                    return Err(lines.malformed("a run as bench run prints it, and no row: collect it"));
                }
                Err(HistoryError::Torn { line, .. }) if repair => break Some(line),
                Err(error) => return Err(error),
            }
        };
        let (whole, ended) = (lines.whole, lines.ended);
        if torn.is_some() {
            file.set_len(whole).map_err(io)?;
        }
        let before = if ended || torn.is_some() { "" } else { "\n" };
        Ok((Self { path: path.to_owned(), file, rows, before }, torn))
    }

    /// Adds a row, unless it is there already. Returns whether it was added.
    ///
    /// # Errors
    /// It cannot be written. A part that was written is removed again, as far as the system allows.
    pub fn append(&mut self, row: Row) -> Result<bool, HistoryError> {
        let same = |other: &Row| other.time == row.time && other.subject == row.subject && other.host() == row.host();
        if self.rows.iter().any(same) {
            return Ok(false);
        }
        self.write(&row).map_err(|what| HistoryError::Io { path: self.path.clone(), what })?;
        self.before = "";
        self.rows.push(row);
        Ok(true)
    }

    fn write(&mut self, row: &Row) -> io::Result<()> {
        let line = format!("{}{}\n", self.before, serde_json::to_string(row)?);
        let length = self.file.metadata()?.len();
        self.file.write_all(line.as_bytes()).inspect_err(|_| {
            // Should this fail as well, the next reader names the line.
            let _ = self.file.set_len(length);
        })
    }

    /// Waits until what was added is on disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> Result<(), HistoryError> {
        self.file.sync_all().map_err(|what| HistoryError::Io { path: self.path.clone(), what })
    }
}

/// Every line of a history, or of a file of runs; `path` is its name in errors.
///
/// # Errors
/// When a line is neither a row nor a run, or cannot be read.
pub fn read(path: &Path, source: impl BufRead) -> Result<Vec<Line>, HistoryError> {
    let mut lines = Lines::new(path, source);
    let mut all = Vec::new();
    while let Some(line) = lines.next()? {
        all.push(line);
    }
    Ok(all)
}

struct Lines<'a, R> {
    path: &'a Path,
    source: R,
    /// Of the line read last, from 1.
    number: usize,
    /// Bytes up to the end of the last whole line.
    whole: u64,
    /// The last line read ended as it should.
    ended: bool,
}

/// What makes a line a row, in all versions.
#[derive(Deserialize)]
struct Header {
    form: Option<String>,
    version: Option<u64>,
}

impl<'a, R: BufRead> Lines<'a, R> {
    fn new(path: &'a Path, source: R) -> Self {
        Self { path, source, number: 0, whole: 0, ended: true }
    }

    /// The next line that is not empty.
    fn next(&mut self) -> Result<Option<Line>, HistoryError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let io = |what| HistoryError::Io { path: self.path.to_owned(), what };
            let length = self.source.read_until(b'\n', &mut bytes).map_err(io)?;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.ended = bytes.ends_with(b"\n");
            let line = if bytes.trim_ascii().is_empty() { None } else { Some(self.parse(&bytes)?) };
            self.whole += length as u64;
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Line, HistoryError> {
        let (path, line) = (self.path.to_owned(), self.number);
        let header: Header = match serde_json::from_slice(bytes) {
            Ok(header) => header,
            Err(_) if !self.ended => return Err(HistoryError::Torn { path, line }),
            Err(error) => return Err(self.malformed(&format!("no JSON object of a row or a run: {error}"))),
        };
        let malformed = |error: serde_json::Error| self.malformed(&error.to_string());
        match header {
            Header { form: None, .. } => serde_json::from_slice(bytes).map(Line::Run).map_err(malformed),
            Header { form: Some(form), .. } if form != FORM => {
                Err(self.malformed(&format!("its form is {form:?}, and should be {FORM:?}")))
            }
            Header { version: Some(version), .. } if version > u64::from(VERSION) => {
                Err(HistoryError::Newer { path, line, version })
            }
            Header { .. } => serde_json::from_slice(bytes).map(Line::Row).map_err(malformed),
        }
    }

    fn malformed(&self, what: &str) -> HistoryError {
        HistoryError::Malformed { path: self.path.to_owned(), line: self.number, what: what.to_owned() }
    }
}
