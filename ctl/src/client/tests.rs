//! The client against daemons that behave, misbehave and hang.

use std::os::unix::net::UnixListener;

use serde_json::json;

use super::*;
use crate::{
    api::{ErrorCode, Hello, route},
    paths,
    testing::{Answer, Place},
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

fn client(place: &Place) -> Client {
    Client::new(paths::socket_path(&place.env, "ws"), place.env.uid)
}

#[tokio::test]
async fn a_reply_is_understood_and_kept_whole() {
    let place = Place::new();
    let daemon = place
        .daemon("ws", |_| Answer::Data("mountd.hello/1", json!({"name": "ws", "new_field": 7})));
    let reply = client(&place).get::<Hello>(route::HELLO, LONG).await.unwrap();
    assert_eq!(reply.data.name, "ws");
    assert_eq!(reply.envelope.outcome.unwrap()["new_field"], 7);
    assert_eq!(reply.envelope.meta.daemon_version.as_deref(), Some("9.9.9"));
    let asked = daemon.asked();
    assert_eq!(asked[0].what, "GET /v1/hello");
    assert_eq!(asked[0].version.as_deref(), Some("1"));
}

#[tokio::test]
async fn an_error_keeps_its_code() {
    let place = Place::new();
    let _daemon = place.daemon("ws", |_| {
        let error = json!({"ok": false, "error": {"code": "VERSION_INCOMPATIBLE", "message": "m"}});
        Answer::Raw(426, error.to_string())
    });
    let error = client(&place).get::<Hello>(route::HELLO, LONG).await.unwrap_err();
    let ClientError::Refused(error, _) = error else { panic!("{error:?}") };
    assert_eq!(error.code, ErrorCode::VersionIncompatible);
}

#[tokio::test]
async fn what_is_not_an_envelope_is_a_bad_reply() {
    let place = Place::new();
    let _daemon = place.daemon("ws", |_| Answer::Raw(200, "<html>".into()));
    let error = client(&place).get::<Hello>(route::HELLO, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::BadReply { .. }), "{error:?}");
}

#[tokio::test]
async fn silence_ends_in_time_and_names_the_process() {
    let place = Place::new();
    let _daemon = place.daemon("ws", |_| Answer::Silence);
    let error = client(&place).get::<Hello>(route::HELLO, SHORT).await.unwrap_err();
    let ClientError::TimedOut { within_ms, pid, .. } = error else { panic!("{error:?}") };
    assert_eq!(within_ms, 200);
    assert_eq!(pid, Some(std::process::id()));
}

#[tokio::test]
async fn a_socket_nobody_accepts_on_ends_in_time() {
    let place = Place::new();
    let _listener = UnixListener::bind(paths::socket_path(&place.env, "ws")).unwrap();
    let error = client(&place).get::<Hello>(route::HELLO, SHORT).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert!(client(&place).is_listening().await);
}

#[tokio::test]
async fn no_socket_and_a_socket_left_behind_are_not_running() {
    let place = Place::new();
    let error = client(&place).get::<Hello>(route::HELLO, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { is_stale: false, .. }), "{error:?}");
    drop(UnixListener::bind(paths::socket_path(&place.env, "ws")).unwrap());
    let error = client(&place).get::<Hello>(route::HELLO, LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { is_stale: true, .. }), "{error:?}");
    assert!(!client(&place).is_listening().await);
}

#[tokio::test]
async fn events_arrive_while_the_stream_stays_open() {
    let place = Place::new();
    let daemon = place.daemon("ws", |_| {
        let events = ": hello\n\nevent: ack\ndata: {\"kind\":\"ack\",\"path\":\"/a\",\"x\":1}\n\n";
        Answer::Stream(events.into(), true)
    });
    let mut stream = client(&place).events(true, LONG).await.unwrap();
    let (raw, event) = stream.next().await.unwrap().unwrap();
    assert_eq!(event.path.as_deref(), Some("/a"));
    assert_eq!(raw["x"], 1);
    assert!(time::timeout(SHORT, stream.next()).await.is_err());
    assert_eq!(daemon.asked()[0].what, "GET /v1/events?follow=true");
}
