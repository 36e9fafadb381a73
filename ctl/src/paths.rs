//! Where sockets and state lie: pure functions of an [`Env`] and a name.
//!
//! Nothing here touches the disk. Whoever creates one of these folders makes it 0700.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::env::Env;

/// The longest path a Unix socket can be bound to, in bytes: `sun_path` less its final NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The longest name of a mount, in bytes.
pub const NAME_BYTES_MAX: usize = 100;

/// The file in a state folder that holds the outbox and everything else worth keeping.
pub const STATE_FILE: &str = "state.db";

/// Returns the folder with the sockets of the running daemons.
///
/// `$XDG_RUNTIME_DIR/mountd`; without that variable `/run/mountd` for root and
/// `/tmp/mountd-UID` for everybody else.
pub fn run_dir(env: &Env) -> PathBuf {
    match &env.xdg_runtime_dir {
        Some(dir) => dir.join("mountd"),
        None if env.uid == 0 => PathBuf::from("/run/mountd"),
        None => short_run_dir(env),
    }
}

/// Returns the folder for sockets whose usual path would be too long: `/tmp/mountd-UID`.
///
/// It lies where anybody can create a folder of that name first, so daemon and client use it
/// only when it belongs to the user and nobody else may write to it.
pub fn short_run_dir(env: &Env) -> PathBuf {
    let tmp = env.tmp_dir.as_deref().unwrap_or(Path::new("/tmp"));
    tmp.join(format!("mountd-{}", env.uid))
}

/// Returns every folder that may hold sockets of this user's daemons, the usual one first.
pub fn run_dirs(env: &Env) -> Vec<PathBuf> {
    let mut dirs = vec![run_dir(env)];
    let short = short_run_dir(env);
    if !dirs.contains(&short) {
        dirs.push(short);
    }
    dirs
}

/// Returns the control socket of the mount called `name`.
///
/// `RUN/NAME.sock`, or `/tmp/mountd-UID/HASH.sock` when that is longer than a socket's path
/// may be; `HASH` is a function of the path it replaces.
pub fn socket_path(env: &Env, name: &str) -> PathBuf {
    let path = run_dir(env).join(format!("{name}.sock"));
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= SOCKET_PATH_BYTES_MAX {
        return path;
    }
    short_run_dir(env).join(format!("{:016x}.sock", fnv1a64(bytes)))
}

/// Returns the folder that holds one state folder per mount.
///
/// `$XDG_STATE_HOME/mountd`, else `~/.local/state/mountd`, else `/var/lib/mountd` for a user
/// without a home.
pub fn state_root(env: &Env) -> PathBuf {
    match (&env.xdg_state_home, &env.home) {
        (Some(dir), _) => dir.join("mountd"),
        (None, Some(home)) => home.join(".local/state/mountd"),
        (None, None) => PathBuf::from("/var/lib/mountd"),
    }
}

/// Returns the state folder of the mount called `name`.
pub fn state_dir(env: &Env, name: &str) -> PathBuf {
    state_root(env).join(name)
}

/// Returns whether `name` can name a mount.
///
/// A name becomes part of file names, so it is 1 to [`NAME_BYTES_MAX`] ASCII letters, digits and
/// `. _ @ + -`, and starts with neither a dot nor a dash.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
}

/// Makes `path` absolute against `base` and resolves `.` and `..` by their spelling alone.
///
/// The disk is not asked, because asking below a mount point can wait for ever. A `..` after a
/// symbolic link is therefore taken at its word.
pub fn clean_path(base: &Path, path: &Path) -> PathBuf {
    use std::path::Component;

    let mut clean = PathBuf::from("/");
    for component in base.join(path).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The 64-bit FNV-1a hash: stable between versions and builds, which `std`'s is not.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(uid: u32, runtime: Option<&str>) -> Env {
        Env { uid, xdg_runtime_dir: runtime.map(PathBuf::from), ..Env::default() }
    }

    #[test]
    fn run_dir_follows_the_environment() {
        assert_eq!(run_dir(&env(7, Some("/run/user/7"))), Path::new("/run/user/7/mountd"));
        assert_eq!(run_dir(&env(0, None)), Path::new("/run/mountd"));
        assert_eq!(run_dir(&env(7, None)), Path::new("/tmp/mountd-7"));
        assert_eq!(run_dirs(&env(7, None)), [PathBuf::from("/tmp/mountd-7")]);
        assert_eq!(
            run_dirs(&env(0, None)),
            [PathBuf::from("/run/mountd"), PathBuf::from("/tmp/mountd-0")]
        );
    }

    #[test]
    fn a_long_socket_path_falls_back_at_108_bytes() {
        let env = env(7, Some("/r"));
        let overhead = "/r/mountd/.sock".len();
        let longest = "n".repeat(SOCKET_PATH_BYTES_MAX - overhead);
        let socket = socket_path(&env, &longest);
        assert_eq!(socket, PathBuf::from(format!("/r/mountd/{longest}.sock")));

        let short = socket_path(&env, &format!("{longest}n"));
        assert_eq!(short.parent(), Some(Path::new("/tmp/mountd-7")));
        assert_ne!(short, socket_path(&env, &format!("{longest}m")));
        assert!(short.as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
    }

    #[test]
    fn hash_is_fnv1a() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn state_root_prefers_xdg_then_home() {
        let mut env = Env { home: Some("/home/ana".into()), ..Env::default() };
        assert_eq!(state_dir(&env, "ws"), Path::new("/home/ana/.local/state/mountd/ws"));
        env.xdg_state_home = Some("/s".into());
        assert_eq!(state_dir(&env, "ws"), Path::new("/s/mountd/ws"));
        assert_eq!(state_root(&Env::default()), Path::new("/var/lib/mountd"));
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in ["ws", "ws_demo", "a.b", "x@y+z-1"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "-m", "a/b", "a b", "ä", &"n".repeat(101)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn clean_path_is_lexical() {
        let clean = |path: &str| clean_path(Path::new("/home/ana"), Path::new(path));
        assert_eq!(clean("ws"), Path::new("/home/ana/ws"));
        assert_eq!(clean("./ws/../b/"), Path::new("/home/ana/b"));
        assert_eq!(clean("../../../.."), Path::new("/"));
        assert_eq!(clean("/x//y/."), Path::new("/x/y"));
    }
}
