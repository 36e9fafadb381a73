//! A folder that somebody says was exported: what is taken up is as its manifest says, lies in the
//! mount, replaces nothing that waits, and nothing beside the folder is read.

#![allow(clippy::unwrap_used, reason = "what is made up here cannot fail but by the machine")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use url::Url;

use crate::clock::SystemClock;
use crate::content::Contents;
use crate::engine::carry::{MANIFEST, Origin};
use crate::engine::local::Creator;
use crate::engine::{Core, Now, Settings, Shared};
use crate::node::{Kind, ROOT};
use crate::path::{WsPath, check_name};
use crate::record::Record;
use crate::remote::credential::Credential;
use crate::remote::http::{HttpConfig, HttpRemote};
use crate::store::{Loaded, Store};

/// Stands beside the folder and in no content.
const SECRET: &[u8] = b"not in the folder";

/// The manifest, and after each line of `====` a file: they are named `0`, `1` and so on.
pub fn import(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split("\n====\n");
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("exported");
    fs::create_dir(&folder).unwrap();
    fs::write(parent.path().join("secret"), SECRET).unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
    fs::write(folder.join(MANIFEST), parts.next().unwrap_or_default()).unwrap();
    for (number, content) in parts.take(8).enumerate() {
        fs::write(folder.join(number.to_string()), content).unwrap();
    }
    let shared = mount(&parent.path().join("state"));
    let before = waiting(&shared);
    let imported = shared.import(&folder, &origin());
    let after = waiting(&shared);
    assert_eq!(after.get(..before.len()), Some(&*before), "what waited was changed");
    check(&shared, &after[before.len()..]);
    let again = shared.import(&folder, &origin());
    if let Ok(carried) = imported {
        let again = again.unwrap();
        assert!(again.done.len() >= carried.done.len(), "{carried:?}, then {again:?}");
        // What was done is known, and done once.
        let known = after.len();
        let retried = waiting(&shared).len().saturating_sub(known);
        assert!(retried <= carried.refused.len(), "{retried} records anew");
    }
    shared.store.close().unwrap();
}

fn check(shared: &Shared, new: &[(Record, Option<Kind>)]) {
    let core = shared.core();
    for (record, _) in new {
        assert!(record.path.names().all(|name| check_name(name).is_ok()), "{record:?}");
        for blob in record.blobs() {
            let content = shared.store.blob(blob).unwrap();
            let is_secret = content.as_ref().is_some_and(|content: &Bytes| content == SECRET);
            assert!(content.is_some(), "{record:?} has no content");
            assert!(!is_secret, "{record:?} was read from elsewhere");
        }
    }
    let mut paths: HashMap<WsPath, u64> = HashMap::new();
    for node in core.tree.nodes() {
        let path = core.tree.path_of(node.ino).unwrap();
        let earlier = paths.insert(path, node.ino.0);
        assert_eq!(earlier, None, "two of one name");
    }
}

/// All records, the oldest first, with what each would send.
fn waiting(shared: &Shared) -> Vec<(Record, Option<Kind>)> {
    let core = shared.core();
    let records = core.outbox.lanes().flat_map(|(_, lane)| lane.records());
    let sent = |record: &Record| core.tree.get(record.ino?).map(|node| node.kind.clone());
    let mut all: Vec<_> = records.map(|record| (record.clone(), sent(record))).collect();
    all.sort_by_key(|(record, _)| record.seq);
    all
}

/// The origin of what is taken.
fn origin() -> Origin {
    Origin {
        server: "https://host.invalid".to_owned(),
        workspace: "w".to_owned(),
        remote_path: "/".to_owned(),
    }
}

/// The inside of a mount in which a folder and a symbolic link wait to be sent.
fn mount(state: &Path) -> Arc<Shared> {
    static REMOTE: OnceLock<Arc<HttpRemote>> = OnceLock::new();
    let remote = REMOTE.get_or_init(|| {
        let base = Url::parse("https://host.invalid/").unwrap();
        let config = HttpConfig::new(base, "w".to_owned(), Credential::default());
        Arc::new(HttpRemote::new(config).unwrap())
    });
    fs::create_dir(state).unwrap();
    let store = Store::open(&state.join("state.db")).unwrap();
    let contents = Contents::open(&state.join("files"), store.clone(), &HashMap::new()).unwrap();
    let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let (mut core, mut changes) = Core::new(Loaded::default(), Settings::default(), now, 1);
    let creator = Creator { uid: 0, gid: 0, mode: 0o755 };
    let dir = Kind::Dir { explicit: true };
    let folder = core.create(ROOT, "d", dir, creator, now, &mut changes).unwrap();
    let link = Kind::Symlink { target: "t".into() };
    core.create(folder, "waits", link, creator, now, &mut changes).unwrap();
    store.put(changes.rows);
    let remote = Arc::clone(remote);
    Arc::new(Shared::new(core, store, contents, remote, SystemClock::start(), state.join("c")))
}
