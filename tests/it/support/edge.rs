//! The edge of a server under a test's control: what it refuses, delays and cuts can change while
//! it runs.

use std::sync::{Arc, Mutex};

use workspaced::{After, Before, Interceptor, RequestHead};

type BeforeHook = Box<dyn FnMut(&RequestHead) -> Before + Send>;
type AfterHook = Box<dyn FnMut(&RequestHead, u16) -> After + Send>;

/// Lets everything pass until told otherwise.
#[derive(Default)]
pub struct Edge {
    before: Mutex<Option<BeforeHook>>,
    after: Mutex<Option<AfterHook>>,
}

impl Edge {
    /// One to be given to a server and kept.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Decides over requests from now on.
    pub fn before(&self, hook: impl FnMut(&RequestHead) -> Before + Send + 'static) {
        *self.before.lock().unwrap() = Some(Box::new(hook));
    }

    /// Decides over replies from now on.
    pub fn after(&self, hook: impl FnMut(&RequestHead, u16) -> After + Send + 'static) {
        *self.after.lock().unwrap() = Some(Box::new(hook));
    }

    /// Lets everything pass again.
    pub fn clear(&self) {
        *self.before.lock().unwrap() = None;
        *self.after.lock().unwrap() = None;
    }
}

impl Interceptor for Edge {
    fn before(&self, request: &RequestHead) -> Before {
        self.before.lock().unwrap().as_mut().map_or(Before::Pass, |hook| hook(request))
    }

    fn after(&self, request: &RequestHead, status: u16) -> After {
        self.after.lock().unwrap().as_mut().map_or(After::Pass, |hook| hook(request, status))
    }
}

/// A reply of the edge itself.
pub fn reply(status: u16, headers: &[(&str, &str)]) -> Before {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Before::Reply { status, headers, body: String::new() }
}
