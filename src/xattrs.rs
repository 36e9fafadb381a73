//! Extended attributes of a node: names and values that programs hang on it. Plain data, with the form
//! in which it lies on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of all names and values of one node. More is `ENOSPC`; a single value of the longest that Linux
/// knows (64 KiB) fits.
pub const TOTAL_BYTES_MAX: usize = 128 << 10;

/// Bytes of all names of one node, each with its end: what one call can list.
pub const NAMES_BYTES_MAX: usize = 64 << 10;

/// The extended attributes of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<Vec<u8>, Arc<[u8]>>);

impl Xattrs {
    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Arc<[u8]>> {
        self.0.get(name)
    }

    /// Sets a value. Returns whether there is room for it; nothing is changed when not.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let before = self.0.insert(name.to_vec(), Arc::from(value));
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        let fits = bytes <= TOTAL_BYTES_MAX && self.names().len() <= NAMES_BYTES_MAX;
        if !fits {
            match before {
                Some(before) => drop(self.0.insert(name.to_vec(), before)),
                None => drop(self.0.remove(name)),
            }
        }
        fits
    }

    /// Removes a value. Returns whether it was there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.0.remove(name).is_some()
    }

    /// All names, each followed by a zero, as `listxattr` gives them.
    #[must_use]
    pub fn names(&self) -> Vec<u8> {
        self.0.keys().flat_map(|name| name.iter().copied().chain([0])).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it lies on disk: for each one the length of its name, its name, the length of its value, its
    /// value. Lengths are four bytes, the lowest first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in self.0.iter().flat_map(|(name, value)| [&name[..], &value[..]]) {
            bytes.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    /// The inverse of [`Xattrs::encode`]; `None` for anything else.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut field = || {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            let (field, rest) = rest.split_at_checked(len)?;
            bytes = rest;
            Some((field, rest.is_empty()))
        };
        let mut all = BTreeMap::new();
        loop {
            let (name, _) = field()?;
            let (value, is_last) = field()?;
            all.insert(name.to_vec(), Arc::from(value));
            if is_last {
                return Some(Self(all));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        let mut xattrs = Xattrs::default();
        assert!(xattrs.set(b"user.a", b"1") && xattrs.set(b"user.empty", b""));
        assert!(xattrs.set(b"user.\xff", &[0; 300]));
        let bytes = xattrs.encode();
        assert_eq!(Xattrs::decode(&bytes), Some(xattrs.clone()));
        assert_eq!(xattrs.names(), b"user.a\0user.empty\0user.\xff\0");
        for len in 0..bytes.len() {
            assert_ne!(Xattrs::decode(&bytes[..len]), Some(xattrs.clone()), "{len}");
        }
        assert_eq!(Xattrs::decode(&[255; 9]), None);
    }

    #[test]
    fn what_has_no_room_changes_nothing() {
        let mut xattrs = Xattrs::default();
        assert!(xattrs.set(b"user.a", &[1; 65_536]));
        assert!(!xattrs.set(b"user.b", &[2; 65_536]));
        assert!(!xattrs.set(b"user.a", &[3; TOTAL_BYTES_MAX]));
        assert_eq!(xattrs.get(b"user.a").map(|value| value[0]), Some(1));
        assert_eq!(xattrs.names(), b"user.a\0");
        assert!(xattrs.remove(b"user.a") && !xattrs.remove(b"user.a") && xattrs.is_empty());
    }
}
