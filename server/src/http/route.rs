//! Which operation a method and a URL path stand for.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use crate::config::Extensions;

const WORKSPACE_BYTES_MAX: usize = 256;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Health,
    Capabilities,
    Tree,
    Query,
    Export,
    FileGet,
    FilePut,
    FileDelete,
    Bulk,
    Events,
    Socket,
    RawGet,
    RawPut,
    Op(String),
}

/// An operation and the workspace it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) operation: Operation,
    pub(crate) workspace: Option<String>,
}

impl Route {
    /// Returns `None` when there is no such route; other methods of a route are not told apart.
    pub(crate) fn find(method: &Method, path: &str, extensions: Extensions) -> Option<Self> {
        let get = method == Method::GET;
        match path {
            "/health" if get => {
                return Some(Self { operation: Operation::Health, workspace: None });
            }
            "/v1/capabilities" if get && extensions != Extensions::none() => {
                return Some(Self { operation: Operation::Capabilities, workspace: None });
            }
            _ => {}
        }
        let (workspace, rest) = path.strip_prefix("/v1/workspaces/")?.split_once('/')?;
        let workspace = percent_decode_str(workspace).decode_utf8().ok()?.into_owned();
        let sound = !workspace.is_empty()
            && workspace.len() <= WORKSPACE_BYTES_MAX
            && !workspace.contains(char::is_control);
        if !sound {
            return None;
        }
        let operation = match (rest, method.as_str()) {
            ("fs/tree", "GET") => Operation::Tree,
            ("fs/query", "GET") => Operation::Query,
            ("fs/export", "GET") => Operation::Export,
            ("fs/file", "GET") => Operation::FileGet,
            ("fs/file", "PUT") => Operation::FilePut,
            ("fs/file", "DELETE") => Operation::FileDelete,
            ("fs/bulk", "POST") => Operation::Bulk,
            ("fs/events", "GET") => Operation::Events,
            ("fs/ws", "GET") => Operation::Socket,
            ("fs/raw", "GET" | "HEAD") if extensions.raw => Operation::RawGet,
            ("fs/raw", "PUT") if extensions.raw => Operation::RawPut,
            (_, "GET") => {
                let id = rest.strip_prefix("ops/").filter(|id| !id.contains('/'))?;
                Operation::Op(id.to_owned())
            }
            _ => return None,
        };
        Some(Self { operation, workspace: Some(workspace) })
    }

    /// Returns the name of the route in the request log.
    pub(crate) fn name(&self) -> &'static str {
        match self.operation {
            Operation::Health => "/health",
            Operation::Capabilities => "/v1/capabilities",
            Operation::Tree => "/fs/tree",
            Operation::Query => "/fs/query",
            Operation::Export => "/fs/export",
            Operation::FileGet | Operation::FilePut | Operation::FileDelete => "/fs/file",
            Operation::Bulk => "/fs/bulk",
            Operation::Events => "/fs/events",
            Operation::Socket => "/fs/ws",
            Operation::RawGet | Operation::RawPut => "/fs/raw",
            Operation::Op(_) => "/ops",
        }
    }
}
