//! What every test needs: a server, a mount, patience with a bound.

pub mod edge;
pub mod hooks;
pub mod load;
pub mod mount;
pub mod observe;
pub mod proxy;
pub mod server;
pub mod tree;

use std::time::{Duration, Instant};

pub use mount::Mount;
pub use server::{Kind, TestServer};

/// How long a test waits for something that should happen at once. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says that a test is skipped. Where everything must be there, as in CI, that is a failure.
#[track_caller]
pub fn skip(why: &str) {
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!must, "SKIPPED {why}, which must not be where CI=true");
    eprintln!("SKIPPED {why}");
}

/// Skips the test, loudly, where FUSE cannot be used.
#[macro_export]
macro_rules! fuse_or_skip {
    () => {
        if let Err(error) = mountd::fuse::session::check_available() {
            $crate::support::skip(&format!("{}: {error}", module_path!()));
            return;
        }
    };
}

/// Makes two tests of each promise, a function of a [`Kind`]: one for a server with all
/// extensions, one for the original protocol.
#[macro_export]
macro_rules! on_both_servers {
    ($($promise:ident,)*) => {$(
        mod $promise {
            #[test]
            fn with_all_extensions() {
                $crate::fuse_or_skip!();
                super::$promise($crate::support::Kind::Extended);
            }

            #[test]
            fn with_the_original_protocol() {
                $crate::fuse_or_skip!();
                super::$promise($crate::support::Kind::Original);
            }
        }
    )*};
}

/// Waits until `look` gives a value; panics after [`PATIENCE`] with `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Waits until `look` gives a value; panics after `patience` with `what`.
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(began.elapsed() < patience, "waited {patience:?} for: {what}");
        // Polling a condition, not hoping that a time is enough.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Closes a file and hears what `close` says, which a file that is dropped keeps to itself.
pub fn close(file: std::fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd as _;
    nix::unistd::close(file.into_raw_fd()).map_err(std::io::Error::from)
}

/// Runs a shell script in `folder`; panics with its output unless it succeeds.
#[track_caller]
pub fn shell(folder: &std::path::Path, script: &str) -> String {
    let output = std::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder)
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "script failed with {}: {script}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A generator whose seed is printed, so that a failing run can be repeated with `SEED=…`.
pub fn seed() -> u64 {
    let seed =
        std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    seed
}

/// `n` bytes that differ for each `seed`.
pub fn bytes(seed: u64, n: usize) -> Vec<u8> {
    use rand::{RngCore as _, SeedableRng as _};
    let mut bytes = vec![0; n];
    rand::rngs::SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
