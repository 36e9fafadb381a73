//! Many mounts at once: running, stopped, and those that do not answer.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::daemon::{as_json, explain};
use crate::{
    api::{MountStatus, StatusReply, route},
    client::{Client, ClientError, Reply},
    discovery::Target,
    env::Env,
    failure::Failure,
    persisted::{self, Persisted},
};

/// What was found out about several mounts.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Mounts whose daemon answered, as it answered and as understood.
    pub(super) running: Vec<(Value, MountStatus)>,
    /// Mounts whose daemon should answer and did not.
    pub(super) unreachable: Vec<(String, Box<Failure>)>,
    /// Mounts without a daemon.
    pub(super) stopped: Vec<Persisted>,
}

impl Survey {
    /// Asks `targets` all at once, and looks up the state of the mounts that do not run.
    pub(super) async fn of(env: &Env, targets: Vec<Target>, within: Duration) -> Self {
        let mut calls = JoinSet::new();
        for target in targets {
            let client = Client::new(&target.socket, env.uid);
            calls.spawn(async move {
                (target.name, client.get::<StatusReply>(route::STATUS, within).await)
            });
        }
        let mut survey = Self { stopped: persisted::load_all(env), ..Self::default() };
        for (name, result) in calls.join_all().await {
            survey.add(env, &name, result);
        }
        survey.running.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        survey.unreachable.sort_by(|a, b| a.0.cmp(&b.0));
        let (running, unreachable) = (&survey.running, &survey.unreachable);
        survey.stopped.retain(|stopped| {
            running.iter().all(|(_, mount)| mount.name != stopped.name)
                && unreachable.iter().all(|(name, _)| *name != stopped.name)
        });
        survey
    }

    /// Returns the document for programs.
    pub(super) fn to_json(&self) -> Value {
        let mounts: Vec<&Value> = self.running.iter().map(|(raw, _)| raw).collect();
        let unreachable: Vec<Value> = self
            .unreachable
            .iter()
            .map(|(name, failure)| json!({"name": name, "error": as_json(&failure.to_error())}))
            .collect();
        json!({"mounts": mounts, "unreachable": unreachable, "stopped": as_json(&self.stopped)})
    }

    fn add(&mut self, env: &Env, name: &str, result: Result<Reply<StatusReply>, ClientError>) {
        match result {
            Ok(Reply { data, envelope }) => {
                let raw = envelope
                    .outcome
                    .ok()
                    .and_then(|mut data| data.get_mut("mount").map(Value::take));
                self.running.push((raw.unwrap_or_default(), data.mount));
            }
            // A socket left behind: the state, listed among the stopped, has the rest.
            Err(ClientError::NotRunning { .. }) if self.has_state(name) => {}
            Err(error) => self.unreachable.push((name.to_owned(), explain(env, name, error))),
        }
    }

    fn has_state(&self, name: &str) -> bool {
        self.stopped.iter().any(|stopped| stopped.name == name)
    }
}
