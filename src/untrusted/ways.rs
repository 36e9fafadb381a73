//! The ways in by name, each with inputs that it takes: where tests and fuzzers begin.

/// One way in.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its name, which is that of its fuzz target.
    pub name: &'static str,
    /// Reads what came in.
    pub read: fn(&[u8]),
    /// Inputs that mean something.
    pub seeds: &'static [&'static [u8]],
}

macro_rules! ways {
    ($($name:ident: [$($seed:expr),* $(,)?]),* $(,)?) => {
        /// All of them.
        pub const WAYS: &[Way] = &[
            $(Way {
                name: stringify!($name),
                read: super::$name,
                seeds: &[$($seed.as_bytes()),*],
            }),*
        ];
    };
}

ways! {
    path: ["/a/b/ü", "/..", "/a//b", "name"],
    ignore_rules: ["*.o\n!keep.o\n/build/\n", "[a-", "**/x{a,b}\n\\", "#"],
    conflict_policies: ["keep\n*.md=merge\n/locks/=theirs", "/a=b/*=ours", "!x=keep", "[a=ours"],
    config: [
        "--name\nx\nhttps://host:1/ws\n/mnt",
        "file:///tmp\n/mnt",
        "--debounce\n9999999d\n/m",
        "--insecure-http\n--conflict\n*.md=keep\nhttp://host/w%20s\n/mnt",
    ],
    control_body: [
        r#"{"reason":"x","for":"5m"}"#,
        r#"{"path":"/a","timeoutSeconds":5}"#,
        "{}",
        r#"{"selection":{"ids":"1,2","all":true},"dir":"/tmp/x","dry_run":true}"#,
        r#"{"ids":["c-1"],"with":"merged","content_base64":"aGk=","force":true}"#,
    ],
    bulk_request: ["/a/b\nhello\n", "/ü \0x\n\u{1}\u{7f}", "/a\r\n\r", "/"],
    credential: ["e30.eyJleHAiOjE4MDAwMDAwMDAsInNjb3BlcyI6WyJhIl19.c2ln", "relay_pa_a.!!.c", "a\nb"],
    bulk_reply: [
        r#"{"results":[{"path":"/r/a","revision":"rev_1"}],"errors":[{"path":"/r/b","code":"conflict"}]}"#,
        r#"{"results":[{"path":"/r/a","revision":"x","contentIdentity":{"kind":"k","key":"key/a"}}]}"#,
    ],
    events: [
        r#"{"eventId":"evt_1","type":"file.updated","path":"/r/a","revision":"rev_2","timestamp":"2026-01-01T00:00:00Z"}"#,
        r#"{"events":[{"eventId":"evt_1","type":"file.deleted","path":"/r/../x","revision":"rev_2"}]}"#,
        r#"{"eventId":"evt_9","type":"file.created","path":"/r/b","content":"aGk=","encoding":"base64"}"#,
    ],
    listing: [
        r#"{"entries":[{"path":"/r/a","type":"file","revision":"rev_1","size":3},{"path":"/r/a","type":"dir"}],"nextCursor":"x"}"#,
        r#"{"entries":[{"path":"/r/a/b","type":"file"},{"path":"/r/a","type":"file","contentHash":"00"}]}"#,
    ],
    single_replies: [
        r#"{"path":"/r/a","revision":"rev_1","content":"aGk=","encoding":"base64","contentHash":"8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"}"#,
        r#"{"capabilities":["bulk-delete"],"limits":{"bodyBytes":1}}"#,
    ],
    refusal: [r#"x9{"code":"not_found","message":"file not found"}"#, "\u{1}\u{90}<html>"],
    retry_headers: ["120", "Tue, 15 Nov 1994 08:12:31 GMT\nTue, 15 Nov 1994 08:12:01 GMT", "-1\n"],
}

/// Ways whose inputs are no text, or that read and write files.
pub const SLOW_WAYS: &[Way] = &[
    Way {
        name: "merge",
        read: super::merge,
        seeds: &[
            b"1\n2\n3\n\xff1\ntwo\n3\n\xff1\n2\n3\n4\n",
            b"a\na\nb\xffa\nb\xffa\na\nb\nc",
            b"\xffx\n\xffx\n",
            b"no base",
        ],
    },
    Way {
        name: "state",
        read: super::state,
        seeds: &[
            // Nothing is damaged; bits of the database, of its log, of both; no database at all.
            b"\x00",
            b"\x00\x00\x00\x20\x40\x08\x00\x00\x00\x10\x80",
            b"\x00\x04\x00\x00\x2c\x03\xff\xff\xff\xff",
            b"\x01\x00\x00\x10\x40\x08\x02\x00\x40\x00\xff",
            b"\x02\x01\x01\x00\x40\xff\x03\x00\x60\x10\x04\x00\x01\x02\x03\x04",
            b"\x03SQLite format 3\x00\x10\x00\x02\x02\x00\x40\x20\x20",
        ],
    },
    Way {
        name: "import",
        read: super::import,
        seeds: &[
            br#"{"format":1,"origin":{"server":"https://host.invalid","workspace":"w","remote_path":"/"},"exported_at":"2026-01-01T00:00:00Z","records":[{"id":"00-1","path":"/a/b","op":"write","base":"absent","size":2,"sha256":"8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4","file":"0","base_file":"1","symlink":null,"moved_to":null,"mode":420,"mtime":null,"attempts":0,"sent":[],"recorded_at":"2026-01-01T00:00:00Z","reason":null},{"id":"00-2","path":"/a/c","op":"mkdir","base":{"revision":"rev_1"},"size":0,"sha256":null,"file":null,"base_file":null,"symlink":null,"moved_to":null,"mode":null,"mtime":null,"attempts":0,"sent":[],"recorded_at":"2026-01-01T00:00:00Z","reason":"x"}]}
====
hi
====
base"#,
            br#"{"format":1,"origin":{"server":"https://host.invalid","workspace":"w","remote_path":"/"},"exported_at":"2026-01-01T00:00:00Z","records":[{"id":"00-3","path":"/d/new","op":"write","base":"absent","size":2,"sha256":null,"file":null,"base_file":"../secret","symlink":"to","moved_to":null,"mode":null,"mtime":null,"attempts":0,"sent":[],"recorded_at":"2026-01-01T00:00:00Z","reason":null},{"id":"00-5","path":"/d/more","op":"write","base":"absent","size":2,"sha256":null,"file":null,"base_file":"link","symlink":"to","moved_to":null,"mode":null,"mtime":null,"attempts":0,"sent":[],"recorded_at":"2026-01-01T00:00:00Z","reason":null},{"id":"00-4","path":"/d/waits","op":"write","base":"follows","size":2,"sha256":null,"file":null,"base_file":null,"symlink":"elsewhere","moved_to":null,"mode":null,"mtime":null,"attempts":0,"sent":[],"recorded_at":"2026-01-01T00:00:00Z","reason":null}]}"#,
        ],
    },
];
