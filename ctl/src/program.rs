//! The `mountd` program, for what needs the database and no daemon.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::de::DeserializeOwned;

use crate::{
    api::{Envelope, ErrorCode},
    env::Env,
    failure::{Failure, Outcome},
};

/// What `mountd` is called.
const NAME: &str = "mountd";

/// Returns the program: the one beside this one, else whatever the search path has.
fn path(env: &Env) -> PathBuf {
    let beside = env.exe.as_deref().and_then(Path::parent).map(|folder| folder.join(NAME));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(NAME))
}

/// Returns its version, or why that cannot be told.
pub(crate) fn version(env: &Env) -> Result<String, String> {
    let path = path(env);
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", path.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim().strip_prefix("mountd ").map(str::to_owned);
    version.ok_or_else(|| format!("{} does not say its version", path.display()))
}

/// Runs it, and reads the one document that it prints.
///
/// # Errors
///
/// When it cannot be run, prints no such document, or reports a failure.
pub(crate) fn ask<T: DeserializeOwned>(env: &Env, args: &[&str]) -> Outcome<Envelope<T>> {
    let path = path(env);
    let shown = format!("{} {}", path.display(), args.join(" "));
    let mut command = Command::new(&path);
    // What it finds is in the document; its log would say it again.
    command.args(["--log-level", "off"]).args(args).stdin(Stdio::null());
    let output = command.output().map_err(|error| {
        Failure::new(ErrorCode::Internal, format!("cannot run {shown}"))
            .why(error.to_string())
            .suggest("install mountd beside mountctl, of the same release")
    })?;
    let envelope: Envelope<T> = serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = if said.trim().is_empty() { error.to_string() } else { said.trim().to_owned() };
        Failure::new(ErrorCode::BadReply, format!("{shown} gave no usable answer"))
            .why(why)
            .suggest("use the mountd of the same release")
    })?;
    match envelope.outcome {
        Ok(_) => Ok(envelope),
        Err(mut error) => {
            let why = error.details.remove("why");
            let failure = Failure::from_error(error);
            Err(match why.as_ref().and_then(|why| why.as_str()) {
                Some(why) => failure.why(why),
                None => failure,
            })
        }
    }
}
