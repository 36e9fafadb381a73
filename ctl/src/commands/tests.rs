//! Whole runs of `mountctl` against daemons of all kinds.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::testing::{Answer, Asked, Place};

/// A daemon whose mount is called `name` and lies in `/mnt/NAME`.
fn calm(name: &'static str) -> impl Fn(&Asked) -> Answer + Send + Sync + 'static {
    move |asked| {
        let mountpoint = format!("/mnt/{name}");
        match asked.what.as_str() {
            "GET /v1/hello" => Answer::Data(
                "mountd.hello/1",
                json!({"name": name, "mountpoint": mountpoint, "pid": 7,
                    "daemon_version": "9.9.9", "api_versions": [1]}),
            ),
            "GET /v1/status" => Answer::Data(
                "mountd.status/1",
                json!({"mount": {"name": name, "state": "synced", "mountpoint": mountpoint,
                    "server": "https://h", "workspace": name, "remote_path": "/",
                    "future": [1]}}),
            ),
            "POST /v1/pause" => Answer::Data(
                "mountd.pause/1",
                json!({"name": name, "reason": asked.body["reason"], "queued": 37}),
            ),
            "POST /v1/resume" => Answer::Data(
                "mountd.resume/1",
                json!({"name": name, "was_paused": true, "previous_reason": "freeze",
                    "flushing": 1204}),
            ),
            "POST /v1/flush" => Answer::Data(
                "mountd.flush/1",
                json!({"drained": true, "uploaded": 37, "bytes": 1_258_291, "remaining": 0,
                    "duration_ms": 803}),
            ),
            "POST /v1/unmount" => {
                Answer::Last("mountd.unmount/1", json!({"name": name, "remaining": 0}))
            }
            "GET /v1/outbox" => Answer::Data(
                "mountd.outbox/1",
                json!({"total": 3, "records": [
                    {"id": "1", "op": "write", "path": "/src/lib\u{1b}.rs", "size": 2150,
                        "state": "backoff", "age_ms": 312_000, "attempts": 7,
                        "last_error": "502"},
                    {"id": "2", "op": "rename", "path": "/b", "from": "/a", "state": "held",
                        "reason": "open", "age_ms": 2_000}]}),
            ),
            "GET /v1/conflicts" => Answer::Data(
                "mountd.conflicts/1",
                json!({"conflicts": [{"id": "c-7", "path": "/logo.png", "kind": "edit",
                    "base_revision": "rev_7", "theirs_revision": "rev_8", "ours": {"by": "me@here", "size": 10},
                    "theirs": {"size": 20}, "dir": "/s/c-7"}]}),
            ),
            "GET /v1/events" => Answer::Stream(
                "data: {\"at\":\"2026-11-20T10:31:41Z\",\"kind\":\"remote\",\
                 \"action\":\"modify\",\"path\":\"/tasks/a.json\",\"revision\":\"rev_58\"}\n\n\
                 data: {\"at\":\"2026-11-20T10:31:42Z\",\"kind\":\"link\",\"detail\":\"offline\"}\n\n"
                    .into(),
                false,
            ),
            _ => Answer::Raw(404, "{}".into()),
        }
    }
}

#[tokio::test]
async fn the_only_daemon_needs_no_name() {
    let place = Place::new();
    let _ws = place.daemon("ws", calm("ws"));
    let heard = place.run("status").await;
    assert_eq!(heard.code, ExitCode::Ok);
    assert!(heard.stdout.starts_with("ws   /mnt/ws  <->  h/ws   rw"), "{heard:?}");
    assert!(heard.stdout.contains("SYNCED"), "{heard:?}");
    assert_eq!(heard.stderr, "");

    let heard = place.run("status --json --check").await;
    assert_eq!(heard.json()["data"]["mount"]["future"], json!([1]), "unknown fields pass");
    assert_eq!(heard.json()["meta"]["schema"], "mountd.status/1");
}

#[tokio::test]
async fn several_daemons_want_a_name_a_folder_or_a_current_folder() {
    let mut place = Place::new();
    let _docs = place.daemon("docs", calm("docs"));
    let _ws = place.daemon("ws", calm("ws"));
    let heard = place.run("resume").await;
    assert_eq!(heard.code, ExitCode::Usage);
    assert_eq!(
        heard.stderr,
        "error: several mounts run; say which one [MOUNT_AMBIGUOUS, exit 2]\n  \
         why: running: docs, ws\n  \
         fix: name it with -m NAME, or run this from a folder inside the mount\n"
    );
    let resumed = "resumed ws: was PAUSED (freeze)   flushing 1,204 queued\n";
    for line in ["resume -m ws", "-m /mnt/ws resume", "resume -m /mnt/docs/../ws/deep/er"] {
        assert_eq!(place.run(line).await.stdout, resumed, "{line}");
    }
    place.env.current_dir = Some("/mnt/ws/src".into());
    assert_eq!(place.run("resume").await.stdout, resumed);
    assert_eq!(place.run("resume -m .").await.stdout, resumed);
    assert!(place.run("status").await.stdout.starts_with("ws "));
    let all = place.run("status --all --json").await.json();
    assert_eq!(all["data"]["mounts"][0]["name"], "docs");
    assert_eq!(all["data"]["mounts"][1]["future"], json!([1]));

    let heard = place.run("resume -m /mnt/other").await;
    assert_eq!(heard.code, ExitCode::NotFound);
    assert!(heard.stderr.contains("the mounts of this user: docs, ws"), "{heard:?}");
}

#[tokio::test]
async fn a_stopped_mount_exits_3_and_shows_what_waits() {
    let place = Place::new();
    drop(place.state("docs", crate::persisted::tests::STATE));
    for line in ["status", "status -m docs", "status -m /home/ana/docs"] {
        let heard = place.run(line).await;
        assert_eq!(heard.code, ExitCode::NotRunning, "{line}");
        assert!(heard.stdout.contains("NOT RUNNING      2 records (1000 B) wait"), "{heard:?}");
        assert!(heard.stderr.contains("[DAEMON_UNAVAILABLE, exit 3]"), "{heard:?}");
        assert!(heard.stderr.contains("fix: mountd mount https://files"), "{heard:?}");
    }
    let heard = place.run("flush -m docs --json").await;
    assert_eq!(heard.code, ExitCode::NotRunning);
    let error = &heard.json()["error"];
    assert_eq!(error["code"], "DAEMON_UNAVAILABLE");
    assert_eq!(error["details"]["persisted"]["queued"], 2);
    assert_eq!(error["retryable"], true);
    let heard = place.run("mounts").await;
    assert!(heard.stdout.contains("docs  stopped       2       1          2"), "{heard:?}");
}

#[tokio::test]
async fn nothing_at_all_is_said_as_such() {
    let place = Place::new();
    let heard = place.run("pause").await;
    assert_eq!(heard.code, ExitCode::NotRunning);
    assert!(heard.stderr.contains("why: this user has no mounts"), "{heard:?}");
    assert_eq!(place.run("mounts --json").await.json()["data"]["mounts"], json!([]));
    let heard = place.run("status --json --bogus").await;
    assert_eq!(heard.code, ExitCode::Usage);
    assert_eq!(heard.json()["error"]["code"], "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_hanging_daemon_is_reported_in_time() {
    let place = Place::new();
    let _ws = place.daemon("ws", |_| Answer::Silence);
    let watch = Stopwatch::start();
    let heard = place.run("status -m ws --timeout 300ms").await;
    assert_eq!(heard.code, ExitCode::TimedOut);
    assert!(heard.stderr.starts_with("error: ws did not answer within "), "{heard:?}");
    assert!(heard.stderr.contains(&format!("process {}", std::process::id())), "{heard:?}");

    let _docs = place.daemon("docs", calm("docs"));
    let heard = place.run("status --timeout 2s").await;
    assert_eq!(heard.code, ExitCode::TimedOut, "{heard:?}");
    assert!(heard.stdout.starts_with("docs "), "the others are shown: {heard:?}");
    assert!(watch.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn changes_are_sent_and_reported() {
    let place = Place::new();
    let ws = place.daemon("ws", calm("ws"));
    let heard = place.run("pause --for 2h --reason freeze").await;
    assert_eq!(
        heard.stdout,
        "paused: uploads of ws until resumed: freeze        37 queued stay in the outbox\n  \
         resume early: mountctl resume -m ws\n"
    );
    assert_eq!(ws.asked()[0].body, json!({"for_ms": 7_200_000, "reason": "freeze"}));

    let heard = place.run("flush /mnt/ws/a/../b --timeout 3s").await;
    assert_eq!(heard.code, ExitCode::Ok);
    assert_eq!(heard.stdout, "ws /b  draining 37 -> 0   1.2 MiB in 803 ms   done\n");
    let asked = ws.asked();
    assert_eq!(asked.last().unwrap().body, json!({"path": "/b", "timeout_ms": 3000}));

    let heard = place.run("unmount --drain 2s").await;
    assert_eq!(
        (heard.code, heard.stdout.as_str()),
        (ExitCode::Ok, "unmounted ws   outbox empty\n")
    );
    let asked = ws.asked();
    assert_eq!(asked.last().unwrap().body, json!({"drain_ms": 2000, "no_wait": false}));
}

#[tokio::test]
async fn lists_and_events_are_shown() {
    let place = Place::new();
    let _ws = place.daemon("ws", calm("ws"));
    let heard = place.run("outbox list").await;
    assert_eq!(
        heard.stdout,
        "ID  STATE    AGE  TRY  NEXT     SIZE  OP      PATH               REASON\n\
         1   backoff   5m    7     -  2.1 KiB  write   /src/lib\\u{1b}.rs  502\n\
         2   held      2s    0     -        -  rename  /a -> /b           open\n\
         1 more not shown\n"
    );
    let heard = place.run("conflicts").await;
    assert_eq!(
        heard.stdout,
        "ID   AGE  STATE  PATH       OURS                       THEIRS       COPY OF OURS\n\
         c-7    -  open   /logo.png  me@here, 10 B, from rev_7  20 B, rev_8  /s/c-7\n"
    );
    let heard = place.run("events").await;
    assert_eq!(
        heard.stdout,
        "2026-11-20T10:31:41.000Z  remote   modify  /tasks/a.json  rev_58\n\
         2026-11-20T10:31:42.000Z  link      offline\n"
    );
    let heard = place.run("events --json --path /tasks/**").await;
    assert_eq!(heard.json()["revision"], "rev_58");
    let heard = place.run("version").await;
    assert!(heard.stdout.ends_with("mountd 9.9.9   ws\n"), "{heard:?}");
}

#[tokio::test]
async fn a_flush_that_leaves_something_says_what() {
    let place = Place::new();
    let _ws = place.daemon("ws", |asked| match asked.what.as_str() {
        "POST /v1/flush" => Answer::Data(
            "mountd.flush/1",
            json!({"drained": false, "uploaded": 1, "bytes": 5, "remaining": 2,
                "duration_ms": 1000}),
        ),
        "GET /v1/status" => Answer::Data(
            "mountd.status/1",
            json!({"mount": {"state": "paused", "pause": {"uploads": {"reason": "x"}}}}),
        ),
        _ => Answer::Silence,
    });
    let heard = place.run("flush").await;
    assert_eq!(heard.code, ExitCode::TimedOut);
    assert_eq!(heard.stdout, "ws  draining 3 -> 2   5 B in 1s   time ran out\n");
    assert_eq!(
        heard.stderr,
        "  2 records left, state paused; they stay in the outbox -> mountctl status -m ws\n  \
         uploads are paused -> mountctl resume -m ws\n"
    );
    let heard = place.run("flush --json").await;
    assert_eq!((heard.code, &heard.json()["ok"]), (ExitCode::TimedOut, &json!(true)));
}

#[test]
fn flush_is_done_only_when_everything_was_accepted() {
    let code = |reply: serde_json::Value| {
        flush::exit_code(&serde_json::from_value(reply).unwrap()).number()
    };
    assert_eq!(code(json!({"drained": true})), 0);
    assert_eq!(code(json!({"drained": false, "remaining": 1})), 6);
    assert_eq!(code(json!({"drained": false})), 6);
    assert_eq!(code(json!({"drained": true, "attention": 1})), 7);
    assert_eq!(code(json!({"drained": true, "conflicts": 1})), 7);
}

#[test]
fn flush_paths_are_resolved_by_their_spelling() {
    let path = |path: &str, current: &str| {
        flush::mount_path(Path::new(path), "/mnt/ws", Some(Path::new(current)))
            .map_err(|failure| failure.error.code)
    };
    assert_eq!(path("/mnt/ws/a/b", "/").as_deref(), Ok("/a/b"));
    assert_eq!(path("/mnt/ws", "/").as_deref(), Ok("/"));
    assert_eq!(path("/a/b", "/").as_deref(), Ok("/a/b"));
    assert_eq!(path("a/b", "/home").as_deref(), Ok("/a/b"));
    assert_eq!(path("b", "/mnt/ws/a").as_deref(), Ok("/a/b"));
    assert_eq!(path(".", "/mnt/ws/a").as_deref(), Ok("/a"));
    assert_eq!(path("../b", "/mnt/ws/a").as_deref(), Ok("/b"));
    assert_eq!(path("../../b", "/mnt/ws/a"), Err(ErrorCode::InvalidArgument));
    assert_eq!(path("/mnt/wsx", "/").as_deref(), Ok("/mnt/wsx"));
}
