//! Which server this is: made up once, kept in the storage folder, announced ever after.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The identity of the server that owns `folder`; made up when there is none yet.
///
/// # Errors
/// When the file cannot be read or written, or holds something else: a server that calls itself
/// another one because of a damaged file would be taken for a stranger.
pub(super) fn of(folder: &Path) -> io::Result<String> {
    let file = folder.join("identity");
    match fs::read_to_string(&file) {
        Ok(text) => {
            let text = text.trim();
            if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(text.to_ascii_lowercase());
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not hold 32 hexadecimal digits; restore it, or remove it to be another server",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let identity = format!("{:032x}", rand::random::<u128>());
    // Whole or not at all, also after a crash.
    let new = folder.join("identity.new");
    let mut made =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(made, "{identity}")?;
    made.sync_all()?;
    fs::rename(new, file)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_up_once_and_never_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let first = of(folder.path()).unwrap();
        assert_eq!(of(folder.path()).unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(of(other.path()).unwrap(), first);
        fs::write(folder.path().join("identity"), "nonsense").unwrap();
        assert_eq!(of(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
