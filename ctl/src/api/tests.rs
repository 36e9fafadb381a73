//! What travels reads back as it was, and old readers survive new writers.

use std::time::Duration;

use serde_json::json;

use super::*;

#[test]
fn success_and_failure_round_trip() {
    let meta = Meta::new(schema::PAUSE, Duration::from_millis(3)).answered_by("r1", "0.1.0");
    let reply = PauseReply { name: "ws".into(), queued: 3, ..PauseReply::default() };
    let envelope = Envelope::success(reply, meta.clone());
    let wire = serde_json::to_value(&envelope).unwrap();
    assert_eq!(
        wire,
        json!({"ok": true,
            "data": {"name": "ws", "since": null, "until": null, "reason": null,
                "already_paused": false, "queued": 3},
            "meta": {"schema": "mountd.pause/1", "elapsed_ms": 3, "request_id": "r1",
                "daemon_version": "0.1.0"}})
    );
    assert_eq!(serde_json::from_value::<Envelope<PauseReply>>(wire).unwrap(), envelope);

    let error = ErrorBody::new(ErrorCode::NotFound, "no such route").suggest("update mountctl");
    let envelope = Envelope::<PauseReply>::failure(error, meta);
    let wire = serde_json::to_value(&envelope).unwrap();
    assert_eq!(
        wire,
        json!({"ok": false,
            "error": {"code": "NOT_FOUND", "message": "no such route",
                "suggestion": "update mountctl", "actions": [], "retryable": false,
                "details": {}},
            "meta": {"schema": "mountd.error/1", "elapsed_ms": 3, "request_id": "r1",
                "daemon_version": "0.1.0"}})
    );
    assert_eq!(serde_json::from_value::<Envelope<PauseReply>>(wire).unwrap(), envelope);
}

#[test]
fn unknown_fields_and_words_are_survived() {
    let wire = json!({"ok": true, "data": {"mount": {
        "name": "ws", "state": "teleporting", "shiny": {"new": 1},
        "stream": {"mode": "carrier_pigeon"}, "uploads": {"queued": 2}}}});
    let envelope: Envelope<StatusReply> = serde_json::from_value(wire).unwrap();
    let mount = envelope.outcome.unwrap().mount;
    assert_eq!(mount.state, MountState::Unknown);
    assert_eq!(mount.stream.mode, StreamMode::Unknown);
    assert_eq!(mount.uploads.queued, 2);
    assert_eq!(mount.conflicts, ConflictsStatus::default());

    let wire = json!({"ok": false, "error": {"code": "BRAND_NEW", "message": "m"}});
    let envelope: Envelope<StatusReply> = serde_json::from_value(wire).unwrap();
    assert_eq!(envelope.outcome.unwrap_err().code, ErrorCode::Unknown);
}

#[test]
fn an_envelope_without_its_content_is_refused() {
    for wire in [json!({"ok": true}), json!({"ok": false}), json!({"data": 1}), json!([])] {
        assert!(serde_json::from_value::<Envelope<Hello>>(wire.clone()).is_err(), "{wire}");
    }
}

#[test]
fn words_are_spelled_alike_in_json_and_in_text() {
    fn word(value: impl serde::Serialize) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
    }
    for state in [MountState::HalfOpen, MountState::ResetSuspected, MountState::Synced] {
        assert_eq!(word(state), state.as_str());
    }
    for code in [ErrorCode::DaemonUnavailable, ErrorCode::MountAmbiguous, ErrorCode::Internal] {
        assert_eq!(word(code), code.as_str());
    }
    assert_eq!(word(RecordState::Inflight), RecordState::Inflight.as_str());
    assert_eq!(word(OutboxOp::Symlink), OutboxOp::Symlink.as_str());
    assert_eq!(word(EventKind::Parked), EventKind::Parked.as_str());
}

#[test]
fn requests_leave_out_what_was_not_asked() {
    let wire = serde_json::to_value(PauseRequest::default()).unwrap();
    assert_eq!(wire, json!({}));
    let wire = serde_json::to_value(FlushRequest { path: None, timeout_ms: 5 }).unwrap();
    assert_eq!(wire, json!({"timeout_ms": 5}));
}
