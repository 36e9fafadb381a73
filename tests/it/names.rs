//! Names and contents: what the mount takes travels byte for byte, what cannot travel is refused,
//! and what the server has but no folder can hold is left out and counted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use serde_json::{Value, json};
use workspaced::{Before, Interceptor, RequestHead};

use crate::fuse_or_skip;
use crate::support::tree::{Entry, agree, shows};
use crate::support::{Mount, TestServer, bytes, shell};

/// Names that a careless client, encoder or server would change.
fn awkward_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "a name with spaces",
        "(parentheses) [brackets] {braces}",
        "%41",
        "100%",
        "a%2Fb",
        "a+b",
        "#hash",
        "what?",
        "a&b=c;d",
        "'single'",
        "\"double\"",
        "back\\slash",
        "back\\",
        "\u{1f980} crab",
        "nfc-\u{e9}",
        "nfd-e\u{301}",
        "\u{e9}",
        "e\u{301}",
        "Case",
        "case",
        ".hidden",
        "..two dots",
        "...",
        "trailing space ",
        " leading space",
        " ",
        "new\nline",
        "\n",
        "tab\there",
        "\u{1}\u{1b}[31m",
        "\u{7f}",
        "\u{feff}mark",
        "right\u{202e}to left",
        "*",
        "**",
        "a:b",
        "C:",
        "~",
        "-rf",
        "$HOME `id` $(id)",
        "<a|b>",
        "rev_1",
        "null",
        "x.conflict",
    ]
    .map(str::to_owned)
    .into();
    names.push("l".repeat(255));
    // 255 bytes, but fewer characters.
    names.push("\u{20ac}".repeat(85));
    names
}

/// Contents at the borders of encodings and of how they are kept.
fn awkward_contents() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("nul", b"\0".to_vec()),
        ("binary", [b"GIF89a\0\0\xff\xfe\0".as_slice(), &bytes(1, 500)].concat()),
        ("all bytes", (0..=255).collect()),
        ("invalid utf-8", b"caf\xe9 \xc3\x28 \xed\xa0\x80".to_vec()),
        ("crlf", b"one\r\ntwo\r\n\rthree\n\r".to_vec()),
        ("no newline at the end", b"x".to_vec()),
        ("byte order mark", b"\xef\xbb\xbftext".to_vec()),
        ("json escapes", b"\"\\/\x08\x0c\n\r\t\x01\x1f\x7f\xe2\x80\xa8".to_vec()),
        ("looks like base64", b"AAEC/w==".to_vec()),
        ("65535 bytes", bytes(2, 65535)),
        ("65536 bytes", bytes(3, 65536)),
        ("65537 bytes", bytes(4, 65537)),
        ("65537 zeros", vec![0; 65537]),
        ("text of 65536 bytes", b"0123456789abcdef".repeat(4096)),
        ("1 MiB", bytes(5, 1 << 20)),
        ("20 MiB", bytes(6, 20 << 20)),
    ]
}

/// Writes everything through one mount; the server, a mount that was there and a mount that comes
/// later have the same.
fn everything_travels(server: &TestServer) {
    let a = Mount::of(server);
    let b = Mount::of(server);
    a.wait_synced();
    b.wait_synced();
    let mut written: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut write = |path: String, content: Vec<u8>| {
        std::fs::write(a.at(&path), &content).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert!(written.insert(format!("/{path}"), content).is_none());
    };
    for folder in ["names", "folders", "contents"] {
        std::fs::create_dir(a.at(folder)).unwrap();
    }
    for name in awkward_names() {
        write(format!("names/{name}"), format!("content of {name}").into_bytes());
        std::fs::create_dir(a.at(&format!("folders/{name}"))).unwrap();
        write(format!("folders/{name}/{name}"), name.into_bytes());
    }
    for (name, content) in awkward_contents() {
        write(format!("contents/{name}"), content);
    }
    let ours = agree(server, &a, &b);
    let files = server.files();
    let names: Vec<&String> = files.keys().collect();
    let expected: Vec<&String> = written.keys().collect();
    assert_eq!(names, expected);
    for (path, content) in &written {
        assert!(files[path] == *content, "the server has other bytes under {path:?}");
    }
    let late = Mount::of(server);
    shows(&late, &ours);
    for mount in [&a, &b, &late] {
        assert_eq!(mount.status()["skipped_names"], 0);
        assert_eq!(mount.status()["uploads"]["attention"], 0);
    }
}

/// Every name of up to 255 bytes of UTF-8, and every content, arrives byte for byte at the server
/// and in every other mount.
#[test]
fn names_and_contents_travel_byte_for_byte() {
    fuse_or_skip!();
    everything_travels(&TestServer::new());
}

/// The same holds for a server that has none of the extensions.
#[test]
fn names_and_contents_travel_byte_for_byte_over_the_original_protocol() {
    fuse_or_skip!();
    everything_travels(&TestServer::builder().original().max_body_bytes(64 << 20).start());
}

/// Each of these names is gone, moved or replaced at the server exactly, never a neighbour of it.
fn every_name_can_be_moved_and_removed(server: &TestServer) {
    let a = Mount::of(server);
    let b = Mount::of(server);
    a.wait_synced();
    b.wait_synced();
    for name in awkward_names() {
        std::fs::write(a.at(&name), &name).unwrap();
    }
    agree(server, &a, &b);
    std::fs::create_dir(a.at("moved")).unwrap();
    for (at, name) in awkward_names().into_iter().enumerate() {
        match at % 3 {
            0 => std::fs::remove_file(a.at(&name)).unwrap(),
            1 => std::fs::rename(a.at(&name), a.at("moved").join(&name)).unwrap(),
            _ => std::fs::write(a.at(&name), format!("second of {name}")).unwrap(),
        }
    }
    let ours = agree(server, &a, &b);
    for (at, name) in awkward_names().into_iter().enumerate() {
        let content = |path: &str| match ours.get(path) {
            Some(Entry::File(_, bytes)) => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        };
        let (here, moved) = (content(&format!("/{name}")), content(&format!("/moved/{name}")));
        let expected = match at % 3 {
            0 => (None, None),
            1 => (None, Some(name.clone())),
            _ => (Some(format!("second of {name}")), None),
        };
        assert_eq!((here, moved), expected, "{name:?}");
    }
}

/// Removing, moving and rewriting reach the very name that was meant.
#[test]
fn every_name_can_be_moved_rewritten_and_removed() {
    fuse_or_skip!();
    every_name_can_be_moved_and_removed(&TestServer::new());
}

/// The same with a server that has none of the extensions.
#[test]
fn every_name_can_be_moved_rewritten_and_removed_over_the_original_protocol() {
    fuse_or_skip!();
    every_name_can_be_moved_and_removed(&TestServer::builder().original().start());
}

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: i32, what: &str) {
    match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{what}: {error}"),
    }
}

/// Whatever would give an entry this name is refused with `errno`.
#[track_caller]
fn nothing_can_be_named(folder: &Path, name: &OsStr, errno: i32) {
    let bad = folder.join(name);
    refused(std::fs::write(&bad, "x"), errno, "create");
    refused(std::fs::create_dir(&bad), errno, "mkdir");
    refused(std::os::unix::fs::symlink("target", &bad), errno, "symlink");
    refused(std::fs::rename(folder.join("file"), &bad), errno, "rename");
    refused(std::fs::rename(folder.join("folder"), &bad), errno, "rename of a folder");
}

/// A name over 255 bytes is refused with `ENAMETOOLONG`, counted in bytes, and nothing changes.
#[test]
fn a_name_over_255_bytes_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    shell(&mount.path(), "echo kept > file; mkdir folder");
    for name in ["n".repeat(256), "\u{20ac}".repeat(86), "n".repeat(1000), "n".repeat(1025)] {
        nothing_can_be_named(&mount.path(), OsStr::new(&name), libc::ENAMETOOLONG);
        refused(std::fs::metadata(mount.at(&name)), libc::ENAMETOOLONG, "stat");
    }
    assert_eq!(shell(&mount.path(), "ls; cat file"), "file\nfolder\nkept\n");
    mount.flush();
    assert_eq!(server.files().keys().collect::<Vec<_>>(), ["/file"]);
}

/// A name that is not UTF-8 cannot travel in JSON: it is refused with `EILSEQ` when it would be
/// made, and nothing changes.
#[test]
fn a_name_that_is_not_utf8_is_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    shell(&mount.path(), "echo kept > file; mkdir folder");
    for name in [b"latin1-\xe9".as_slice(), b"\xff", b"cut-\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf"]
    {
        nothing_can_be_named(&mount.path(), OsStr::from_bytes(name), libc::EILSEQ);
    }
    assert_eq!(shell(&mount.path(), "ls; cat file"), "file\nfolder\nkept\n");
    mount.flush();
    assert_eq!(server.files().keys().collect::<Vec<_>>(), ["/file"]);
}

/// Answers the listings by hand, as a server would that takes any text for a path.
struct StrangeListing {
    extra: Vec<Value>,
}

impl Interceptor for StrangeListing {
    fn before(&self, request: &RequestHead) -> Before {
        let body = match request.route {
            "/fs/tree" => json!({
                "path": request.path,
                "entries": self.extra,
                "nextCursor": null,
                "totalFiles": self.extra.iter().filter(|entry| entry["type"] == "file").count(),
            }),
            "/fs/export" => {
                let files = self.extra.iter().filter(|entry| entry["type"] == "file");
                json!(files.collect::<Vec<_>>())
            }
            _ => return Before::Pass,
        };
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Before::Reply { status: 200, headers, body: body.to_string() }
    }
}

fn listed_file(path: &str, content: &str) -> Value {
    json!({
        "path": path,
        "type": "file",
        "revision": "rev_1",
        "contentHash": mountd::digest::Digest::of(content.as_bytes()).to_string(),
        "contentType": "text/plain",
        "content": content,
        "provider": "",
        "size": content.len(),
        "updatedAt": "2026-01-01T00:00:00Z",
        "lastEditedAt": "2026-01-01T00:00:00Z",
    })
}

/// Remote names that no folder can hold are left out, named and counted; the rest of the listing
/// is served, and nothing reaches outside of the mount.
#[test]
fn remote_names_that_cannot_be_mounted_are_left_out_and_counted() {
    fuse_or_skip!();
    let long = format!("/long/{}", "n".repeat(256));
    let bad =
        ["/a/../b", "/../../escaped", "/x//y", "/./dot", "/..", "", "no-slash/..", "/nul\0", &long];
    let mut listing: Vec<Value> = bad.iter().map(|path| listed_file(path, "bad")).collect();
    listing.push(listed_file("/ok", "fine\n"));
    listing.push(listed_file("/dir/also ok", "fine, too\n"));
    listing.push(listed_file("/both", "a file"));
    listing.push(json!({ "path": "/both", "type": "dir", "revision": "dir" }));
    listing.push(listed_file("/both/inside", "inside\n"));
    listing.push(json!({ "path": "/dir", "type": "dir", "revision": "dir" }));
    listing.push(json!({ "path": "/bad/../dir", "type": "dir", "revision": "dir" }));
    // Not even an object.
    listing.push(json!(7));
    let interceptor = Arc::new(StrangeListing { extra: listing });
    for builder in [TestServer::builder(), TestServer::builder().original()] {
        let server = builder.interceptor(interceptor.clone()).start();
        let mount = Mount::of(&server);
        mount.wait_synced();
        assert_eq!(
            shell(&mount.path(), "find . -mindepth 1 | LC_ALL=C sort; cat ok 'dir/also ok'"),
            "./both\n./both/inside\n./dir\n./dir/also ok\n./ok\nfine\nfine, too\n"
        );
        // All the bad ones, the bad folder, the number, and the file under a folder's name.
        assert_eq!(mount.status()["skipped_names"], bad.len() + 3, "{}", mount.log());
        let log = mount.log();
        assert!(log.contains("/x//y") && log.contains("cannot be mounted"), "{log}");
        // The mount works on.
        shell(&mount.path(), "echo new > new; echo more >> new");
        mount.flush();
        assert_eq!(server.get("/new").unwrap().0, b"new\nmore\n");
        assert!(!mount.outside().join("escaped").exists());
    }
}

/// A server that really holds a file and a folder of one name: the folder is shown, and the file
/// is counted, not lost.
#[test]
fn of_a_file_and_a_folder_of_one_name_the_folder_is_shown() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/both", b"the file");
    server.put("/both/inside", b"below");
    let mount = Mount::of(&server);
    mount.wait_synced();
    assert_eq!(shell(&mount.path(), "ls; cat both/inside"), "both\nbelow");
    assert_eq!(mount.status()["skipped_names"], 1);
    shell(&mount.path(), "rm both/inside; echo new > both/other");
    mount.flush();
    let files = server.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["/both", "/both/other"]);
    assert_eq!(files["/both"], b"the file");
}
