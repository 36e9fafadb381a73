//! Server-sent events: the framing only.

use std::mem;

/// The longest line that is read; a longer one ends the stream.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Turns bytes, cut anywhere, into the `data` of messages.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    after_cr: bool,
}

/// A line was longer than any the daemon sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    /// Takes more bytes and returns the messages they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut messages = Vec::new();
        for byte in bytes {
            let after_cr = mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => messages.extend(self.end_line()),
                _ if self.line.len() + self.data.len() >= LINE_BYTES_MAX => return Err(TooLong),
                byte => self.line.push(*byte),
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self) -> Option<String> {
        let line = mem::take(&mut self.line);
        if line.is_empty() {
            let data = mem::take(&mut self.data);
            return mem::take(&mut self.has_data).then_some(data);
        }
        // Other fields (`event`, `id`, `retry`) and comments add nothing the data does not say.
        if let Some(value) = line.strip_prefix(b"data") {
            let value = match value {
                [b':', b' ', value @ ..] | [b':', value @ ..] => value,
                [] => &[],
                _ => return None,
            };
            if mem::replace(&mut self.has_data, true) {
                self.data.push('\n');
            }
            self.data.push_str(&String::from_utf8_lossy(value));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let wire = ": hi\n\nevent: ack\nid: 7\ndata: {\"a\":\ndata:1}\n\ndata: ä\r\n\r\ndata: cut";
        let expected = ["{\"a\":\n1}", "ä"];
        for step in 1..wire.len() {
            let mut parser = Parser::default();
            let mut messages = Vec::new();
            for part in wire.as_bytes().chunks(step) {
                messages.extend(parser.push(part).unwrap());
            }
            assert_eq!(messages, expected, "in parts of {step}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(TooLong));
        let mut parser = Parser::default();
        let line = [b"data:".as_slice(), &[b'x'; 1000], b"\n"].concat();
        assert!((0..2_000).any(|_| parser.push(&line).is_err()));
    }
}
