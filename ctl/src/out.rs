//! Where output goes: data on standard output, everything else on standard error.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
};

use serde::Serialize;

use crate::text::{Style, Tone};

/// The two ways out, and what is known about who reads them.
pub struct Out {
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    has_progress: bool,
    /// Colour on standard output.
    pub style: Style,
    /// Data goes out as JSON.
    pub json: bool,
}

impl Out {
    /// Returns the output of this process.
    pub fn process() -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let terminals = (stdout.is_terminal(), stderr.is_terminal());
        Self::new(Box::new(stdout), Box::new(stderr), terminals)
    }

    /// Returns an output to these writers; `terminals` says which of the two are terminals.
    pub fn new(stdout: Box<dyn Write>, stderr: Box<dyn Write>, terminals: (bool, bool)) -> Self {
        Self {
            stdout,
            stderr,
            stdout_is_terminal: terminals.0,
            stderr_is_terminal: terminals.1,
            has_progress: false,
            style: Style::default(),
            json: false,
        }
    }

    /// Returns whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Returns whether [`Out::progress`] shows anything.
    pub fn shows_progress(&self) -> bool {
        self.stderr_is_terminal && !self.json
    }

    /// Writes one line of data.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.end_progress()?;
        writeln!(self.stdout, "{text}")
    }

    /// Writes bytes of data as they are.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.end_progress()?;
        self.stdout.write_all(bytes)
    }

    /// Writes several lines of data.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn lines(&mut self, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Writes one JSON document: on one line, or indented for a terminal.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn document(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = if self.stdout_is_terminal {
            serde_json::to_string_pretty(document)?
        } else {
            serde_json::to_string(document)?
        };
        self.line(&text)
    }

    /// Writes one JSON document on one line, as streams do.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn json_line(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(document)?;
        self.line(&text)?;
        self.stdout.flush()
    }

    /// Writes one line that is not data.
    ///
    /// # Errors
    ///
    /// When standard error cannot be written.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        self.end_progress()?;
        writeln!(self.stderr, "{text}")
    }

    /// Writes the block of a failure, its first word in red where colour is wanted.
    ///
    /// # Errors
    ///
    /// When standard error cannot be written.
    pub fn error(&mut self, lines: &[String]) -> io::Result<()> {
        let style = Style { color: self.style.color && self.stderr_is_terminal };
        for line in lines {
            match line.strip_prefix("error:") {
                Some(rest) => {
                    let word = style.paint(Tone::Bad, "error:");
                    self.note(&format!("{word}{rest}"))?;
                }
                None => self.note(line)?,
            }
        }
        Ok(())
    }

    /// Replaces the line that shows how far something has come; silent without a terminal.
    ///
    /// # Errors
    ///
    /// When standard error cannot be written.
    pub fn progress(&mut self, text: &str) -> io::Result<()> {
        if !self.shows_progress() {
            return Ok(());
        }
        self.has_progress = true;
        write!(self.stderr, "\r\x1b[K{text}")?;
        self.stderr.flush()
    }

    /// Clears the screen before the next picture, if standard output is a terminal.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn clear_screen(&mut self) -> io::Result<()> {
        if self.stdout_is_terminal && !self.json {
            write!(self.stdout, "\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.end_progress()?;
        self.stdout.flush()?;
        self.stderr.flush()
    }

    fn end_progress(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.has_progress) {
            write!(self.stderr, "\r\x1b[K")?;
            self.stderr.flush()?;
        }
        Ok(())
    }
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("json", &self.json).finish_non_exhaustive()
    }
}
