//! Whole pictures of mounts, and their health as exit codes.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::*;
use crate::{api::MountStatus, text::Style};

fn view() -> View {
    View {
        now: "2026-11-20T10:31:42Z".parse::<Timestamp>().unwrap(),
        zone: TimeZone::UTC,
        style: Style::default(),
        names_mount: false,
    }
}

fn healthy() -> Value {
    json!({
        "name": "ws_demo", "state": "syncing", "mountpoint": "/home/ana/ws",
        "server": "https://files.example.dev", "workspace": "ws_demo", "remote_path": "/",
        "mode": "fuse", "read_only": false, "pid": 8812, "started_at": "2026-11-17T06:31:11Z",
        "uploads": {"queued": 37, "queued_bytes": 1_258_291, "in_flight": 2,
            "oldest_age_ms": 1800, "files_per_min": 412, "bytes_per_s": 3_250_585,
            "last_batch": {"files": 64, "bytes": 180_224, "duration_ms": 41,
                "at": "2026-11-20T10:31:40Z"}},
        "circuit": {"state": "closed", "threshold": 10},
        "stream": {"mode": "websocket", "status": "live", "lag_ms": 400},
        "conflicts": {"open": 2, "newest_at": "2026-11-20T10:27:33Z"},
        "cache": {"bytes": 1_932_735_283, "entries": 212_408, "disk_free_bytes": 76_235_669_504_u64},
        "auth": {"expires_at": "2026-11-26T12:00:00Z", "scopes": ["fs:read"]}})
}

fn mount(changes: &Value) -> MountStatus {
    let mut value = healthy();
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn check(lines: &[String], expected: &str) {
    assert_eq!(lines.join("\n"), expected.trim_matches('\n'));
}

#[test]
fn a_healthy_mount() {
    check(
        &render::mount(&mount(&json!({})), &view()),
        "
ws_demo   /home/ana/ws  <->  files.example.dev/ws_demo   rw · fuse · pid 8812 · up 3d 4h
  state      SYNCING      circuit closed      stream live, lag 400 ms      token expires in 6d
  uploads    37 queued (1.2 MiB) · 2 in flight · oldest 1.8s · 412 files/min · 3.1 MiB/s up
             last batch 64 files, 176 KiB, 41 ms, 2s ago
  conflicts  2 open, newest 4m ago                               -> mountctl conflicts list
  attention  none
  cache      1.8 GiB · 212,408 entries · disk free 71 GiB",
    );
}

#[test]
fn a_mount_in_trouble_says_why_first() {
    let sick = mount(&json!({
        "name": "docs", "state": "backoff", "remote_path": "/team", "mode": "mirror",
        "uploads": {"queued": 1204, "queued_bytes": 92_274_688, "backoff": 1204,
            "attention": 1, "oldest_age_ms": 312_000},
        "retry": {"next_at": "2026-11-20T10:32:20Z", "reason": "502 from server",
            "consecutive_failures": 7},
        "circuit": {"state": "open", "failures": 10, "next_probe_at": "2026-11-20T10:32:20Z"},
        "stream": {"mode": "none", "status": "down"}, "conflicts": {},
        "auth": {"expires_at": "2026-11-20T10:00:00Z"}, "skipped_names": 3, "local_only": 12,
        "last_error": {"code": "502", "message": "bad\u{1b}[2J gateway",
            "at": "2026-11-20T10:31:30Z"}}));
    let view = View { names_mount: true, ..view() };
    check(
        &render::mount(&sick, &view),
        "
docs   /home/ana/ws  <->  files.example.dev/ws_demo/team   rw · mirror · pid 8812 · up 3d 4h
  state      BACKOFF      502 from server, 7 failures      next try 38s (10:32:20)
             circuit open after 10 failures, next probe in 38s      stream down      token expired 31m ago
             writes are safe in the outbox
  uploads    1,204 queued (88 MiB) · 1,204 waiting to retry · oldest 5m 12s
  conflicts  none
  attention  1 upload refused and parked                         -> mountctl outbox list -m docs
  cache      1.8 GiB · 212,408 entries · disk free 71 GiB
  left out   3 remote names that cannot exist in a folder here
  local only 12 paths kept on this machine by ignore rules
  last error 502 bad\\u{1b}[2J gateway, 12s ago",
    );
}

#[test]
fn a_paused_mount_shouts() {
    let paused = mount(&json!({"state": "paused", "uploads": {}, "conflicts": {},
        "stream": {"mode": "polling", "status": "live", "poll_interval_ms": 5000},
        "pause": {"uploads": {"reason": "release freeze", "since": "2026-11-20T10:00:00Z",
            "until": "2026-11-20T12:31:42Z"}}}));
    let lines = render::mount(&paused, &view());
    assert_eq!(lines[1], "  state      PAUSED      uploads paused until 12:31:42: release freeze");
    assert!(lines[2].contains("polling every 5s"), "{}", lines[2]);
}

#[test]
fn colour_changes_nothing_but_colour() {
    let view = View { style: Style { color: true }, ..view() };
    let colored = render::mount(&mount(&json!({})), &view).join("\n");
    let mut plain = colored.clone();
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m"] {
        plain = plain.replace(code, "");
    }
    assert_ne!(colored, plain);
    let view = View { style: Style::default(), ..view };
    assert_eq!(plain, render::mount(&mount(&json!({})), &view).join("\n"));
}

#[test]
fn a_stopped_mount_shows_what_waits() {
    let stopped = persisted::Persisted {
        name: "docs".into(),
        source: Some("files.example.dev/docs".into()),
        server: Some("https://files.example.dev".into()),
        workspace: Some("docs".into()),
        mountpoint: Some("/home/ana/my docs".into()),
        queued: 3,
        queued_bytes: 2048,
        oldest_at: "2026-11-20T10:26:30Z".parse().ok(),
        attention: 1,
        ..persisted::Persisted::default()
    };
    check(
        &render::stopped(&stopped, &view()),
        "
docs   /home/ana/my docs  <->  files.example.dev/docs
  state      NOT RUNNING      3 records (2.0 KiB) wait in the outbox, 1 parked; nothing is lost
  uploads    3 queued (2.0 KiB) · oldest 5m 12s
  attention  1 parked
  start      mountd mount files.example.dev/docs '/home/ana/my docs' --name docs",
    );
}

#[test]
fn health_has_an_exit_code() {
    let code = |changes: Value| {
        let mut base = json!({"conflicts": {}});
        base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        check::mount(&mount(&base))
    };
    assert_eq!(code(json!({})), ExitCode::Ok);
    assert_eq!(code(json!({"conflicts": {"open": 1}})), ExitCode::Attention);
    assert_eq!(code(json!({"uploads": {"attention": 1}})), ExitCode::Attention);
    assert_eq!(code(json!({"state": "degraded"})), ExitCode::Attention);
    for state in ["paused", "offline", "backoff", "half_open", "auth", "reset_suspected"] {
        assert_eq!(code(json!({"state": state})), ExitCode::NotFlowing, "{state}");
    }
    let both = json!({"state": "attention", "pause": {"uploads": {"reason": null}}});
    assert_eq!(code(both), ExitCode::NotFlowing, "not flowing comes first");
}
