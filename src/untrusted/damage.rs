//! Damage to bytes, itself read from bytes: so a fuzzer that knows nothing of a format damages
//! valid data of it.

/// One way to damage bytes; places count from the start and wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// These bits change in the byte there.
    Flip(usize, u8),
    /// So many bytes from there on go.
    Cut(usize, usize),
    /// These bytes come in before it.
    Put(usize, Vec<u8>),
    /// These bytes take the place of those that are there.
    Over(usize, Vec<u8>),
    /// So many bytes from there on come twice.
    Twice(usize, usize),
}

/// Reads damages: each a kind, a place of three bytes, a length, and the bytes that it needs.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Vec<Damage> {
    let mut all = Vec::new();
    while let [kind, a, b, c, len, rest @ ..] = bytes {
        let at = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let count = usize::from(*len);
        let short = (count % 12 + 1).min(rest.len());
        bytes = rest;
        all.push(match kind % 5 {
            0 => Damage::Flip(at, *len),
            1 => Damage::Cut(at, count),
            2 => Damage::Twice(at, count),
            kind => {
                bytes = &rest[short..];
                let new = rest[..short].to_vec();
                if kind == 3 { Damage::Put(at, new) } else { Damage::Over(at, new) }
            }
        });
    }
    all
}

/// `bytes` after all of them.
#[must_use]
pub fn damaged(mut bytes: Vec<u8>, all: &[Damage]) -> Vec<u8> {
    for damage in all {
        let within = |at: usize| at % (bytes.len() + 1);
        let range = |at: usize, len: usize| within(at)..(within(at) + len).min(bytes.len());
        match damage {
            Damage::Flip(at, bits) => {
                let at = within(*at);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            Damage::Cut(at, len) => drop(bytes.drain(range(*at, *len))),
            Damage::Put(at, more) => {
                let at = within(*at);
                drop(bytes.splice(at..at, more.iter().copied()));
            }
            Damage::Over(at, new) => {
                let range = range(*at, new.len());
                let len = range.len();
                bytes[range].copy_from_slice(&new[..len]);
            }
            Damage::Twice(at, len) => {
                let range = range(*at, *len);
                let (at, piece) = (range.end, bytes[range].to_vec());
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}
