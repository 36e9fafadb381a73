//! What a failed start tells the user, and what to do next.

use mountctl::api::ExitCode;

use crate::fuse::mountpoint::MountpointError;
use crate::fuse::session::SessionError;
use crate::report::Report;
use crate::store::StoreError;

pub(super) fn failure(what: impl Into<String>) -> Report {
    Report::new(ExitCode::Failure, "INTERNAL", what)
}

pub(super) fn mountpoint_report(error: MountpointError) -> Report {
    let what = error.to_string();
    let report = Report::new(ExitCode::MountFailed, "MOUNT_POINT", what);
    match error {
        MountpointError::Missing(path) => report.fix(format!("mkdir -p {}", path.display())),
        MountpointError::NotADirectory(_) => report.fix("name a folder"),
        MountpointError::NotEmpty(_) => report
            .why("what is in it would be hidden while something is mounted over it")
            .fix("choose an empty folder"),
        MountpointError::AlreadyMounted { path, .. } => report.fix(format!(
            "unmount it first (mountctl unmount -m {0}, or umount {0}), or choose another folder",
            path.display()
        )),
        MountpointError::Unusable { .. } => report.fix("choose another folder"),
    }
}

pub(super) fn session_report(error: SessionError) -> Report {
    match error {
        SessionError::Unavailable(why) => {
            Report::new(ExitCode::FuseUnavailable, "FUSE_UNAVAILABLE", "FUSE is not available")
                .fix(why)
        }
        SessionError::Refused { .. } => {
            Report::new(ExitCode::MountFailed, "MOUNT_REFUSED", error.to_string())
                .fix("run as root, or install fusermount3 (package fuse3)")
        }
    }
}

pub(super) fn store_report(error: &StoreError) -> Report {
    let report = Report::new(ExitCode::Failure, "STATE_DATABASE", error.to_string());
    match error {
        StoreError::Newer { .. } => report.fix("use the newer mountd, or another --name"),
        StoreError::Full => report.fix("free some space and start again"),
        StoreError::Damaged(_)
        | StoreError::Failed(_)
        | StoreError::Gone(_)
        | StoreError::Closed => {
            report.fix("nothing was changed; keep the state folder, it holds unsent changes")
        }
    }
}
