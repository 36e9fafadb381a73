//! Configuration: the command line and the environment, read once, made into plain values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mountctl::api::ExitCode;
use mountctl::env::Env;
use mountctl::paths;
use url::Url;
use zeroize::Zeroizing;

use crate::args::{MountArgs, RepairArgs};
use crate::conflict_policy::Policies;
use crate::path::WsPath;
use crate::remote::http::check_url;
use crate::report::Report;

/// Workspace of the embedded server.
const EMBEDDED_WORKSPACE: &str = "default";

/// Shortest cool-down of the circuit that may be chosen.
const CIRCUIT_COOL_DOWN_MIN: Duration = Duration::from_millis(100);

/// Everything a mount needs to know.
#[derive(Debug)]
pub struct Config {
    /// Name of the mount.
    pub name: String,
    /// Where the workspace is.
    pub source: Source,
    /// The mount point as typed.
    pub mountpoint: PathBuf,
    /// Make the mount point if it is missing.
    pub create_mountpoint: bool,
    /// Folder with database, lock and conflict copies.
    pub state_dir: PathBuf,
    /// Folder with the working files.
    pub files_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// Token from the environment.
    pub token: Option<Secret>,
    /// The user's own ignore rules, whether or not the file is there.
    pub user_rules: Option<PathBuf>,
    /// Mounted folder of the workspace.
    pub remote_path: WsPath,
    /// Refuse every change.
    pub read_only: bool,
    /// See [`crate::args::MountArgs`]; bytes.
    pub cache_size: u64,
    /// See [`crate::args::MountArgs`].
    pub debounce: Duration,
    /// See [`crate::args::MountArgs`].
    pub max_delay: Duration,
    /// See [`crate::args::MountArgs`].
    pub poll_interval: Duration,
    /// When the circuit opens.
    pub circuit_failures: u32,
    /// For how long.
    pub circuit_cool_down: Duration,
    /// See [`crate::args::MountArgs`].
    pub drain: Duration,
    /// What becomes of files that both sides changed.
    pub conflict_policies: Policies,
    /// See [`crate::args::MountArgs`].
    pub conflict_siblings: bool,
    /// See [`crate::args::MountArgs`].
    pub conflict_keep: Duration,
    /// Let other users in.
    pub allow_other: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
}

/// A token that does not show, and that leaves nothing in memory when it is dropped.
pub struct Secret(pub Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a workspace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At a server.
    Server {
        /// Its address, ending in `/`.
        base: Url,
        /// The workspace.
        workspace: String,
    },
    /// In a folder of this machine, behind the embedded server.
    Folder(PathBuf),
}

impl Source {
    /// The source as it is shown and remembered.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Server { base, workspace } => {
                format!("{}/{workspace}", base.as_str().trim_end_matches('/'))
            }
            Self::Folder(folder) => format!("file://{}", folder.display()),
        }
    }

    /// The server's address as it is shown.
    #[must_use]
    pub fn server(&self) -> String {
        match self {
            Self::Server { base, .. } => base.as_str().trim_end_matches('/').to_owned(),
            Self::Folder(folder) => format!("file://{}", folder.display()),
        }
    }

    /// The workspace.
    #[must_use]
    pub fn workspace(&self) -> &str {
        match self {
            Self::Server { workspace, .. } => workspace,
            Self::Folder(_) => EMBEDDED_WORKSPACE,
        }
    }
}

/// The parts of the environment that only the daemon reads.
#[derive(Debug, Default)]
pub struct DaemonEnv {
    /// `XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `MOUNTD_TOKEN`.
    pub token: Option<Secret>,
    /// `CREDENTIALS_DIRECTORY`, set by systemd.
    pub credentials_dir: Option<PathBuf>,
}

impl DaemonEnv {
    /// Reads the environment.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    pub fn from_process() -> Self {
        let folder = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        Self {
            data_home: folder("XDG_DATA_HOME"),
            config_home: folder("XDG_CONFIG_HOME"),
            token: std::env::var("MOUNTD_TOKEN")
                .ok()
                .filter(|t| !t.is_empty())
                .map(|t| Secret(Zeroizing::new(t))),
            credentials_dir: folder("CREDENTIALS_DIRECTORY"),
        }
    }
}

impl Config {
    /// Resolves what was typed.
    ///
    /// # Errors
    /// When a value makes no sense; the report says which and what to write instead.
    pub fn resolve(args: &MountArgs, env: &Env, daemon_env: DaemonEnv) -> Result<Self, Report> {
        let (source, mountpoint, create_mountpoint) = match args.places.as_slice() {
            [source, mountpoint] => (parse_source(source, args.insecure_http)?, mountpoint, false),
            [mountpoint] => (default_source(env, &daemon_env, mountpoint)?, mountpoint, true),
            _ => return Err(usage("give SOURCE and MOUNTPOINT, or MOUNTPOINT alone")),
        };
        let remote_path = WsPath::parse(&args.remote_path)
            .map_err(|error| usage(format!("--remote-path {}: {error}", args.remote_path)))?;
        let name = match &args.name {
            Some(name) => name.clone(),
            None => default_name(&source, &remote_path, Path::new(mountpoint)),
        };
        if !paths::is_valid_name(&name) {
            return Err(usage(format!("`{name}` cannot be the name of a mount"))
                .why("a name is made of letters, digits and . _ @ + - and does not start with . or -")
                .fix("choose one with --name NAME"));
        }
        if args.max_delay < args.debounce {
            return Err(usage("--max-delay is shorter than --debounce"));
        }
        if args.circuit_cool_down < CIRCUIT_COOL_DOWN_MIN {
            return Err(usage("--circuit-cool-down is shorter than 100ms")
                .why("a server in trouble would be asked all the time"));
        }
        let state_dir = match &args.state_dir {
            Some(root) => absolute(root)?.join(&name),
            None => paths::state_dir(env, &name),
        };
        let files_dir = match &args.cache_dir {
            Some(root) => absolute(root)?.join(&name),
            None => state_dir.join("files"),
        };
        let config_home = daemon_env
            .config_home
            .clone()
            .or_else(|| env.home.as_ref().map(|home| home.join(".config")));
        let credential = daemon_env.credentials_dir.as_ref().map(|folder| folder.join("token"));
        let token_file = match (&args.token_file, credential.filter(|file| file.exists())) {
            (Some(file), _) => Some(absolute(file)?),
            (None, credential) => credential,
        };
        Ok(Self {
            socket: paths::socket_path(env, &name),
            name,
            source,
            mountpoint: PathBuf::from(mountpoint),
            create_mountpoint,
            state_dir,
            files_dir,
            token_file,
            token: daemon_env.token,
            user_rules: config_home.map(|folder| folder.join("mountd/ignore")),
            remote_path,
            read_only: args.read_only,
            cache_size: args.cache_size,
            debounce: args.debounce,
            max_delay: args.max_delay,
            poll_interval: args.poll_interval,
            circuit_failures: args.circuit_failures,
            circuit_cool_down: args.circuit_cool_down,
            drain: args.drain,
            conflict_policies: Policies::parse(&args.conflict).map_err(|why| {
                usage(format!("--conflict: {why}")).why(
                    "a rule is POLICY or GLOB=POLICY, where POLICY is keep, merge, ours or theirs",
                )
            })?,
            conflict_siblings: args.conflict_siblings,
            conflict_keep: args.conflict_keep,
            allow_other: args.allow_other,
            threads: usize::from(args.threads),
        })
    }
}

/// What a repair needs to know.
#[derive(Debug)]
pub struct RepairConfig {
    /// Name of the mount.
    pub name: String,
    /// Folder with database, lock and conflict copies.
    pub state_dir: PathBuf,
    /// Folder with the working files, where it was named.
    pub files_dir: Option<PathBuf>,
    /// Change nothing.
    pub dry_run: bool,
}

impl RepairConfig {
    /// Resolves what was typed.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn resolve(args: &RepairArgs, env: &Env) -> Result<Self, Report> {
        let name = args.name.clone();
        if !paths::is_valid_name(&name) {
            return Err(usage(format!("`{name}` cannot be the name of a mount")));
        }
        let below = |root: &PathBuf| Ok(absolute(root)?.join(&name));
        Ok(Self {
            state_dir: match &args.state_dir {
                Some(root) => below(root)?,
                None => paths::state_dir(env, &name),
            },
            files_dir: args.cache_dir.as_ref().map(below).transpose()?,
            dry_run: args.dry_run,
            name,
        })
    }
}

fn usage(what: impl Into<String>) -> Report {
    Report::new(ExitCode::Usage, "INVALID_ARGUMENT", what).fix("see mountd mount --help")
}

fn absolute(path: &Path) -> Result<PathBuf, Report> {
    std::path::absolute(path).map_err(|error| usage(format!("{}: {error}", path.display())))
}

fn parse_source(text: &str, insecure_http: bool) -> Result<Source, Report> {
    let shape = "write it as https://HOST/WORKSPACE or file:///DIR";
    let url = Url::parse(text)
        .map_err(|error| usage(format!("`{text}` is not a source: {error}")).fix(shape))?;
    if url.scheme() == "file" {
        let folder = url.to_file_path().map_err(|()| {
            usage(format!("`{text}` does not name a folder of this machine")).fix(shape)
        })?;
        return Ok(Source::Folder(folder));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage("the source holds a user name or password")
            .why("addresses end up in logs and process lists")
            .fix("put the token into a file and name it with --token-file"));
    }
    check_url(&url, insecure_http)
        .map_err(|why| usage(format!("`{text}` cannot be used as a source")).why(why).fix(shape))?;
    let mut segments: Vec<String> = url
        .path_segments()
        .map(|all| all.filter(|s| !s.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    let workspace = match segments.pop() {
        Some(workspace) if segments.is_empty() => workspace,
        _ => return Err(usage(format!("`{text}` does not name one workspace")).fix(shape)),
    };
    let mut base = url;
    base.set_path("/");
    base.set_query(None);
    base.set_fragment(None);
    Ok(Source::Server { base, workspace })
}

/// The embedded server's own folder for this mount point.
fn default_source(env: &Env, daemon_env: &DaemonEnv, mountpoint: &str) -> Result<Source, Report> {
    if mountpoint.contains("://") {
        return Err(usage(format!("`{mountpoint}` is a source; the mount point is missing"))
            .fix(format!("mountd mount {mountpoint} DIR")));
    }
    let data = daemon_env
        .data_home
        .clone()
        .or_else(|| env.home.as_ref().map(|home| home.join(".local/share")))
        .ok_or_else(|| usage("there is no home folder to keep the workspace in").fix("set HOME"))?;
    Ok(Source::Folder(data.join("mountd/workspace")))
}

fn default_name(source: &Source, remote_path: &WsPath, mountpoint: &Path) -> String {
    let base = match source {
        Source::Server { workspace, .. } => workspace.clone(),
        Source::Folder(_) => mountpoint
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|| EMBEDDED_WORKSPACE.to_owned()),
    };
    let whole = match remote_path.name() {
        Some(folder) => format!("{base}-{folder}"),
        None => base,
    };
    // What a name may not hold becomes a dash.
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
    let name: String = whole.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    name.trim_start_matches(['.', '-']).chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let server = parse_source("https://files.example.dev/ws_demo", false).unwrap();
        assert_eq!(server.text(), "https://files.example.dev/ws_demo");
        assert_eq!(server.workspace(), "ws_demo");
        let folder = parse_source("file:///srv/ws", false).unwrap();
        assert_eq!(folder, Source::Folder(PathBuf::from("/srv/ws")));
        for wrong in [
            "files.example.dev/ws",
            "https://files.example.dev/",
            "https://files.example.dev/a/b",
            "http://files.example.dev/ws",
            "ftp://files.example.dev/ws",
            "https://ana:secret@files.example.dev/ws",
        ] {
            let report = parse_source(wrong, false).unwrap_err();
            assert_eq!(report.exit, ExitCode::Usage, "{wrong}");
            assert!(!report.what.contains("secret"));
        }
        assert!(parse_source("http://127.0.0.1:1/ws", false).is_ok());
        assert!(parse_source("http://files.example.dev/ws", true).is_ok());
    }
}
