//! What can go wrong when the server is opened or run, said so that its operator can act.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another server owns the storage folder.
    #[error(
        "storage {path:?} is in use by another server; stop that one, or choose another folder"
    )]
    Locked {
        /// The storage folder.
        path: PathBuf,
    },
    /// A file or folder of the storage could not be used.
    #[error(
        "{act} {path:?}: {source}; check that the folder is on a writable file system and belongs to this user"
    )]
    Storage {
        /// What was attempted.
        act: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The database could not be used.
    #[error(
        "{act} database {path:?}: {source}; if the file is damaged, restore the storage folder from a backup"
    )]
    Database {
        /// What was attempted.
        act: &'static str,
        /// The database file.
        path: PathBuf,
        /// The reason SQLite gave.
        source: rusqlite::Error,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "database {path:?} has schema version {found}, and this program knows {known}; run the newer version that wrote it"
    )]
    SchemaTooNew {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version this program reads.
        known: i64,
    },
    /// Access without a token was asked for on an address others can reach.
    #[error(
        "listening on {addr} without authentication is refused; give a token file, or listen on a loopback address"
    )]
    OpenOnPublicAddress {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The token file could not be used.
    #[error("token file {path:?}: {reason}")]
    TokenFile {
        /// The token file.
        path: PathBuf,
        /// What is wrong, without any token text.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("setting {name}: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The address could not be listened on.
    #[error("listen on {addr}: {source}; is another server using the port?")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The reason the system gave.
        source: io::Error,
    },
}
