//! The one thread that writes: it takes every request that waits into one transaction.
//!
//! Many small requests share one fsync this way, and a request is answered only after the commit
//! that holds it is on disk. A transaction that fails answers all of its requests with an error.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::apply::Applier;
use super::bodies::Bodies;
use super::feed::Hub;
use super::model::{Change, NewBody, Outcome};
use crate::clock::Clock;
use crate::config::INLINE_BYTES_MAX;

/// Requests that may wait for the writer; more wait in their own tasks.
pub(super) const QUEUE_MAX: usize = 256;
/// Content taken into one transaction.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// What the writer is asked to do.
pub(super) enum Message {
    Write(Request),
    Stop,
}

pub(super) struct Request {
    pub(super) workspace: String,
    pub(super) changes: Vec<Change>,
    pub(super) correlation: String,
    pub(super) reply: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
}

/// What the writer owns.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) bodies: Bodies,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Clock,
    pub(super) events_max: i64,
    /// Held as long as the writer runs: the storage is locked until the last write is done.
    pub(super) lock: nix::fcntl::Flock<std::fs::File>,
}

impl Writer {
    pub(super) fn spawn(
        self,
        receiver: mpsc::Receiver<Message>,
    ) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name("workspace-writer".to_owned()).spawn(move || self.run(receiver))
    }

    fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(Message::Write(first)) = receiver.blocking_recv() {
            let mut weight = first.weight();
            let mut batch = vec![first];
            let mut stop = false;
            while batch.len() < QUEUE_MAX && weight < BATCH_BYTES_MAX {
                match receiver.try_recv() {
                    Ok(Message::Write(request)) => {
                        weight += request.weight();
                        batch.push(request);
                    }
                    Ok(Message::Stop) => {
                        stop = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.write(batch);
            if stop {
                break;
            }
        }
        let Self { connection, lock, .. } = self;
        // Closing the last connection folds the log into the database; only then may another
        // server have the storage.
        drop(connection);
        drop(lock);
    }

    fn write(&mut self, batch: Vec<Request>) {
        let mut replies = Vec::with_capacity(batch.len());
        let mut work = Vec::with_capacity(batch.len());
        for Request { workspace, changes, correlation, reply } in batch {
            replies.push(reply);
            work.push((workspace, changes, correlation));
        }
        match self.transact(work) {
            Ok(outcomes) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // A client that went away does not undo its write.
                    reply.send(Ok(outcome)).ok();
                }
            }
            Err(error) => {
                tracing::error!(%error, requests = replies.len(), "commit failed");
                let error = Arc::new(error);
                for reply in replies {
                    reply.send(Err(StoreError::Commit(Arc::clone(&error)))).ok();
                }
            }
        }
    }

    fn transact(
        &mut self,
        work: Vec<(String, Vec<Change>, String)>,
    ) -> rusqlite::Result<Vec<Vec<Outcome>>> {
        failpoint!("server.commit.begin");
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut applier = Applier::new(&transaction, self.clock.now_ns())?;
        let mut outcomes = Vec::with_capacity(work.len());
        for (workspace, changes, correlation) in work {
            let now = self.clock.now_ns();
            outcomes.push(applier.request(&workspace, changes, &correlation, now)?);
        }
        let events = applier.finish(self.events_max)?;
        let replaced = std::mem::take(&mut applier.replaced);
        failpoint!("server.commit.applied");
        transaction.commit()?;
        failpoint!("server.commit.after");
        // In this order: nobody hears of a change that is not on disk, and no body goes away
        // before the row that replaces it is.
        for (workspace, events) in events {
            self.hub.publish(&workspace, events);
        }
        failpoint!("server.published");
        if !replaced.is_empty() {
            failpoint!("server.body.remove");
            self.bodies.remove(replaced);
        }
        Ok(outcomes)
    }
}

impl Request {
    fn weight(&self) -> usize {
        let content = |change: &Change| match &change.action {
            super::model::Action::Put(put) => match &put.content.body {
                NewBody::Inline(data) => data.len().min(INLINE_BYTES_MAX),
                NewBody::File(_) => 0,
            },
            _ => 0,
        };
        self.changes.iter().map(content).sum()
    }
}
