//! Made-up bytes, and valid ones that were damaged, at every way in.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::Row;

/// One way in, and inputs that it takes.
type Way = (fn(&[u8]), &'static [&'static str]);

const WAYS: [Way; 10] = [
    (path, &["/a/b/ü", "/..", "/a//b", "name"]),
    (ignore_rules, &["*.o\n!keep.o\n/build/\n", "[a-", "**/x{a,b}\n\\", "#"]),
    (
        config,
        &["--name\nx\nhttps://host:1/ws\n/mnt", "file:///tmp\n/mnt", "--debounce\n9999999d\n/m"],
    ),
    (control_body, &[r#"{"reason":"x","for":"5m"}"#, r#"{"path":"/a","timeoutSeconds":5}"#, "{}"]),
    (
        bulk_reply,
        &[
            r#"{"results":[{"path":"/r/a","revision":"rev_1"}],"errors":[{"path":"/r/b","code":"conflict"}]}"#,
            r#"{"results":[{"path":"/r/a","revision":"x","contentIdentity":{"kind":"k","key":"key/a"}}]}"#,
        ],
    ),
    (
        events,
        &[
            r#"{"eventId":"evt_1","type":"file.updated","path":"/r/a","revision":"rev_2","timestamp":"2026-01-01T00:00:00Z"}"#,
            r#"{"events":[{"eventId":"evt_1","type":"file.deleted","path":"/r/../x","revision":"rev_2"}]}"#,
            r#"{"eventId":"evt_9","type":"file.created","path":"/r/b","content":"aGk=","encoding":"base64"}"#,
        ],
    ),
    (
        listing,
        &[
            r#"{"entries":[{"path":"/r/a","type":"file","revision":"rev_1","size":3},{"path":"/r/a","type":"dir"}],"nextCursor":"x"}"#,
            r#"{"entries":[{"path":"/r/a/b","type":"file"},{"path":"/r/a","type":"file","contentHash":"00"}]}"#,
        ],
    ),
    (
        single_replies,
        &[
            r#"{"path":"/r/a","revision":"rev_1","content":"aGk=","encoding":"base64","contentHash":"8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"}"#,
            r#"{"capabilities":["bulk-delete"],"limits":{"bodyBytes":1}}"#,
        ],
    ),
    (refusal, &[r#"x9{"code":"not_found","message":"file not found"}"#, "\u{1}\u{90}<html>"]),
    (
        retry_headers,
        &["120", "Tue, 15 Nov 1994 08:12:31 GMT\nTue, 15 Nov 1994 08:12:01 GMT", "-1\n"],
    ),
];

/// One way to damage bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Cut(usize, usize),
    Put(usize, Vec<u8>),
    Twice(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<usize>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (place(), 0..40_usize).prop_map(|(at, len)| Damage::Cut(at, len)),
        (place(), vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Damage::Put(at, bytes)),
        (place(), 0..40_usize).prop_map(|(at, len)| Damage::Twice(at, len)),
    ]
}

fn damaged(mut bytes: Vec<u8>, all: &[Damage]) -> Vec<u8> {
    for damage in all {
        let within = |at: usize| at % (bytes.len() + 1);
        let range = |at: usize, len: usize| within(at)..(within(at) + len).min(bytes.len());
        match damage {
            Damage::Flip(at, bits) => {
                let at = within(*at);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            Damage::Cut(at, len) => drop(bytes.drain(range(*at, *len))),
            Damage::Put(at, more) => {
                let at = within(*at);
                drop(bytes.splice(at..at, more.iter().copied()));
            }
            Damage::Twice(at, len) => {
                let range = range(*at, *len);
                let (at, piece) = (range.end, bytes[range].to_vec());
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

fn config_of(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A database with a row of each kind that the engine reads.
fn valid_database(folder: &Path) -> Vec<u8> {
    let path = folder.join("valid.db");
    let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let loaded = crate::store::Loaded::default();
    let (mut core, mut changes) = Core::new(loaded, Settings::default(), now, 1);
    let creator = crate::engine::local::Creator { uid: 0, gid: 0, mode: 0o755 };
    let dir = crate::node::Kind::Dir { explicit: true };
    let root = crate::node::ROOT;
    let folder_ino = core.create(root, "d", dir, creator, now, &mut changes).unwrap();
    let link = crate::node::Kind::Symlink { target: "t".into() };
    core.create(folder_ino, "l", link, creator, now, &mut changes).unwrap();
    let mut rows = changes.rows;
    rows.push(Row::PutRecheck(WsPath::parse("/r").unwrap()));
    rows.push(Row::SetMeta("cursor", Some(r#"{"id":"evt_1","fingerprint":null}"#.into())));
    let store = Store::open(&path).unwrap();
    store.commit_and_wait(rows, true).unwrap();
    store.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 4096, "the log is in the file");
    bytes
}

proptest! {
    #![proptest_config(config_of(2000))]

    /// Bytes that mean nothing change nothing and stop nothing.
    #[test]
    fn made_up_bytes_are_refused(way in 0..WAYS.len(), bytes in vec(any::<u8>(), 0..200)) {
        (WAYS[way].0)(&bytes);
    }

    /// So do bytes that nearly mean something.
    #[test]
    fn damaged_bytes_are_refused_or_read_safely(
        way in 0..WAYS.len(),
        which in any::<usize>(),
        all in vec(damage(), 0..8),
    ) {
        let (read, seeds) = WAYS[way];
        read(&damaged(seeds[which % seeds.len()].as_bytes().to_vec(), &all));
    }
}

proptest! {
    #![proptest_config(config_of(96))]

    /// A state database that is none, or is damaged anywhere, is refused or read; the start neither
    /// panics nor hangs.
    #[test]
    fn a_damaged_state_is_refused_or_read(
        is_made_up in prop::bool::weighted(0.1),
        bytes in vec(any::<u8>(), 0..300),
        all in vec(damage(), 0..12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let database = if is_made_up { bytes } else { valid_database(folder.path()) };
        state(folder.path(), &damaged(database, &all));
    }
}
