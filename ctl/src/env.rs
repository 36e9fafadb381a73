//! The environment of the process, read once.
//!
//! This is the only module of the crate that reads environment variables. Everything else takes
//! an [`Env`] value, so that tests can say what the environment is.

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// What the rest of the crate needs to know about its surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// The effective user id.
    pub uid: u32,
    /// The home folder, from `HOME` or the user database.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, if absolute.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_STATE_HOME`, if absolute.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, if absolute.
    pub xdg_config_home: Option<PathBuf>,
    /// Holds the folder for sockets with long paths; `None` is `/tmp`, as everywhere but in tests.
    pub tmp_dir: Option<PathBuf>,
    /// The current folder; `None` when it cannot be told.
    pub current_dir: Option<PathBuf>,
    /// This program, where that can be told.
    pub exe: Option<PathBuf>,
    /// `MOUNTD_JSON` asks for JSON.
    pub json: bool,
    /// `NO_COLOR` is set and not empty.
    pub no_color: bool,
    /// `CLICOLOR_FORCE` is set and not `0`.
    pub color_force: bool,
    /// `TERM` is `dumb`.
    pub dumb_terminal: bool,
}

impl Env {
    /// Reads the environment of this process.
    ///
    /// Relative values of the XDG variables count as unset, as their specification demands.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_process() -> Self {
        let text = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = |name: &str| text(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let set = |name: &str| text(name).is_some_and(|value| value != "0" && value != "false");
        let uid = Uid::effective();
        Self {
            uid: uid.as_raw(),
            home: folder("HOME").or_else(|| home_from_database(uid)),
            xdg_runtime_dir: folder("XDG_RUNTIME_DIR"),
            xdg_state_home: folder("XDG_STATE_HOME"),
            xdg_config_home: folder("XDG_CONFIG_HOME"),
            tmp_dir: None,
            current_dir: current_dir(),
            exe: std::env::current_exe().ok(),
            json: set("MOUNTD_JSON"),
            no_color: text("NO_COLOR").is_some(),
            color_force: set("CLICOLOR_FORCE"),
            dumb_terminal: text("TERM").is_some_and(|value| value == "dumb"),
        }
    }
}

impl Env {
    /// Returns the folder of the user's settings.
    pub fn config_home(&self) -> Option<PathBuf> {
        let usual = || self.home.as_ref().map(|home| home.join(".config"));
        self.xdg_config_home.clone().or_else(usual)
    }
}

/// Returns the current folder without looking into it.
///
/// On Linux the kernel keeps the name; asking for it does not touch a mount that hangs.
fn current_dir() -> Option<PathBuf> {
    if cfg!(target_os = "linux") {
        std::fs::read_link("/proc/self/cwd").ok().filter(|path| path.is_absolute())
    } else {
        std::env::current_dir().ok()
    }
}

fn home_from_database(uid: Uid) -> Option<PathBuf> {
    let user = User::from_uid(uid).ok().flatten()?;
    Some(user.dir).filter(|dir| dir.is_absolute() && dir != Path::new("/nonexistent"))
}
