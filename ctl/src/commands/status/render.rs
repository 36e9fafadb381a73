//! The block of a mount: is it healthy, is anything stuck, what needs a person.

use crate::{
    api::{CircuitState, MountState, MountStatus, StreamHealth, StreamMode},
    commands::view::{View, remote, safe},
    persisted::Persisted,
    text::Tone,
    units,
};

/// Where hints begin, counted from the label.
const HINT_COLUMN: usize = 52;

/// Returns the block of a running mount.
pub(super) fn mount(mount: &MountStatus, view: &View) -> Vec<String> {
    let mut lines = vec![heading(mount, view)];
    let mut row = |label: &str, text: &str| lines.push(format!("  {label:<10} {text}"));
    for (index, text) in state_rows(mount, view).iter().enumerate() {
        row(if index == 0 { "state" } else { "" }, text);
    }
    for (index, text) in uploads_rows(mount, view).iter().enumerate() {
        row(if index == 0 { "uploads" } else { "" }, text);
    }
    row("conflicts", &conflicts_row(mount, view));
    row("attention", &attention_row(mount, view));
    if let Some(why) = &mount.state_folder {
        row("storage", &storage_row(why, mount, view));
    }
    if mount.damage.contents > 0 || mount.damage.set_aside > 0 {
        row("damage", &damage_row(mount, view));
    }
    if mount.approvals > 0 {
        let text = format!("{} wait for a person", units::count(mount.approvals));
        row("approvals", &with_hint(&text, "mountctl approvals", mount, view));
    }
    row("cache", &cache_row(mount));
    if mount.skipped_names > 0 {
        let names = units::counted(mount.skipped_names, "remote name");
        row("left out", &format!("{names} that cannot exist in a folder here"));
    }
    if mount.local_only > 0 {
        let paths = units::counted(mount.local_only, "path");
        row("local only", &format!("{paths} kept on this machine by ignore rules"));
    }
    if let Some(error) = &mount.last_error {
        let at = error.at.map(|at| format!(", {}", view.ago(at)));
        let text = format!("{} {}", safe(&error.code), safe(&error.message));
        row("last error", &format!("{}{}", text.trim(), at.unwrap_or_default()));
    }
    lines
}

/// Returns the block of a mount that does not run, from its state alone.
pub(super) fn stopped(stopped: &Persisted, view: &View) -> Vec<String> {
    let mut lines = vec![stopped_heading(stopped, view)];
    let mut row = |label: &str, text: &str| lines.push(format!("  {label:<10} {text}"));
    let state = view.paint(Tone::Bad, "NOT RUNNING");
    row("state", &format!("{state}      {}", safe(&stopped.summary())));
    let mut waiting = vec![format!(
        "{} queued ({})",
        units::count(stopped.queued),
        units::size(stopped.queued_bytes)
    )];
    let oldest = stopped.oldest_at.map(|at| units::between_ms(at, view.now));
    waiting.extend(oldest.map(|ms| format!("oldest {}", units::duration(ms))));
    waiting.extend(stopped.last_ack_at.map(|at| format!("last accepted {}", view.ago(at))));
    row("uploads", &waiting.join(" · "));
    if stopped.conflicts_open > 0 {
        row("conflicts", &format!("{} open", units::count(stopped.conflicts_open)));
    }
    if stopped.attention > 0 {
        row("attention", &format!("{} parked", units::count(stopped.attention)));
    }
    if let Some(pause) = &stopped.pause {
        let until = pause.until.map(|at| format!(" until {}", view.time(at)));
        let reason = pause.reason.as_deref().map(|reason| format!(": {}", safe(reason)));
        let paused = format!("uploads{}{}", until.unwrap_or_default(), reason.unwrap_or_default());
        row("paused", &paused);
    }
    if let (Some(caveat), true) = (&stopped.caveat, stopped.is_waiting()) {
        row("note", &safe(caveat));
    }
    row("start", &safe(&stopped.start_command()));
    lines
}

fn heading(mount: &MountStatus, view: &View) -> String {
    let access = if mount.read_only { "ro" } else { "rw" };
    let mut facts =
        vec![access.to_owned(), mount.mode.as_str().to_owned(), format!("pid {}", mount.pid)];
    let up = mount.started_at.map(|at| units::between_ms(at, view.now));
    facts.extend(up.map(|ms| format!("up {}", units::duration(ms / 1_000 * 1_000))));
    format!(
        "{}   {}  <->  {}   {}",
        view.paint(Tone::Strong, &safe(&mount.name)),
        safe(&mount.mountpoint),
        remote(&mount.server, &mount.workspace, &mount.remote_path),
        view.paint(Tone::Faint, &facts.join(" · "))
    )
}

fn stopped_heading(stopped: &Persisted, view: &View) -> String {
    let mut text = view.paint(Tone::Strong, &safe(&stopped.name));
    if let Some(mountpoint) = &stopped.mountpoint {
        text.extend(["   ", &safe(mountpoint)]);
    }
    if let (Some(server), Some(workspace)) = (&stopped.server, &stopped.workspace) {
        let path = stopped.remote_path.as_deref().unwrap_or("/");
        text.extend(["  <->  ", &remote(server, workspace, path)]);
    }
    text
}

/// The word, then why it is that word, then the ways in and out.
fn state_rows(mount: &MountStatus, view: &View) -> Vec<String> {
    let word = mount.state.as_str().to_uppercase();
    let mut first = vec![view.paint(tone(mount.state), &word)];
    first.extend(reason(mount, view));
    if let Some(at) = mount.retry.next_at {
        first.push(format!("next try {} ({})", view.until(at), view.time(at)));
    }
    let ways = [Some(circuit(mount, view)), Some(stream(mount)), token(mount, view)];
    let ways: Vec<String> = ways.into_iter().flatten().collect();
    if first.len() == 1 {
        first.extend(ways);
        return vec![first.join("      ")];
    }
    let mut rows = vec![first.join("      "), ways.join("      ")];
    if mount.uploads.queued > 0 {
        rows.push("writes are safe in the outbox".to_owned());
    }
    rows
}

/// Returns why the mount is not simply synced or syncing.
fn reason(mount: &MountStatus, view: &View) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(pause) = &mount.pause.uploads {
        let until = pause.until.map(|at| format!(" until {}", view.time(at)));
        let reason = pause.reason.as_deref().map(|reason| format!(": {}", safe(reason)));
        parts.push(format!(
            "uploads paused{}{}",
            until.unwrap_or_default(),
            reason.unwrap_or_default()
        ));
    }
    parts.extend(mount.retry.reason.as_deref().map(safe));
    if mount.retry.consecutive_failures > 0 {
        parts.push(units::counted(mount.retry.consecutive_failures.into(), "failure"));
    }
    match mount.state {
        MountState::OtherServer => {
            let found = mount.other_server.as_ref().and_then(|other| other.found.as_deref());
            parts.push(match found {
                Some(id) => {
                    format!("nothing is sent; mountctl resume --server {} accepts it", safe(id))
                }
                None => "nothing is sent".to_owned(),
            });
        }
        MountState::ResetSuspected => {
            parts.push("the remote looks reset or emptied; deletes are frozen".to_owned());
        }
        MountState::Auth => parts.push("waiting for a new token".to_owned()),
        MountState::Bootstrapping => parts.extend(bootstrap(mount)),
        _ => {}
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn bootstrap(mount: &MountStatus) -> Option<String> {
    let progress = mount.bootstrap.as_ref()?;
    let done = units::count(progress.done);
    Some(match progress.total {
        Some(total) => format!("{done} of {} entries", units::count(total)),
        None => format!("{done} entries"),
    })
}

fn circuit(mount: &MountStatus, view: &View) -> String {
    let circuit = &mount.circuit;
    let mut text = format!("circuit {}", circuit.state.as_words());
    if circuit.state != CircuitState::Closed {
        let failures = units::counted(circuit.failures.into(), "failure");
        text.extend([" after ", &failures]);
        if let Some(at) = circuit.next_probe_at {
            text.extend([", next probe in ", &view.until(at)]);
        }
    }
    text
}

fn stream(mount: &MountStatus) -> String {
    let stream = &mount.stream;
    let lag = stream.lag_ms.map(|ms| format!(", lag {}", units::duration(ms)));
    match (stream.status, stream.mode) {
        (StreamHealth::Live, StreamMode::Polling) => match stream.poll_interval_ms {
            Some(ms) => format!("polling every {}", units::duration(ms)),
            None => "polling".to_owned(),
        },
        (StreamHealth::Live, _) => format!("stream live{}", lag.unwrap_or_default()),
        (StreamHealth::Connecting, _) => "stream connecting".to_owned(),
        (StreamHealth::Down | StreamHealth::Unknown, _) => "stream down".to_owned(),
    }
}

fn token(mount: &MountStatus, view: &View) -> Option<String> {
    let at = mount.auth.expires_at?;
    Some(if at <= view.now {
        view.paint(Tone::Bad, &format!("token expired {}", view.ago(at)))
    } else {
        format!("token expires in {}", view.until(at))
    })
}

/// A limit that no file meets is not worth a line; bytes.
const BEYOND_FILES: u64 = 1 << 40;

fn uploads_rows(mount: &MountStatus, view: &View) -> Vec<String> {
    let uploads = &mount.uploads;
    let mut parts = vec![match uploads.queued {
        0 => "none queued".to_owned(),
        queued => {
            format!("{} queued ({})", units::count(queued), units::size(uploads.queued_bytes))
        }
    }];
    let counts = [
        (uploads.in_flight, "in flight"),
        (uploads.backoff, "waiting to retry"),
        (uploads.held_open, "held by open files"),
    ];
    for (number, words) in counts {
        if number > 0 {
            parts.push(format!("{} {words}", units::count(number)));
        }
    }
    parts.extend(uploads.oldest_age_ms.map(|ms| format!("oldest {}", units::duration(ms))));
    let rate = uploads.files_per_min.filter(|rate| *rate > 0);
    parts.extend(rate.map(|rate| format!("{} files/min", units::count(rate))));
    let rate = uploads.bytes_per_s.filter(|rate| *rate > 0);
    parts.extend(rate.map(|rate| format!("{}/s up", units::size(rate))));
    let mut rows = vec![parts.join(" · ")];
    if let Some(batch) = &uploads.last_batch {
        let mut parts = vec![
            units::counted(batch.files, "file"),
            units::size(batch.bytes),
            units::duration(batch.duration_ms),
        ];
        parts.extend(batch.at.map(|at| view.ago(at)));
        rows.push(format!("last batch {}", parts.join(", ")));
    }
    let limit = uploads.file_bytes_max.filter(|bytes| *bytes < BEYOND_FILES);
    rows.extend(limit.map(|bytes| format!("the server takes files up to {}", units::size(bytes))));
    rows
}

fn conflicts_row(mount: &MountStatus, view: &View) -> String {
    if mount.conflicts.open == 0 {
        return "none".to_owned();
    }
    let newest = mount.conflicts.newest_at.map(|at| format!(", newest {}", view.ago(at)));
    let text = format!("{} open{}", units::count(mount.conflicts.open), newest.unwrap_or_default());
    with_hint(&text, "mountctl conflicts list", mount, view)
}

fn storage_row(why: &str, mount: &MountStatus, view: &View) -> String {
    let text = format!("changes made here are not kept: {}", safe(why));
    with_hint(&text, "mountctl doctor", mount, view)
}

fn damage_row(mount: &MountStatus, view: &View) -> String {
    let mut parts = Vec::new();
    if mount.damage.contents > 0 {
        parts.push(format!("{} cannot be read", units::counted(mount.damage.contents, "file")));
    }
    if mount.damage.set_aside > 0 {
        parts.push(format!("{} set aside", units::counted(mount.damage.set_aside, "thing")));
    }
    with_hint(&parts.join(" · "), "mountctl doctor", mount, view)
}

fn attention_row(mount: &MountStatus, view: &View) -> String {
    if mount.uploads.attention == 0 {
        return "none".to_owned();
    }
    let text = format!("{} refused and parked", units::counted(mount.uploads.attention, "upload"));
    with_hint(&text, "mountctl outbox list", mount, view)
}

fn with_hint(text: &str, command: &str, mount: &MountStatus, view: &View) -> String {
    let option = if view.names_mount {
        format!(" {}", crate::commands::daemon::option_for(&mount.name))
    } else {
        String::new()
    };
    // Padded before it is painted: colour has no width.
    let padded = format!("{text:<HINT_COLUMN$}");
    format!("{}-> {command}{}", view.paint(Tone::Warn, &padded), safe(&option))
}

fn cache_row(mount: &MountStatus) -> String {
    let cache = &mount.cache;
    let mut text =
        format!("{} · {} entries", units::size(cache.bytes), units::count(cache.entries));
    if let Some(free) = cache.disk_free_bytes {
        text.extend([" · disk free ", &units::size(free)]);
    }
    text
}

fn tone(state: MountState) -> Tone {
    match state {
        MountState::Synced | MountState::Syncing => Tone::Good,
        MountState::Offline
        | MountState::Auth
        | MountState::OtherServer
        | MountState::ResetSuspected
        | MountState::Attention => Tone::Bad,
        MountState::Starting
        | MountState::Bootstrapping
        | MountState::Paused
        | MountState::Backoff
        | MountState::HalfOpen
        | MountState::Degraded
        | MountState::Draining
        | MountState::Stopping
        | MountState::Unknown => Tone::Warn,
    }
}
