//! HTTP/1.1 messages as bytes: where a head ends, and where its body does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection with what was read from it and not used yet.
pub(super) struct Stream {
    stream: TcpStream,
    read: Vec<u8>,
}

/// The head of a message.
pub(super) struct Head {
    pub(super) raw: Vec<u8>,
}

impl Head {
    fn lines(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.raw).unwrap_or_default().split("\r\n")
    }

    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        self.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    }

    /// Whether it has a field.
    pub(super) fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// The status of a reply.
    pub(super) fn status(&self) -> u16 {
        let first = self.lines().next().unwrap_or_default();
        first.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Says that the body has this length.
    pub(super) fn set_length(&mut self, length: usize) {
        let mut lines: Vec<String> = self
            .lines()
            .filter(|line| {
                let name = line.split(':').next().unwrap_or_default();
                !line.is_empty()
                    && !name.eq_ignore_ascii_case("content-length")
                    && !name.eq_ignore_ascii_case("transfer-encoding")
            })
            .map(str::to_owned)
            .collect();
        lines.push(format!("content-length: {length}\r\n\r\n"));
        self.raw = lines.join("\r\n").into_bytes();
    }
}

impl Stream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(super) fn get_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// What was read and not used, and the connection's two halves.
    pub(super) fn split(&mut self) -> (&mut Vec<u8>, &mut TcpStream) {
        (&mut self.read, &mut self.stream)
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            self.more().await?;
        }
        let rest = self.read.split_off(count);
        Some(std::mem::replace(&mut self.read, rest))
    }

    async fn through(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            let tail = &self.read[from..];
            if let Some(at) = tail.windows(end.len()).position(|window| window == end) {
                return self.take(from + at + end.len()).await;
            }
            from = self.read.len().saturating_sub(end.len() - 1);
            self.more().await?;
        }
    }

    /// The next head.
    pub(super) async fn head(&mut self) -> Option<Head> {
        let raw = self.through(b"\r\n\r\n").await?;
        Some(Head { raw })
    }

    /// The body that follows a head, as it travels.
    pub(super) async fn body(&mut self, head: &Head, is_reply: bool) -> Option<Vec<u8>> {
        if head.field("expect").is_some() {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if head.field("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            return self.chunks().await;
        }
        if let Some(length) = head.field("content-length") {
            return self.take(length.parse().ok()?).await;
        }
        if is_reply && !matches!(head.status(), 100..=199 | 204 | 304) {
            while self.more().await.is_some() {}
            return Some(std::mem::take(&mut self.read));
        }
        Some(Vec::new())
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.through(b"\r\n").await?;
            let size = std::str::from_utf8(&line).ok()?.trim().split(';').next()?.to_owned();
            let size = usize::from_str_radix(&size, 16).ok()?;
            body.extend_from_slice(&line);
            body.extend_from_slice(&self.take(size + 2).await?);
            if size == 0 {
                return Some(body);
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }
}

/// What something on the way answers by itself.
pub(super) fn answer(code: u16) -> Vec<u8> {
    let body = format!(r#"{{"code":"trouble","message":"answered {code} on the way"}}"#);
    let wait = if matches!(code, 429 | 503) { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {code} Trouble\r\ncontent-type: application/json\r\n{wait}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
