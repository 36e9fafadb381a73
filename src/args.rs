//! The command line: what was typed, nothing decided yet.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Mounts a remote workspace as an ordinary folder.
#[derive(Debug, Parser)]
#[command(name = "mountd", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `mountd::engine=debug`
    #[arg(long, global = true, env = "MOUNTD_LOG", default_value = "warn", value_name = "LEVEL")]
    pub log_level: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a workspace and serve it until Ctrl-C, SIGTERM or `mountctl unmount`
    #[command(after_help = MOUNT_HELP)]
    Mount(Box<MountArgs>),
    /// Look at everything that lies in the state folder of a mount that does not run, and put right
    /// what can be put right; nothing is removed
    Repair(RepairArgs),
    /// Ask a workspace server once whether it can be mounted, and say what it answers
    Probe(ProbeArgs),
    /// Serve workspaces over HTTP from a folder, for several mounts and machines
    Serve(ServeArgs),
    /// Wake those who watch a mounted folder; started by `mount` for itself
    #[command(hide = true)]
    WakeWatchers,
    /// See a killed daemon to its end; started by `mount` for itself
    #[command(hide = true)]
    SeeToTheEnd {
        /// Its process.
        daemon: i32,
        /// Where it mounted.
        mountpoint: PathBuf,
    },
}

const MOUNT_HELP: &str = "\
SOURCE is one of
  https://HOST/WORKSPACE   a workspace server (http:// for loopback addresses)
  file:///DIR              the embedded server, started on that folder
Left out, the embedded server runs on a folder of its own, and MOUNTPOINT is created if missing.

The token of a server comes from --token-file or MOUNTD_TOKEN, never from the command line.

Examples:
  mountd mount ~/ws
  mountd mount https://files.example.dev/ws_demo ~/ws --token-file ~/.config/mountd/token";

/// Options of `mountd mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// SOURCE and MOUNTPOINT, or MOUNTPOINT alone
    #[arg(value_name = "SOURCE MOUNTPOINT", required = true, num_args = 1..=2)]
    pub places: Vec<String>,
    /// Name of the mount: its state folder and its socket (default: from the workspace)
    #[arg(long)]
    pub name: Option<String>,
    /// File that holds the token; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Mount only this folder of the workspace
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub remote_path: String,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Folder below which state is kept, outbox included (default: the user's state folder)
    #[arg(long, value_name = "DIR", env = "MOUNTD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder below which working files are kept (default: the state folder); it holds unsent
    /// bytes too and is not safe to delete
    #[arg(long, value_name = "DIR", env = "MOUNTD_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Drop content that the server has too when local content takes more disk than this
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = size)]
    pub cache_size: u64,
    /// Send when nothing changed for this long
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = duration)]
    pub debounce: Duration,
    /// Send at the latest when a change waited this long; in a burst of changes, five times this
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub max_delay: Duration,
    /// How often to ask for changes while they cannot be pushed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub poll_interval: Duration,
    /// After this many failures in a row that may pass, wait for the cool-down instead of trying
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub circuit_failures: u32,
    /// How long to wait then before one request finds out whether the server is back
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub circuit_cool_down: Duration,
    /// How long to keep sending when stopping; the rest stays in the outbox
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = duration)]
    pub drain: Duration,
    /// What to do when both sides changed a file: keep (a conflict copy that waits for you), merge
    /// (where that is clean, else keep), ours, theirs; the other side is kept beside in any case.
    /// GLOB as in .gitignore, left out: all files; may be given several times, the last that fits
    /// counts [default: merge]
    #[arg(long, value_name = "[GLOB=]POLICY")]
    pub conflict: Vec<String>,
    /// Show ours beside the file as well, as `name (conflict HOST TIME).ext`, when a conflict waits
    /// for you; it is an ordinary file, sent like any other
    #[arg(long)]
    pub conflict_siblings: bool,
    /// How long the copies of resolved conflicts are kept; those of open ones stay
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
    pub conflict_keep: Duration,
    /// Let other users use the mount, subject to the permission bits
    #[arg(long)]
    pub allow_other: bool,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Allow plain http to hosts other than loopback; anybody on the way can read the token
    #[arg(long)]
    pub insecure_http: bool,
}

/// Options of `mountd repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Name of the mount
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Folder below which its state is kept (default: the user's state folder)
    #[arg(long, value_name = "DIR", env = "MOUNTD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder below which its working files are kept (default: where they were at its last start)
    #[arg(long, value_name = "DIR", env = "MOUNTD_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Change nothing, only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Options of `mountd probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What would be mounted, as for `mountd mount`
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Mount only this folder of the workspace
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub remote_path: String,
    /// Allow plain http to hosts other than loopback
    #[arg(long)]
    pub insecure_http: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl ProbeArgs {
    /// What a mount of the same source would be started with.
    ///
    /// # Errors
    /// When the source cannot be understood, in words.
    pub fn to_mount(&self) -> Result<MountArgs, String> {
        #[derive(Debug, Parser)]
        struct AsMount {
            #[command(flatten)]
            mount: MountArgs,
        }
        let mut words = vec!["mount".to_owned(), self.source.clone(), "/".to_owned()];
        let token_file = self.token_file.as_ref().map(|file| file.display().to_string());
        words.extend(token_file.into_iter().flat_map(|file| ["--token-file".to_owned(), file]));
        words.extend(["--remote-path".to_owned(), self.remote_path.clone()]);
        words.extend(self.insecure_http.then(|| "--insecure-http".to_owned()));
        // A name that any source may have: none is used.
        words.extend(["--name".to_owned(), "probe".to_owned()]);
        AsMount::try_parse_from(words).map(|parsed| parsed.mount).map_err(|error| error.to_string())
    }
}

/// Options of `mountd serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,
    /// Folder that holds the workspaces
    #[arg(long, value_name = "DIR")]
    pub storage: PathBuf,
    /// File with the tokens: one line each, `TOKEN subject=NAME scopes=fs:read,fs:write
    /// workspace=NAME|*`, or one bare token for everything
    #[arg(long, value_name = "FILE", required_unless_present = "jwks_url")]
    pub token_file: Option<PathBuf>,
    /// Accept RS256 JSON Web Tokens whose keys are published here
    #[arg(long, value_name = "URL", conflicts_with = "token_file")]
    pub jwks_url: Option<String>,
    /// Largest JSON request body in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    pub max_body_bytes: usize,
    /// Requests allowed per minute for each workspace and subject (default: no limit)
    #[arg(long, value_name = "N")]
    pub rate_limit: Option<u32>,
    /// Serve only the original protocol, without the extensions
    #[arg(long)]
    pub no_extensions: bool,
}

/// Parses `20ms`, `5s`, `2m`, `1h`, `30d`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("`{text}` is not a duration; write it like 20ms, 5s, 2m, 1h or 30d");
    let number: u64 = number.parse().map_err(|_error| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

/// Parses `512MiB`, `10GiB`, or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("`{text}` is not a size; write it like 512MiB or 10GiB");
    let number: u64 = number.parse().map_err(|_error| wrong())?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert_eq!(size("42"), Ok(42));
        for wrong in ["", "GiB", "1GB", "-1", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        for wrong in ["", "5", "ms", "5 s", "-1s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
