//! Who may do what at the server: one token for each mount, and one for the harness.
//!
//! Both the server and the daemons read their files again when they change, so a file is replaced whole.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::story::Side;

/// The harness's own.
pub const HARNESS: &str = "torture-token";

/// Everything but what lies in `/shared`, which is forbidden for a while.
const ALL_BUT_SHARED: &[&str] = &["own-*", "d*", "f*", "log-*", "slots-*"];

/// The files that hold tokens.
pub struct Tokens {
    server: PathBuf,
    mounts: [PathBuf; 2],
    state: Mutex<[Token; 2]>,
}

#[derive(Clone, Copy, Default)]
struct Token {
    number: u32,
    is_narrow: bool,
}

impl Tokens {
    /// The server's file and those of the mounts.
    pub fn new(server: PathBuf, mounts: [PathBuf; 2]) -> Self {
        let tokens = Self { server, mounts, state: Mutex::default() };
        tokens.write_server(&[Token::default(); 2]);
        Side::BOTH.into_iter().for_each(|side| tokens.hand_out(side));
        tokens
    }

    /// From now on the server takes another token from this side.
    pub fn replace_at_server(&self, side: Side) {
        self.change(side, |token| {
            token.number += 1;
            token.is_narrow = false;
        });
    }

    /// From now on this side's token may not write below `/shared`.
    pub fn forbid(&self, side: Side) {
        self.change(side, |token| token.is_narrow = true);
    }

    /// The mount gets the token that the server takes.
    pub fn hand_out(&self, side: Side) {
        let number = self.state.lock().unwrap()[side.index()].number;
        write(&self.mounts[side.index()], &name(side, number));
    }

    fn change(&self, side: Side, act: impl FnOnce(&mut Token)) {
        let mut state = self.state.lock().unwrap();
        act(&mut state[side.index()]);
        self.write_server(&state);
    }

    fn write_server(&self, state: &[Token; 2]) {
        let line = |side: Side| {
            let token = state[side.index()];
            let name = name(side, token.number);
            let narrow = ALL_BUT_SHARED.iter().map(|path| format!("relayfile:fs:write:/{path}"));
            let narrow: Vec<String> = std::iter::once("fs:read".to_owned()).chain(narrow).collect();
            if token.is_narrow {
                format!("{name} subject=torture scopes={} workspace=*", narrow.join(","))
            } else {
                name
            }
        };
        write(&self.server, &format!("{HARNESS}\n{}\n{}\n", line(Side::A), line(Side::B)));
    }
}

fn name(side: Side, number: u32) -> String {
    format!("torture-{side:?}-{number}")
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&new, mode).unwrap();
    std::fs::rename(&new, path).unwrap();
}
