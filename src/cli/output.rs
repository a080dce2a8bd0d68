//! Where results go: stdout or a file, as text for people or as one JSON object a line.

use std::fmt::{self, Display, Write as _};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::destination::{Destination, Place};
use super::exit::Failure;

/// How much is collected before it is written, in bytes.
const BUFFER: usize = 64 * 1024;

/// A result that can be printed either way.
pub(super) trait Record: Serialize {
    /// Writes it for people.
    fn write(&self, page: &mut Page<'_>) -> io::Result<()>;
}

/// The output of a command. What was not flushed is not printed: [`Output::flush`] tells whether it could be.
pub(super) struct Output {
    out: BufWriter<Sink>,
    json: bool,
    colour: bool,
}

impl Output {
    /// Prints records as JSON or for people; colours only on a terminal whose user did not set `NO_COLOR`.
    pub(super) fn new(json: bool) -> Self {
        let stdout = io::stdout().lock();
        let colour = !json && AutoStream::choice(&stdout) != ColorChoice::Never;
        Output { out: BufWriter::with_capacity(BUFFER, Sink::Stdout(stdout)), json, colour }
    }

    /// Writes records as JSON to stdout, also called `-`, or to the file `path`: [`Output::finish`] replaces what was
    /// there, and an interrupt before that leaves nothing behind.
    pub(super) fn json_to(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else { return Ok(Output::new(true)) };
        let place = Place::of(path)?;
        place.end_with_interrupt()?;
        let file = Destination::create(place)?;
        Ok(Output { out: BufWriter::with_capacity(BUFFER, Sink::File(file)), json: true, colour: false })
    }

    /// The line above a table; nothing in JSON.
    pub(super) fn heading(&mut self, text: impl Display) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let style = if self.colour { Style::new().bold() } else { Style::new() };
        writeln!(self.out, "{style}{text}{style:#}")
    }

    /// One result.
    pub(super) fn record(&mut self, record: &impl Record) -> io::Result<()> {
        if self.json {
            return self.object(record);
        }
        record.write(&mut Page { out: &mut self.out, colour: self.colour })
    }

    /// One JSON object on a line.
    pub(super) fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, object)?;
        self.out.write_all(b"\n")
    }

    /// Hands everything to the reader.
    ///
    /// # Errors
    /// What the system says: the pipe is closed, the disk is full.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// As [`Output::flush`], and a file has its name and is on disk then.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.out.into_inner().map_err(io::IntoInnerError::into_error)? {
            Sink::Stdout(mut stdout) => stdout.flush(),
            Sink::File(file) => file.finish(),
        }
    }
}

enum Sink {
    Stdout(StdoutLock<'static>),
    File(Destination),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Stdout(stdout) => stdout.write(bytes),
            Sink::File(file) => (&*file).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::File(_) => Ok(()),
        }
    }
}

/// Text for people under way.
pub(super) struct Page<'a> {
    out: &'a mut dyn Write,
    colour: bool,
}

impl Page<'_> {
    /// A named value on a line of its own.
    pub(super) fn field(&mut self, name: &str, value: impl Display) -> io::Result<()> {
        let style = self.style(Style::new().dimmed());
        writeln!(self.out, "{style}{name:<12}{style:#} {value}")
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// How a refusal looks.
    pub(super) fn refusal(&self) -> Style {
        self.style(AnsiColor::Red.on_default())
    }

    fn style(&self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }
}

/// `text` for a terminal: control characters, and those that change the order or place of others, are escaped, so that
/// an id cannot forge a line or steer the terminal (cases A09, A20).
pub(super) fn escape(text: &str) -> impl Display {
    Escaped(text)
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\t' | '\r' | '\n' => write!(f, "{}", character.escape_default())?,
                character if deceives(character) => write!(f, "{}", character.escape_unicode())?,
                character => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

fn deceives(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_is_escaped_and_the_rest_is_not() {
        let escaped = |text| escape(text).to_string();
        assert_eq!(escaped("a\n\tb\u{1b}[2J"), r"a\n\tb\u{1b}[2J");
        assert_eq!(escaped("x\u{202e}y\u{7f}\u{85}\u{feff}"), r"x\u{202e}y\u{7f}\u{85}\u{feff}");
        assert_eq!(escaped("é 👩\u{200d}🌾 %s{} ../a\\b"), "é 👩\u{200d}🌾 %s{} ../a\\b");
    }
}
