//! What the state of a mount says while its daemon does not run.
//!
//! Reads `STATE/state.db` and changes nothing in it; SQLite may leave an empty log and its index
//! beside the file, as any reader of a write-ahead log does. A summary is for people: whatever table or
//! value is missing or unreadable counts as unknown, never as an error.

use std::{fs, path::Path};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::{
    api::PauseInfo,
    env::Env,
    paths::{self, STATE_FILE},
    text::shell_word,
    units,
};

/// How long to wait for a lock on the state, in milliseconds.
const BUSY_MS: u64 = 300;

/// What is known about a mount from its state alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Persisted {
    /// The name of the mount.
    pub name: String,
    /// The state folder.
    pub state_dir: String,
    /// What is mounted, as it was given to `mountd`.
    pub source: Option<String>,
    /// The workspace server.
    pub server: Option<String>,
    /// The workspace.
    pub workspace: Option<String>,
    /// The folder of the workspace that is mounted.
    pub remote_path: Option<String>,
    /// Where it was mounted.
    pub mountpoint: Option<String>,
    /// The file of its token.
    pub token_file: Option<String>,
    /// The folder of its working files.
    pub files_dir: Option<String>,
    /// Files whose bytes are damaged and nowhere else.
    pub damaged: u64,
    /// Records that wait to be sent, parked ones not included.
    pub queued: u64,
    /// Content bytes of those records.
    pub queued_bytes: u64,
    /// When the oldest of them was recorded.
    pub oldest_at: Option<Timestamp>,
    /// Records the server refused.
    pub attention: u64,
    /// Conflicts not resolved yet.
    pub conflicts_open: u64,
    /// The pause that holds at the next start.
    pub pause: Option<PauseInfo>,
    /// When the server last accepted a record.
    pub last_ack_at: Option<Timestamp>,
    /// Why these figures may be old or missing; `null` when they are sound.
    pub caveat: Option<String>,
}

impl Persisted {
    /// Returns whether something waits that a stopped daemon cannot send.
    pub fn is_waiting(&self) -> bool {
        self.queued > 0 || self.attention > 0 || self.conflicts_open > 0
    }

    /// Returns one sentence about what waits.
    pub fn summary(&self) -> String {
        if let (Some(caveat), false) = (&self.caveat, self.is_waiting()) {
            return format!("what waits in its outbox is unknown: {caveat}");
        }
        let mut parts = Vec::new();
        if self.queued > 0 {
            let records = units::counted(self.queued, "record");
            let verb = if self.queued == 1 { "waits" } else { "wait" };
            let size = units::size(self.queued_bytes);
            parts.push(format!("{records} ({size}) {verb} in the outbox"));
        }
        if self.attention > 0 {
            parts.push(format!("{} parked", units::count(self.attention)));
        }
        if self.conflicts_open > 0 {
            parts.push(format!("{} open", units::counted(self.conflicts_open, "conflict")));
        }
        if parts.is_empty() {
            return "the outbox is empty".to_owned();
        }
        format!("{}; nothing is lost", parts.join(", "))
    }

    /// Returns the command that starts the mount again.
    pub fn start_command(&self) -> String {
        let (Some(source), Some(mountpoint)) = (&self.source, &self.mountpoint) else {
            return format!("mountd run --profile {}", shell_word(&self.name));
        };
        let mut command = format!(
            "mountd mount {} {} --name {}",
            shell_word(source),
            shell_word(mountpoint),
            shell_word(&self.name)
        );
        if let Some(path) = self.remote_path.as_deref().filter(|path| *path != "/") {
            command.extend([" --remote-path ", &shell_word(path)]);
        }
        command
    }
}

/// Loads what the state of the mount `name` says; `None` when there is no such state.
pub fn load(env: &Env, name: &str) -> Option<Persisted> {
    if !paths::is_valid_name(name) {
        return None;
    }
    load_dir(&paths::state_dir(env, name), name)
}

/// Loads the state of every mount of this user, by name.
pub fn load_all(env: &Env) -> Vec<Persisted> {
    let Ok(entries) = fs::read_dir(paths::state_root(env)) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| paths::is_valid_name(name))
        .collect();
    names.sort_unstable();
    names.iter().filter_map(|name| load(env, name)).collect()
}

fn load_dir(dir: &Path, name: &str) -> Option<Persisted> {
    let file = dir.join(STATE_FILE);
    let mut persisted = Persisted {
        name: name.to_owned(),
        state_dir: dir.to_string_lossy().into_owned(),
        ..Persisted::default()
    };
    match fs::metadata(&file) {
        Ok(metadata) if metadata.is_file() => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            persisted.caveat = Some("its state folder may not be read by this user".to_owned());
            return Some(persisted);
        }
        Ok(_) | Err(_) => return None,
    }
    match open(&file) {
        Ok((connection, caveat)) => {
            persisted.caveat = caveat;
            read(&connection, &mut persisted);
        }
        Err(error) => persisted.caveat = Some(format!("its state cannot be read ({error})")),
    }
    Some(persisted)
}

/// Opens the file read-only, and proves that it can be read.
///
/// A file in write-ahead mode can be read only where its `-shm` can be made or is there. Where
/// the folder does not allow that, the file is read as it lies, without what is in the log.
fn open(file: &Path) -> rusqlite::Result<(Connection, Option<String>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let first = Connection::open_with_flags(file, flags).and_then(probed);
    if let Ok(connection) = first {
        return Ok((connection, None));
    }
    let uri = format!("file:{}?immutable=1", uri_path(file));
    let connection =
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).and_then(probed)?;
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let has_log = fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0);
    let caveat = has_log.then(|| "the newest changes are in a log that cannot be read".to_owned());
    Ok((connection, caveat))
}

fn probed(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_MS))?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

fn uri_path(file: &Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};

    let mut text = String::new();
    for byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            text.push(char::from(*byte));
        } else if write!(text, "%{byte:02X}").is_err() {
            break;
        }
    }
    text
}

fn read(connection: &Connection, persisted: &mut Persisted) {
    let meta = |key: &str| -> Option<String> {
        connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).ok()
    };
    persisted.source = meta("source");
    persisted.server = meta("server");
    persisted.workspace = meta("workspace");
    persisted.remote_path = meta("remote_path");
    persisted.mountpoint = meta("mountpoint");
    persisted.token_file = meta("token_file");
    persisted.files_dir = meta("files_dir");
    persisted.pause = meta("pause").and_then(|text| serde_json::from_str(&text).ok());
    persisted.last_ack_at = meta("last_ack_at").and_then(|text| time_of(&text));
    if let Ok((queued, bytes, oldest)) = connection.query_row(
        "SELECT count(*), coalesce(sum(size), 0), min(recorded_at) FROM outbox \
         WHERE state <> 'parked'",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?)),
    ) {
        persisted.queued = unsigned(queued);
        persisted.queued_bytes = unsigned(bytes);
        persisted.oldest_at = oldest.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    } else if persisted.caveat.is_none() {
        persisted.caveat = Some("its outbox cannot be read".to_owned());
    }
    let number =
        |query: &str| unsigned(connection.query_row(query, [], |row| row.get(0)).unwrap_or(0));
    persisted.attention = number("SELECT count(*) FROM outbox WHERE state = 'parked'");
    persisted.damaged = number("SELECT count(*) FROM nodes WHERE content = 'damaged'");
    persisted.conflicts_open =
        number("SELECT count(*) FROM conflicts WHERE coalesce(resolved, 0) = 0");
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads a time written as RFC 3339 or as milliseconds since 1970.
fn time_of(text: &str) -> Option<Timestamp> {
    text.parse()
        .ok()
        .or_else(|| text.parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()))
}

#[cfg(test)]
pub(crate) mod tests;
