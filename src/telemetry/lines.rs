//! Lines on their way out, each as a whole or counted as lost.

use std::io::{self, ErrorKind};

use prometheus_client::metrics::counter::Counter;

/// A writer of lines, each handed over in one write. The log's thread does nothing about an error: a line that `to` does
/// not take, or not all of, is counted here, and the next one begins on a line of its own.
pub(super) struct Lines<W> {
    to: W,
    lost: Counter,
    /// Whether what was written last ends within a line.
    torn: bool,
}

impl<W: io::Write> Lines<W> {
    pub(super) fn new(to: W, lost: Counter) -> Self {
        Lines { to, lost, torn: false }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.to.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: io::Write> io::Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.line(line).is_err() {
            self.lost.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write as _;

    use super::*;

    /// Answers as it is told, then takes everything.
    #[derive(Default)]
    struct Scripted {
        answers: VecDeque<Result<usize, ErrorKind>>,
        text: Vec<u8>,
    }

    impl io::Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.answers.pop_front().unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            self.text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of three lines, and how many are counted as lost.
    fn three(answers: &[Result<usize, ErrorKind>]) -> (String, u64) {
        let lost = Counter::default();
        let to = Scripted { answers: answers.iter().copied().collect(), text: Vec::new() };
        let mut lines = Lines::new(to, lost.clone());
        for line in ["first\n", "second\n", "third\n"] {
            lines.write_all(line.as_bytes()).unwrap();
        }
        (String::from_utf8(lines.to.text).unwrap(), lost.get())
    }

    /// A13, A09: a line that is not written, or not to its end, is lost and counted; those after it are whole.
    #[test]
    fn a_line_is_whole_or_counted() {
        const FULL: Result<usize, ErrorKind> = Err(ErrorKind::StorageFull);
        for (answers, text, lost) in [
            (&[][..], "first\nsecond\nthird\n", 0),
            (&[FULL], "second\nthird\n", 1),
            (&[Err(ErrorKind::BrokenPipe), Err(ErrorKind::BrokenPipe), Ok(9)], "third\n", 2),
            (&[Ok(0)], "second\nthird\n", 1),
            (&[Err(ErrorKind::Interrupted), Ok(2), Err(ErrorKind::Interrupted), Ok(1)], "first\nsecond\nthird\n", 0),
            (&[Ok(2), FULL], "fi\nsecond\nthird\n", 1),
            (&[Ok(2), Ok(0)], "fi\nsecond\nthird\n", 1),
            (&[Ok(5), FULL], "first\nsecond\nthird\n", 1),
            // Torn, and no room for the end of that line either.
            (&[Ok(2), FULL, FULL], "fi\nthird\n", 2),
            (&[Ok(2), FULL, Ok(0)], "fi\nthird\n", 2),
            (&[Ok(2), FULL, Ok(1), FULL], "fi\nthird\n", 2),
            (&[Ok(2), FULL, Ok(1), Ok(3), FULL], "fi\nsec\nthird\n", 2),
        ] {
            assert_eq!(three(answers), (text.to_owned(), lost), "{answers:?}");
        }
    }
}
