//! Where a command writes to: answers to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write};

use crate::error::Failure;

/// Standard output and standard error, and what they are.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Somebody sits before it: a flame graph can be drawn and walked through.
    pub interactive: bool,
    /// Standard output is a terminal.
    pub out_is_terminal: bool,
    /// Standard error is a terminal: progress is shown.
    pub shows_progress: bool,
    /// Colours may be used.
    pub coloured: bool,
}

/// A colour of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// All is well, or less.
    Green,
    /// Something is wrong, or more.
    Red,
    /// Not sure.
    Yellow,
}

impl<'a> Screen<'a> {
    /// That of this process.
    pub fn of_process(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        let out_is_terminal = io::stdout().is_terminal();
        let shows_progress = io::stderr().is_terminal();
        Self {
            out,
            err,
            interactive: out_is_terminal && shows_progress && io::stdin().is_terminal(),
            out_is_terminal,
            shows_progress,
            // https://no-color.org
            coloured: out_is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Two buffers or pipes: no terminal, no colours.
    pub fn plain(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self { out, err, interactive: false, out_is_terminal: false, shows_progress: false, coloured: false }
    }

    /// A part of the answer.
    pub(crate) fn write(&mut self, answer: &[u8]) -> Result<(), Failure> {
        self.clear();
        let written = self.out.write_all(answer).and_then(|()| self.out.flush());
        match written {
            // `| head` has what it wants.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(Failure::Output),
        }
    }

    /// What the reader must know of the answer.
    pub(crate) fn note(&mut self, note: &str) {
        self.clear();
        // Where even this cannot be written, there is nobody to tell.
        let _ = writeln!(self.err, "note: {}", printable(note));
    }

    /// What is being done, in place of what was; on a terminal alone.
    pub(crate) fn progress(&mut self, doing: &str) {
        if self.shows_progress {
            let _ = write!(self.err, "\r\x1b[K{}", printable(doing)).and_then(|()| self.err.flush());
        }
    }

    /// Takes the progress away.
    pub(crate) fn clear(&mut self) {
        if self.shows_progress {
            let _ = write!(self.err, "\r\x1b[K").and_then(|()| self.err.flush());
        }
    }

    /// Why there is no answer.
    pub fn fail(&mut self, failure: &Failure) {
        self.clear();
        let _ = writeln!(self.err, "error: {}", printable(&failure.to_string()));
    }

    /// A word in a colour, where there are colours.
    pub(crate) fn paint(&self, word: &str, colour: Colour) -> String {
        if !self.coloured {
            return word.to_owned();
        }
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        format!("\x1b[{code}m{word}\x1b[0m")
    }
}

/// Names are chosen by whoever runs a process: none may move the cursor or change a title.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_write_to_the_terminal_by_its_name() {
        assert_eq!(printable("a\x1b]0;x\x07b\nc"), "a\u{fffd}]0;x\u{fffd}b\nc");
    }

    #[test]
    fn colours_are_there_only_where_they_may_be() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen::plain(&mut out, &mut err);
        assert_eq!(screen.paint("x", Colour::Red), "x");
        screen.coloured = true;
        assert_eq!(screen.paint("x", Colour::Red), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn progress_is_silent_in_a_pipe() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen::plain(&mut out, &mut err);
        screen.progress("asking");
        screen.clear();
        screen.note("n");
        assert_eq!(String::from_utf8_lossy(&err), "note: n\n");
    }
}
