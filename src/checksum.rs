//! Checksums: whether bytes on the local disk are still the ones that were written.
//!
//! The one door to the `xxhash-rust` crate. A checksum finds damage, not malice, and costs next to
//! nothing; what is compared with the remote is a [`crate::digest::Digest`]. Pure; no I/O.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// XXH3 (64 bits) of some bytes. What was written with it is read by every later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }

    /// Of a field: equal bytes in fields of another `place` give another checksum.
    #[must_use]
    pub fn of_field(bytes: &[u8], place: Self) -> Self {
        Self(xxh3_64_with_seed(bytes, place.0))
    }

    /// Of several fields, in any order.
    #[must_use]
    pub fn of_all(fields: impl IntoIterator<Item = Self>) -> Self {
        Self(fields.into_iter().fold(0, |sum, field| sum.wrapping_add(field.0)))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Takes back what [`Checksum::number`] gave.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_place_counts() {
        let bytes = b"some bytes on a disk".to_vec();
        let whole = Checksum::of(&bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Checksum::of(&flipped), whole);
        }
        let (here, there) = (Checksum::of(b"here"), Checksum::of(b"there"));
        let exchanged = [Checksum::of_field(b"a", there), Checksum::of_field(b"b", here)];
        let fields = [Checksum::of_field(b"a", here), Checksum::of_field(b"b", there)];
        assert_ne!(Checksum::of_all(fields), Checksum::of_all(exchanged));
        assert_eq!(Checksum::from_number(whole.number()), whole);
    }
}
