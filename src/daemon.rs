//! The composition root: checks, builds, wires, starts in order, stops in reverse.

mod embedded;
mod probe;
mod recover;
mod repair;
mod reports;
mod state_folder;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mountctl::api::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use url::Url;
use zeroize::Zeroizing;

use self::embedded::reach;
use self::reports::{failure, mountpoint_report, session_report, store_report};
use self::state_folder::{
    check_identity, check_places, check_private, identity, lock_state, make_private,
};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, Source};
use crate::content::Contents;
use crate::control::{self, Control, MountFacts};
use crate::engine::link::Circuit;
use crate::engine::runner::{COMMANDS_MAX, Command, Runner};
use crate::engine::{Core, Now, Settings, Shared};
use crate::fs::Fs;
use crate::fuse::mountpoint::{self, MountpointError};
use crate::fuse::session::{Mounted, SessionOptions, check_available};
use crate::guardian::Guardian;
use crate::remote::credential::Credential;
use crate::remote::http::{HttpConfig, HttpRemote};
use crate::remote::{Remote as _, RemoteError};
use crate::report::Report;
use crate::store::{Opened, Row};
use crate::watch;

/// How much the threads that upload and fetch give way to those that answer the kernel when the
/// processors are busy; a nice value.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 5;

/// How long the last tasks may take when the process ends.
const RUNTIME_END: Duration = Duration::from_secs(2);

pub use self::probe::probe;
pub use self::repair::repair;

/// Runs a mount until it is told to stop.
///
/// # Errors
/// When it cannot start; nothing was changed then.
pub fn mount(config: Config, out: &mut dyn io::Write) -> Result<(), Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(give_way)
        .enable_all()
        .build()
        .map_err(|error| failure(format!("start the runtime: {error}")))?;
    let result = runtime.block_on(run(config, out));
    runtime.shutdown_timeout(RUNTIME_END);
    result
}

/// Lowers the priority of the calling thread. On Linux each thread has one of its own; elsewhere it
/// would be the whole process's.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE) {
        tracing::debug!(%error, "priority");
    }
}

async fn run(config: Config, out: &mut dyn io::Write) -> Result<(), Report> {
    let clock = SystemClock::start();
    let started_at = clock.wall();
    check_available().map_err(session_report)?;
    if config.create_mountpoint {
        create_mountpoint(&config, out)?;
    }
    let mountpoint = mountpoint::absolute(&config.mountpoint).map_err(mountpoint_report)?;
    check_places(&config, &mountpoint)?;
    // One that was made anew may not have its name yet.
    let databases = ["state.db", "state.db.ready"];
    let known = databases.iter().any(|name| config.state_dir.join(name).exists());
    check_private(&config)?;
    // A state folder in use says so before anything else is looked at.
    let lock = || lock_state(&config.name, &config.state_dir);
    let held = config.state_dir.exists().then(lock).transpose()?;
    // Damage is found, and told, before anything is mounted.
    let open = || recover::open_state(&config.state_dir, started_at);
    let opened = known.then(open).transpose()?;
    if let Some(opened) = &opened {
        check_identity(&config, &opened.loaded)?;
    }
    mountpoint::prepare(&mountpoint).map_err(mountpoint_report)?;

    let credential = load_credential(&config).await?;
    let (base, token, server) = reach(&config, credential).await?;
    let remote = connect(&config, base, &token)?;
    if !known {
        preflight(&config, &remote).await?;
    }
    make_private(&config.state_dir)?;
    let lock = held.map_or_else(lock, Ok)?;
    let opened = opened.map_or_else(open, Ok)?;
    let parts = build(&config, &mountpoint, opened, Arc::clone(&remote), &clock)?;
    let listener = control::bind(&config.socket)
        .map_err(|error| failure(format!("control socket {}: {error}", config.socket.display())))?;

    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let stop = Arc::new(Notify::new());
    let fs = Arc::new(Fs::new(Arc::clone(&parts), tokio::runtime::Handle::current()));
    let session = SessionOptions {
        name: config.name.clone(),
        allow_other: config.allow_other,
        read_only: config.read_only,
        threads: config.threads,
    };
    // From here on a signal must lead to an orderly end: by default it would leave a dead mount.
    let signals = Signals::catch()?;
    let kernel_gone = Arc::clone(&stop);
    let mounted = Mounted::mount(fs, &mountpoint, &session, move || kernel_gone.notify_one());
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            drop(fs::remove_file(&config.socket));
            return Err(session_report(error));
        }
    };
    let guardian = Guardian::start(&mountpoint).inspect_err(
        |error| tracing::warn!(%error, "nobody will see to the end of a killed daemon"),
    );
    failpoint!("start.mounted");
    let runner = tokio::spawn(Runner::new(Arc::clone(&parts), inbox).run());
    let facts = MountFacts {
        name: config.name.clone(),
        mountpoint: mountpoint.clone(),
        server: config.source.server(),
        workspace: config.source.workspace().to_owned(),
        remote_path: config.remote_path.clone(),
        read_only: config.read_only,
        started_at,
        poll_interval: config.poll_interval,
        conflicts_folder: parts.conflicts_folder.clone(),
        drain: config.drain,
    };
    let control = Arc::new(Control::new(
        facts,
        Arc::clone(&parts),
        commands.clone(),
        token.clone(),
        Arc::clone(&remote),
        Arc::clone(&stop),
    ));
    let control_end = Arc::new(Notify::new());
    let ended = Arc::clone(&control_end);
    let serving = tokio::spawn(control::serve(listener, Arc::clone(&control), async move {
        ended.notified().await;
    }));
    follow_files(&config, &parts, &commands, &token);
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    greet(&config, &mountpoint, &parts, out);

    let ended = wait_for_end(signals, &stop, runner).await;
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    control.note_stopping();
    let drain = if control.was_drained() { Duration::ZERO } else { config.drain };
    let remaining = stop_mount(drain, &parts, &commands, mounted).await;
    control_end.notify_one();
    drop(serving.await);
    drop(fs::remove_file(&config.socket));
    if let Some(server) = server {
        server.stop().await;
    }
    drop(guardian);
    drop(lock);
    farewell(&config, remaining, out);
    ended
}

fn create_mountpoint(config: &Config, out: &mut dyn io::Write) -> Result<(), Report> {
    match fs::create_dir(&config.mountpoint) {
        Ok(()) => {
            drop(writeln!(out, "created {}", config.mountpoint.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(mountpoint_report(MountpointError::Missing(config.mountpoint.clone())))
        }
        // There already, or dead; what is wrong with it is said later.
        Err(_) => Ok(()),
    }
}

async fn load_credential(config: &Config) -> Result<Credential, Report> {
    let token = match (&config.token_file, &config.token) {
        (Some(file), _) => {
            let text = watch::read(file).await.map_err(|error| {
                Report::new(
                    ExitCode::Auth,
                    "TOKEN_FILE",
                    format!("token file {}: {error}", file.display()),
                )
                .fix("write the token to it, for you alone to read, or name another one")
            })?;
            check_token_file(file)?;
            Some(Zeroizing::new(text))
        }
        (None, Some(secret)) => Some(secret.0.clone()),
        (None, None) => None,
    };
    Ok(Credential::new(token))
}

fn check_token_file(file: &Path) -> Result<(), Report> {
    let report = |what: String| {
        Report::new(ExitCode::Auth, "TOKEN_FILE", format!("token file {} {what}", file.display()))
    };
    let metadata = fs::metadata(file).map_err(|error| report(format!("is gone: {error}")))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(report("can be read by other users".to_owned())
            .fix(format!("chmod 600 {}", file.display())));
    }
    let (owner, own) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    // Root may use anybody's.
    if own != 0 && owner != own && owner != 0 {
        return Err(report(format!("belongs to another user, {owner}"))
            .fix("copy the token into a file of your own"));
    }
    Ok(())
}

fn connect(config: &Config, base: Url, credential: &Credential) -> Result<Arc<HttpRemote>, Report> {
    let workspace = config.source.workspace().to_owned();
    let mut http = HttpConfig::new(base, workspace, credential.clone());
    http.root = config.remote_path.clone();
    http.poll_interval = config.poll_interval;
    HttpRemote::new(http).map(Arc::new).map_err(|error| failure(error.to_string()))
}

/// A workspace that was never mounted here must be reachable: there is nothing to show yet.
async fn preflight(config: &Config, remote: &HttpRemote) -> Result<(), Report> {
    let Err(error) = remote.may_read().await else { return Ok(()) };
    let what = format!("{} cannot be mounted", config.source.text());
    let report = match &error {
        RemoteError::Auth { .. } | RemoteError::Forbidden { .. } => {
            Report::new(ExitCode::Auth, "AUTH", what)
                .fix("give a valid token with --token-file FILE or MOUNTD_TOKEN")
        }
        RemoteError::Gone { .. } => Report::new(ExitCode::NotFound, "NOT_FOUND", what).fix(
            "check the name of the workspace and that the address is that of a workspace server",
        ),
        RemoteError::Untrusted { .. } => Report::new(ExitCode::Server, "UNTRUSTED", what)
            .fix("check the address; certificates of an authority of your own: SSL_CERT_FILE=FILE"),
        _ => Report::new(ExitCode::Server, "SERVER_UNREACHABLE", what)
            .fix("check the address and the network; once mounted, it also works offline"),
    };
    Err(report.why(error.to_string()))
}

fn build(
    config: &Config,
    mountpoint: &Path,
    opened: Opened,
    remote: Arc<HttpRemote>,
    clock: &SharedClock,
) -> Result<Arc<Shared>, Report> {
    let lost = recover::Lost::of(&opened);
    let (store, loaded) = (opened.store, opened.loaded);
    drop(fs::set_permissions(store.path(), fs::Permissions::from_mode(0o600)));
    let settings = Settings {
        debounce: config.debounce,
        max_delay: config.max_delay,
        who: who(),
        conflict_policies: config.conflict_policies.clone(),
        conflict_siblings: config.conflict_siblings,
        conflict_keep: config.conflict_keep,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        read_only: config.read_only,
        cache_bytes_max: config.cache_size,
        circuit: Circuit {
            threshold: config.circuit_failures,
            cool_down: config.circuit_cool_down,
        },
        ..Settings::default()
    };
    let contents = Contents::open(&config.files_dir, store.clone(), &loaded.sums)
        .map_err(|error| failure(format!("{}: {error}", config.files_dir.display())))?;
    failpoint!("start.loaded");
    let now = Now { mono: clock.monotonic(), wall: clock.wall() };
    let blobs = loaded.blobs.clone();
    let damaged = loaded.damaged.clone();
    let (mut core, mut changes) = Core::new(loaded, settings, now, rand::random());
    changes.rows.extend(damaged.into_iter().map(|row| Row::Discard(Box::new(row))));
    let copies = config.state_dir.join("conflicts");
    let look = recover::Sweep { lost, blobs: &blobs, copies: &copies, keep_all: false };
    recover::sweep(&mut core, &contents, &look, now, &mut changes)
        .map_err(|error| failure(format!("{}: {error}", config.files_dir.display())))?;
    let mut meta = identity(config).to_vec();
    meta.extend([
        ("name", config.name.clone()),
        ("workspace", config.source.workspace().to_owned()),
        ("server", config.source.server()),
        ("mountpoint", mountpoint.display().to_string()),
        ("files_dir", config.files_dir.display().to_string()),
    ]);
    changes.rows.extend(meta.into_iter().map(|(key, value)| Row::SetMeta(key, Some(value))));
    let token_file = config.token_file.as_ref().map(|file| file.display().to_string());
    changes.rows.push(Row::SetMeta("token_file", token_file));
    store.commit_and_wait(changes.rows, false).map_err(|error| store_report(&error))?;
    failpoint!("start.committed");
    if let Some(capabilities) = core.capabilities {
        remote.set_capabilities(capabilities);
    }
    make_private(&copies)?;
    Ok(Arc::new(Shared::new(core, store, contents, remote, Arc::clone(clock), copies)))
}

/// Who works here, for the labels of conflicts.
fn who() -> Option<String> {
    let host = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    Some(format!("{}@{host}", user.unwrap_or_else(|| uid.to_string())))
}

/// Reads credential and rules again when their files change.
fn follow_files(
    config: &Config,
    shared: &Arc<Shared>,
    commands: &mpsc::Sender<Command>,
    credential: &Credential,
) {
    if let (Some(file), Source::Server { .. }) = (config.token_file.clone(), &config.source) {
        let (commands, credential) = (commands.clone(), credential.clone());
        tokio::spawn(async move {
            // Not what the file says now: it may have changed since the token was read.
            watch::follow(file.clone(), None, move |text| {
                let Some(token) = text.map(Zeroizing::new) else { return };
                if credential.holds(&token) {
                    return;
                }
                if let Err(report) = check_token_file(&file) {
                    tracing::warn!(why = %report.what, "credential file changed, not taken");
                    return;
                }
                tracing::info!("credential file changed, read again");
                credential.replace(Some(token));
                // A full queue means that the runner is awake anyway.
                drop(commands.try_send(Command::Credential));
            })
            .await;
        });
    }
    if let Some(file) = config.user_rules.clone() {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let known = watch::read(&file).await.ok();
            if let Some(text) = &known {
                shared.set_user_rules(text.clone());
            }
            watch::follow(file, known, move |text| {
                shared.set_user_rules(text.unwrap_or_default());
            })
            .await;
        });
    }
}

fn greet(config: &Config, mountpoint: &Path, shared: &Shared, out: &mut dyn io::Write) {
    let access = if config.read_only { "read-only" } else { "read-write" };
    let entries = shared.core().tree.len() - 1;
    let lines = format!(
        "mounted {} at {}   {access}, {entries} entries known\n  \
         next: echo hello > {2}/hello.txt · mountctl status · Ctrl-C unmounts",
        config.source.text(),
        mountpoint.display(),
        mountpoint.display(),
    );
    drop(writeln!(out, "{lines}"));
    drop(out.flush());
}

/// The signals that end a mount.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Report> {
        let catch = |kind| {
            signal(kind).map_err(|error| failure(format!("signals cannot be handled: {error}")))
        };
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: catch(interrupt)?, terminate: catch(terminate)? })
    }
}

/// Waits for a signal, `mountctl unmount`, or the kernel's end of the mount.
async fn wait_for_end(
    mut signals: Signals,
    stop: &Notify,
    runner: tokio::task::JoinHandle<()>,
) -> Result<(), Report> {
    tokio::select! {
        _ = signals.interrupt.recv() => Ok(()),
        _ = signals.terminate.recv() => Ok(()),
        () = stop.notified() => Ok(()),
        ended = runner => {
            let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            Err(failure("the engine stopped").why(why)
                .fix("start mountd again: the outbox is on disk and goes on from there"))
        }
    }
}

/// Seals, sends for at most `drain`, unmounts, and makes everything durable. Returns what is left.
async fn stop_mount(
    drain: Duration,
    shared: &Arc<Shared>,
    commands: &mpsc::Sender<Command>,
    mounted: Mounted,
) -> usize {
    seal(shared).await;
    failpoint!("stop.sealed");
    let (reply, told) = oneshot::channel();
    if !drain.is_zero() && commands.send(Command::Drain { timeout: drain, reply }).await.is_ok() {
        let again = async {
            match signal(SignalKind::interrupt()) {
                Ok(mut interrupt) => drop(interrupt.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = told => {}
            () = shared.until_hopeless() => {}
            () = again => tracing::warn!("not waiting any longer; the rest stays in the outbox"),
        }
    }
    failpoint!("stop.drained");
    let unmounted = tokio::task::spawn_blocking(move || mounted.unmount()).await;
    failpoint!("stop.unmounted");
    if let Ok(Err(error)) = unmounted {
        tracing::error!(%error, "unmount");
    }
    // What was written while it was being unmounted.
    seal(shared).await;
    let store = shared.store.clone();
    shared.contents.empty_trash();
    let closed = tokio::task::spawn_blocking(move || store.close());
    let closed = closed.await;
    failpoint!("stop.closed");
    if let Ok(Err(error)) = closed {
        tracing::error!(%error, "closing the state database");
    }
    let core = shared.core();
    core.outbox.queued()
}

async fn seal(shared: &Arc<Shared>) {
    let sealing = Arc::clone(shared);
    let sealed = tokio::task::spawn_blocking(move || sealing.seal_all()).await;
    if let Ok(Err(error)) = sealed {
        tracing::error!(%error, "open files could not be sealed");
    }
}

fn farewell(config: &Config, remaining: usize, out: &mut dyn io::Write) {
    let left = match remaining {
        0 => "everything is on the server".to_owned(),
        1 => "1 change waits in the outbox and is sent at the next start".to_owned(),
        n => format!("{n} changes wait in the outbox and are sent at the next start"),
    };
    drop(writeln!(out, "unmounted {}: {left}", config.name));
}
