//! Mistakes planted on purpose, one at a time: the checks must find each of them.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plant {
    /// None.
    Nothing,
    /// The disk forgets a record of every few.
    LostRecord,
    /// The disk keeps a record that ended.
    UndeadRecord,
    /// The server names a revision that is not the stored one.
    WrongRevision,
    /// The server stores whatever it is sent.
    IgnoredConditions,
    /// An event gets lost on the way, and nobody notices.
    LostEvent,
    /// An old event comes by itself.
    StaleEvent,
    /// Bytes of another file are sent.
    SwappedBytes,
    /// A conflict copy holds the other side's bytes.
    WrongCopy,
    /// A merge loses a line.
    LossyMerge,
    /// A record that waits counts as parked.
    IllegalTurn,
}

/// All of them.
pub(super) const PLANTS: [Plant; 10] = [
    Plant::LostRecord,
    Plant::UndeadRecord,
    Plant::WrongRevision,
    Plant::IgnoredConditions,
    Plant::LostEvent,
    Plant::StaleEvent,
    Plant::SwappedBytes,
    Plant::WrongCopy,
    Plant::LossyMerge,
    Plant::IllegalTurn,
];
