//! A server that lies, floods, drips and redirects: memory and disk stay bounded, nothing of what
//! cannot be right is shown, and work goes on.

mod tls;

use std::fs;
use std::time::Duration;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use nix::libc;

use crate::fuse_or_skip;
use crate::support::observe::{approve_all, outbox, wait_sent};
use crate::support::proxy::{Act, Head, Proxy, json};
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

/// What the daemon may ever take of memory in these tests; KiB. It takes about a fifth of it
/// without any trouble.
const MEMORY_KIB_MAX: u64 = 200 << 10;

/// A value of `/proc/PID/status` in KiB.
fn memory(mount: &Mount, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[track_caller]
fn check_memory(mount: &Mount, what: &str) {
    let peak = memory(mount, "VmHWM");
    eprintln!("{what}: peak {} MiB", peak >> 10);
    assert!(peak < MEMORY_KIB_MAX, "{what}: {} MiB", peak >> 10);
}

/// Forgets the peak so far.
fn reset_peak(mount: &Mount) {
    drop(fs::write(format!("/proc/{}/clear_refs", mount.pid()), "5"));
}

/// Work goes on once the server is itself again.
#[track_caller]
fn check_works(mount: &Mount, server: &TestServer, name: &str) {
    fs::write(mount.at(name), name).unwrap();
    mount.ctl(&["resume"]);
    wait_sent(mount);
    assert_eq!(server.get(&format!("/{name}")).unwrap().0, name.as_bytes());
}

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk of about a megabyte.
fn chunk(unit: &str) -> Vec<u8> {
    let body = unit.repeat((1 << 20) / unit.len());
    format!("{:x}\r\n{body}\r\n", body.len()).into_bytes()
}

/// Replies without end, to a batch, to questions about events, and as a refusal.
#[test]
fn endless_replies_are_given_up_and_take_no_memory() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    reset_peak(&mount);
    let refusal = "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n";
    let header = format!("X-Long: {}\r\n", "x".repeat(1 << 20));
    let endless = [
        ("results", CHUNKED.to_owned() + "c\r\n{\"results\":[\r\n", chunk("{},")),
        ("numbers", CHUNKED.to_owned() + "c\r\n{\"results\":[\r\n", chunk("0,")),
        ("white space", CHUNKED.to_owned(), chunk(" ")),
        ("refusal", refusal.to_owned(), chunk("no ")),
        ("header", "HTTP/1.1 200 OK\r\n".to_owned(), header.into_bytes()),
        ("interim replies", String::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000)),
    ];
    for (n, (what, first, again)) in endless.into_iter().enumerate() {
        let name = format!("bulk-{n}");
        fs::write(mount.at(&name), &name).unwrap();
        let seen = proxy.count("POST", "/fs/bulk");
        proxy.rule(move |head| {
            if head.is("POST", "/fs/bulk") {
                return Act::Endless(first.clone().into_bytes(), again.clone(), Duration::ZERO);
            }
            Act::Pass
        });
        if what == "interim replies" {
            // These end by time alone, which is longer than a test should take.
            wait_for("some of them", || (proxy.sent() > 64 << 20).then_some(()));
        } else {
            mount.ctl(&["resume"]);
            wait_for("two attempts", || (proxy.count("POST", "/fs/bulk") > seen + 1).then_some(()));
        }
        check_memory(&mount, what);
        assert_eq!(outbox(&mount).len(), 1, "nothing is taken for accepted");
        proxy.clear();
        check_works(&mount, &server, &name);
    }
    for (what, first, again) in [
        ("events", CHUNKED.to_owned() + "b\r\n{\"events\":[\r\n", chunk("{},")),
        ("lists", CHUNKED.to_owned() + "b\r\n{\"events\":[\r\n", chunk("[[]],")),
    ] {
        let seen = proxy.count("GET", "/fs/events");
        proxy.rule(move |head| {
            if head.is("GET", "/fs/events") {
                return Act::Endless(first.clone().into_bytes(), again.clone(), Duration::ZERO);
            }
            Act::Pass
        });
        wait_for("two attempts", || (proxy.count("GET", "/fs/events") > seen + 1).then_some(()));
        check_memory(&mount, what);
        proxy.clear();
        mount.ctl(&["resume"]);
        mount.wait_synced();
    }
    check_works(&mount, &server, "after");
}

/// Listings that are small on the way and large when taken apart.
#[test]
fn listings_that_unfold_take_no_memory() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/real", b"real");
    let fill = |unit: &str| unit.repeat((31 << 20) / unit.len());
    let long = "n".repeat(255);
    let bombs = [
        ("objects", format!(r#"{{"entries":[{}{{}}]}}"#, fill(r#"{"a":0},"#))),
        ("lists", format!(r#"{{"entries":[{}0]}}"#, fill("[],"))),
        ("a list as a name", format!(r#"{{"entries":[{{"path":[{}0]}}]}}"#, fill("0,"))),
        (
            "an object as a name",
            format!(r#"{{"entries":[{{"path":{{{}"b":0}}}}]}}"#, fill(r#""a":0,"#)),
        ),
        ("members", format!(r#"{{"entries":[{{{}"path":"/x"}}]}}"#, fill(r#""a":[],"#))),
        ("depth", format!(r#"{{"entries":[{}"#, fill("["))),
        (
            "names that are too long",
            format!(r#"{{"entries":[{}{{}}]}}"#, {
                fill(&format!(r#"{{"path":"/{}","type":"file"}},"#, "m".repeat(300 << 10)))
            }),
        ),
        (
            "deep names",
            format!(r#"{{"entries":[{}{{}}]}}"#, {
                fill(&format!(r#"{{"path":"{}","type":"file"}},"#, format!("/{long}").repeat(1100)))
            }),
        ),
        ("cursor", format!(r#"{{"entries":[{{"path":"/x"}}],"nextCursor":"/{}"}}"#, fill("z"))),
        ("revisions", format!(r#"{{"entries":[{{"path":"/x","revision":"{}"}}]}}"#, fill("r"))),
    ];
    for (what, body) in bombs {
        let proxy = Proxy::of(&server);
        let text = body.clone();
        proxy.rule(move |head| if head.is("GET", "/fs/tree") { json(&text) } else { Act::Pass });
        let mount = Mount::builder(&proxy.source()).start();
        wait_for("two attempts or an end", || {
            let over = mount.log().contains("tree is up to date");
            (over || proxy.count("GET", "/fs/tree") > 1).then_some(())
        });
        check_memory(&mount, what);
        proxy.clear();
        check_works(&mount, &server, "work");
        server.delete("/work");
    }
}

/// A WebSocket frame of text.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 127];
    frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The head of the reply that opens a WebSocket.
fn upgraded(head: &Head) -> Vec<u8> {
    let key = head.text.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let accept = derive_accept_key(key.trim().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// A stream that floods, with contents, with names and with frames that never end.
#[test]
fn a_stream_that_floods_takes_no_memory() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    reset_peak(&mount);
    let event = |id: &str, path: &str, content: &str| {
        frame(&format!(
            r#"{{"eventId":"{id}","type":"file.updated","path":"{path}","revision":"{id}",
                "inlineContent":true,"content":"{content}"}}"#
        ))
    };
    let content = "c".repeat(4 << 20);
    let long = "/n".repeat(3 << 20);
    let mut endless = vec![0x81, 127];
    endless.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    for (what, first, again) in [
        ("contents", Vec::new(), [event("x", "/x", &content), event("y", "/y", &content)].concat()),
        ("paths", Vec::new(), [event("x", &long, ""), event("y", &long, "")].concat()),
        ("a frame without end", endless, vec![b' '; 1 << 20]),
        (
            "parts without end",
            frame("{}"),
            [vec![0x01, 126, 0xff, 0xff], vec![b' '; 0xffff]].concat(),
        ),
    ] {
        let (before, seen) = (proxy.sent(), proxy.count("GET", "/fs/ws"));
        proxy.rule(move |head| {
            if !head.is("GET", "/fs/ws") {
                return Act::Pass;
            }
            Act::Endless([upgraded(head), first.clone()].concat(), again.clone(), Duration::ZERO)
        });
        wait_for("a flood, or its end again and again", || {
            let enough = proxy.sent() > before + (200 << 20);
            (enough || proxy.count("GET", "/fs/ws") > seen + 2).then_some(())
        });
        check_memory(&mount, what);
        // Meanwhile the mount is not slow.
        shell(&mount.path(), "echo during > during; cat during; rm during");
        proxy.clear();
        mount.ctl(&["resume"]);
        // Made-up events look like another history, which a person has to look at.
        approve_all(&mount);
    }
    wait_for("no history is doubted", || {
        approve_all(&mount);
        (mount.status()["approvals"] == 0).then_some(())
    });
    check_works(&mount, &server, "after");
}

/// Contents that have no end, that are longer than any disk, or that come compressed unasked, are
/// not kept; the disk is as free as before.
#[test]
fn contents_without_end_are_refused_and_leave_nothing() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/file", b"the real bytes");
    let proxy = Proxy::of(&server);
    // Content that came with the first listing would never be asked for.
    proxy.rule(|head| if head.is("GET", "/fs/export") { json("{") } else { Act::Pass });
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    reset_peak(&mount);
    let raw = |more: &str| {
        let digest = "84b2fabf3b94a8f3a8d2f3b0a2f1f2a9b0b7f0b1d0f4c0d0e0f0a0b0c0d0e0f0";
        format!(
            "HTTP/1.1 200 OK\r\nETag: \"rev_1\"\r\nX-Content-Sha256: {digest}\r\n{more}\r\n\r\n"
        )
    };
    for (what, first, again, errno) in [
        ("8 EiB", raw("Content-Length: 9223372036854775807"), vec![0; 1 << 20], libc::EFBIG),
        ("no end", raw("Transfer-Encoding: chunked"), chunk("endless "), libc::EFBIG),
        ("gzip", raw("Content-Encoding: gzip\r\nContent-Length: 4"), b"gzip".to_vec(), libc::EIO),
    ] {
        let seen = proxy.count("GET", "/fs/raw");
        proxy.rule(move |head| {
            if head.is("GET", "/fs/raw") {
                return Act::Endless(first.clone().into_bytes(), again.clone(), Duration::ZERO);
            }
            Act::Pass
        });
        let error = fs::read(mount.at("file")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{what}: {error}");
        assert!(proxy.count("GET", "/fs/raw") > seen);
        check_memory(&mount, what);
        let left = shell(&mount.state(), "find files -type f");
        assert_eq!(left, "", "{what}");
    }
    for head in proxy.heads() {
        assert!(!head.text.to_lowercase().contains("accept-encoding"), "{}", head.text);
    }
    proxy.clear();
    assert_eq!(fs::read(mount.at("file")).unwrap(), b"the real bytes");
    check_works(&mount, &server, "after");
}

/// Bytes that do not have the digest that the server listed, or sends along, are never shown and
/// never kept.
#[test]
fn content_that_does_not_match_its_digest_is_never_shown() {
    fuse_or_skip!();
    for original in [false, true] {
        let builder = TestServer::builder();
        let server = if original { builder.original() } else { builder }.start();
        server.put("/file", b"the real bytes");
        let proxy = Proxy::of(&server);
        proxy.rule(|head| if head.is("GET", "/fs/export") { json("{") } else { Act::Pass });
        let mount = Mount::builder(&proxy.source()).start();
        mount.wait_synced();
        let other = mountd::digest::Digest::of(b"the fake bytes").to_string();
        // First with the old digest beside them, then with their own, then with none.
        for header in [None, Some(other), Some(String::new())] {
            proxy.rule(move |head| {
                let header = header.clone();
                if !head.is("GET", "/fs/raw") && !head.is("GET", "/fs/file") {
                    return Act::Pass;
                }
                Act::Rewrite(Box::new(move |reply| {
                    let mut text = String::from_utf8(reply).unwrap();
                    // As they are, or in base64.
                    for (real, fake) in [
                        ("the real bytes", "the fake bytes"),
                        ("dGhlIHJlYWwgYnl0ZXM=", "dGhlIGZha2UgYnl0ZXM="),
                    ] {
                        text = text.replace(real, fake);
                    }
                    assert!(!text.contains("real"), "{text}");
                    let real = mountd::digest::Digest::of(b"the real bytes").to_string();
                    match header.as_deref() {
                        Some("") => {
                            text = text.replace("x-content-sha256", "x-content-sha25x");
                            text.replace("contentHash", "contentHasx")
                        }
                        Some(digest) => text.replace(&real, digest),
                        None => text,
                    }
                    .into_bytes()
                }))
            });
            let error = fs::read(mount.at("file")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        }
        let kept = shell(&mount.state(), "grep -rlaF 'the fake bytes' . || true");
        assert_eq!(kept, "");
        proxy.clear();
        assert_eq!(fs::read(mount.at("file")).unwrap(), b"the real bytes");
    }
}

/// Revisions that are missing, empty, absurd or older than before: the next change finds out what
/// is there, and overwrites nothing blindly.
#[test]
fn replies_with_strange_revisions_lose_nothing() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    let member = r#""revision":"rev_"#;
    for (n, strange) in [
        r#""revisiom":"rev_"#,
        r#""revision":"","x":"#,
        r#""revision":"rev_0"#,
        r#""revision":"REV "#,
        r#""revision":"\u00e9\n"#,
        r#""revision":[[],[],"#,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("file-{n}");
        proxy.rule(move |head| {
            if !head.is("POST", "/fs/bulk") {
                return Act::Pass;
            }
            Act::Rewrite(Box::new(move |reply| {
                let text = String::from_utf8(reply).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                let body = body.replace(member, strange);
                let mut lines: Vec<&str> = head.lines().collect();
                lines.retain(|line| !line.to_lowercase().starts_with("content-length"));
                let head = lines.join("\r\n");
                format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
            }))
        });
        for round in 0..3 {
            fs::write(mount.at(&name), format!("{name} {round}")).unwrap();
            mount.ctl(&["resume"]);
            wait_for("the server has it", || {
                let (content, _) = server.get(&format!("/{name}"))?;
                (content == format!("{name} {round}").as_bytes()).then_some(())
            });
        }
        proxy.clear();
        // Somebody else's edit is not overwritten on such a base.
        server.put(&format!("/{name}"), b"theirs");
        wait_for("their edit is here", || {
            (fs::read(mount.at(&name)).unwrap() == b"theirs").then_some(())
        });
        check_works(&mount, &server, &name);
    }
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(mount.status()["uploads"]["attention"], 0);
}

/// Sizes that are negative, huge or not numbers, or that contradict the digest, are not believed:
/// the bytes tell, and then everything can be read and written.
#[test]
fn sizes_that_lie_do_no_harm() {
    fuse_or_skip!();
    let server = TestServer::new();
    let sizes = ["-1", "1", "9223372036854775807", "9223372036854775808", "1e300", "\"big\"", "[]"];
    for n in 0..sizes.len() {
        server.put(&format!("/f{n}"), format!("content {n}").as_bytes());
    }
    let proxy = Proxy::of(&server);
    let entries: Vec<String> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| {
            format!(r#"{{"path":"/f{n}","type":"file","revision":"rev_{}","size":{size},"byteSize":{size}}}"#, n + 1)
        })
        .collect();
    let listing =
        format!(r#"{{"entries":[{}],"nextCursor":null,"totalFiles":-7}}"#, entries.join(","));
    proxy.rule(move |head| match head.is("GET", "/fs/tree") {
        true => json(&listing),
        false if head.is("GET", "/fs/export") => json("{"),
        false => Act::Pass,
    });
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    wait_for("the true sizes", || {
        let sum: u64 = (0..sizes.len())
            .map(|n| fs::metadata(mount.at(&format!("f{n}"))).map_or(0, |file| file.len()))
            .sum();
        (sum < 1000).then_some(())
    });
    shell(&mount.path(), "ls -l; du -s --apparent-size .; df .");
    assert!(mount.ctl(&["status"]).status.success());
    for n in 0..sizes.len() {
        let content = format!("content {n}");
        // A size that was believed is corrected, and from then on the whole content is read.
        wait_for("the whole content", || match fs::read_to_string(mount.at(&format!("f{n}"))) {
            Ok(text) if text == content => Some(()),
            Ok(text) => {
                assert!(content.starts_with(&text), "{n}: {text}");
                None
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => None,
            Err(error) => panic!("{n}: {error}"),
        });
        assert_eq!(fs::read_to_string(mount.at(&format!("f{n}"))).unwrap(), content);
        assert_eq!(fs::metadata(mount.at(&format!("f{n}"))).unwrap().len(), content.len() as u64);
    }
    shell(&mount.path(), "for f in f*; do echo more >> $f; done");
    mount.flush();
    assert_eq!(server.get("/f2").unwrap().0, b"content 2more\n");
}

/// A listing that goes on for ever keeps nobody from working, and memory is bounded by what it
/// brought.
#[test]
fn a_listing_without_end_holds_up_nothing() {
    fuse_or_skip!();
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    let mut n = 0_u64;
    proxy.rule(move |head| {
        if !head.is("GET", "/fs/tree") {
            return Act::Pass;
        }
        n += 1;
        let path = format!("/endless/{n:012}");
        json(&format!(r#"{{"entries":[{{"path":"{path}","type":"file","revision":"rev_1"}}],"nextCursor":"{path}"}}"#))
    });
    let mount = Mount::builder(&proxy.source()).start();
    wait_for("many pages", || (proxy.count("GET", "/fs/tree") > 300).then_some(()));
    fs::write(mount.at("mine"), bytes(1, 5000)).unwrap();
    wait_for("work goes on", || server.get("/mine"));
    assert_eq!(mount.status()["state"], "bootstrapping");
    check_memory(&mount, "a listing without end");
    proxy.clear();
    mount.ctl(&["resume"]);
    // Whether the listing ended well or began anew, in which case the made-up names are missed.
    wait_for("an end of the listing", || {
        let state = mount.status()["state"].as_str().unwrap().to_owned();
        ["synced", "reset_suspected"].contains(&state.as_str()).then_some(())
    });
    assert_eq!(fs::read(mount.at("mine")).unwrap(), bytes(1, 5000));
}
