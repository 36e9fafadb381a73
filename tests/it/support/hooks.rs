//! An interceptor whose rules tests make while the server runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use workspaced::{After, Before, Interceptor, RequestHead};

use super::wait_for;

/// The rules of a server, and what passed it.
#[derive(Default)]
pub struct Hooks {
    rules: Mutex<Vec<Rule>>,
    body_bytes: AtomicU64,
}

/// What happens to requests, before or after they are served.
#[derive(Clone)]
pub enum Act {
    /// Before.
    Before(Before),
    /// After.
    After(After),
}

type Concerns = Box<dyn Fn(&RequestHead) -> bool + Send>;

struct Rule {
    concerns: Concerns,
    act: Act,
    left: u64,
    hits: Hits,
}

/// How often a rule was applied.
#[derive(Clone, Default)]
pub struct Hits(Arc<AtomicU64>);

impl Hits {
    /// So often.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it was applied for the first time.
    #[track_caller]
    pub fn wait(&self) {
        wait_for("the request that a rule concerns", || (self.count() > 0).then_some(()));
    }
}

impl Hooks {
    /// Without rules.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Applies `act` to the next `times` requests that `concerns` names. Of several rules that
    /// concern a request the oldest counts.
    pub fn add(
        &self,
        times: u64,
        act: Act,
        concerns: impl Fn(&RequestHead) -> bool + Send + 'static,
    ) -> Hits {
        let hits = Hits::default();
        let rule = Rule { concerns: Box::new(concerns), act, left: times, hits: hits.clone() };
        self.rules.lock().unwrap().push(rule);
        hits
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// Bytes of request bodies so far.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::SeqCst)
    }

    fn apply<T>(&self, request: &RequestHead, pick: impl Fn(&Act) -> Option<T>) -> Option<T> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule.left > 0 && pick(&rule.act).is_some() && (rule.concerns)(request))?;
        rule.left -= 1;
        rule.hits.0.fetch_add(1, Ordering::SeqCst);
        pick(&rule.act)
    }
}

impl Interceptor for Hooks {
    fn before(&self, request: &RequestHead) -> Before {
        self.body_bytes.fetch_add(request.content_length.unwrap_or(0), Ordering::SeqCst);
        let pick = |act: &Act| match act {
            Act::Before(before) => Some(before.clone()),
            Act::After(_) => None,
        };
        self.apply(request, pick).unwrap_or(Before::Pass)
    }

    fn after(&self, request: &RequestHead, _status: u16) -> After {
        let pick = |act: &Act| match act {
            Act::After(after) => Some(*after),
            Act::Before(_) => None,
        };
        self.apply(request, pick).unwrap_or(After::Pass)
    }
}

/// Whether the request changes files.
pub fn is_write(request: &RequestHead) -> bool {
    matches!(request.method.as_str(), "POST" | "PUT" | "DELETE")
}
