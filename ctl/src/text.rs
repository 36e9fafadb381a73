//! Text for a terminal: harmless, aligned and sometimes coloured.

use std::borrow::Cow;

/// Returns `text` with everything escaped that could steer a terminal or reorder a line.
///
/// Names come from other people: control characters (C0, DEL and C1) and the characters that
/// change the writing direction are shown as escapes.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}'
                | '\u{2029}' | '\u{2066}'..='\u{2069}')
    };
    if !text.chars().any(harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Returns `text` so that a shell reads it as one word.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./~-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
    }
}

/// What a piece of text wants to say by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Something waits.
    Warn,
    /// Something is wrong.
    Bad,
    /// The name of the thing.
    Strong,
    /// Less important.
    Faint,
}

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Colour is wanted.
    pub color: bool,
}

impl Style {
    /// Returns `text` in the colour of `tone`, or as it is.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Which side of its column a cell keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows in columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the headings are dropped.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Returns the lines, the headings first, without trailing spaces.
    pub fn lines(&self, style: Style) -> Vec<String> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| (*name).into()).collect();
        let mut lines = vec![style.paint(Tone::Faint, &self.line(&headings, &widths))];
        lines.extend(self.rows.iter().map(|row| self.line(row, &widths)));
        lines
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, (cell, (_, align))) in cells.iter().zip(&self.columns).enumerate() {
            let padding = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
            if index > 0 {
                line.push_str("  ");
            }
            match align {
                Align::Left => line.extend([cell.as_str(), &padding]),
                Align::Right => line.extend([padding.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(harmless("/docs/plan ä.md"), "/docs/plan ä.md");
        assert_eq!(harmless("a\x1b[2Jb\n\u{9b}c\u{7f}"), "a\\u{1b}[2Jb\\n\\u{9b}c\\u{7f}");
        assert_eq!(harmless("gpj\u{202e}exe"), "gpj\\u{202e}exe");
    }

    #[test]
    fn shell_words_are_quoted_when_needed() {
        assert_eq!(shell_word("/home/ana/ws"), "/home/ana/ws");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&[("ID", Align::Left), ("AGE", Align::Right)]);
        table.row(vec!["c-7".into(), "4m".into()]);
        table.row(vec!["é".into(), "5m 11s".into()]);
        let lines = table.lines(Style::default());
        assert_eq!(lines, ["ID      AGE", "c-7      4m", "é    5m 11s"]);
        assert!(table.lines(Style { color: true })[0].starts_with("\x1b[2m"));
    }
}
