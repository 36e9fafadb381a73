//! Servers that are not what they should be: they take different names for one, or store other bytes
//! than they were sent. Nothing is lost by it, nobody's bytes are replaced unseen, and nothing goes
//! round in circles.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::on_both_servers;
use crate::support::observe::{approve_all, history, outbox, wait_state};
use crate::support::proxy::{Act, Proxy};
use crate::support::server::encode;
use crate::support::tree::{bytes_of, tree};
use crate::support::{Kind, Mount, TestServer, shell, wait_for};

on_both_servers!(
    letters_that_differ_in_case_only_replace_nothing,
    a_name_that_changes_its_case_only_keeps_its_bytes,
    composed_and_decomposed_letters_lose_nothing,
    other_bytes_than_were_sent_are_noticed,
);

/// A proxy behind which names are as `fold` makes them.
fn folding(server: &TestServer, fold: fn(&str) -> String) -> Proxy {
    let proxy = Proxy::of(server);
    proxy.rule(move |_| {
        Act::Change(Box::new(move |head, body| {
            let head = match head.split_once("path=") {
                None => head,
                Some((before, rest)) => {
                    let end = rest.find(['&', ' ']).unwrap();
                    let path = percent_encoding::percent_decode_str(&rest[..end]);
                    let path = fold(&path.decode_utf8().unwrap());
                    format!("{before}path={}{}", encode(&path), &rest[end..])
                }
            };
            let body = match serde_json::from_slice::<Value>(&body) {
                Ok(mut json) => {
                    for file in json["files"].as_array_mut().into_iter().flatten() {
                        for key in ["path", "from"] {
                            if let Some(path) = file[key].as_str().map(fold) {
                                file[key] = path.into();
                            }
                        }
                    }
                    json.to_string().into_bytes()
                }
                Err(_) => body,
            };
            (head, body)
        }))
    });
    proxy
}

/// Everything that a mount has of somebody's bytes: what it shows, and its conflict copies.
fn has(mount: &Mount, bytes: &[u8]) -> bool {
    let shown = bytes_of(&tree(&mount.path()).unwrap());
    let copies = fs::read_dir(mount.state().join("conflicts")).unwrap();
    let mut copies = copies.map(|copy| fs::read(copy.unwrap().path().join("local")));
    shown.values().any(|shown| shown == bytes)
        || copies.any(|copy| copy.is_ok_and(|copy| copy == bytes))
}

/// Waits until nothing is on its way any more: what is left waits for a person, or for what does.
fn settled(mount: &Mount) {
    wait_for("nothing waits but what a person must look at", || {
        let records = outbox(mount);
        let parked = records.iter().filter(|record| record["state"] == "attention").count();
        let waits = |record: &&Value| record["state"] == "held" && record["op"] == "delete";
        let waits = if parked > 0 { records.iter().filter(waits).count() } else { 0 };
        (parked + waits == records.len()).then_some(())
    });
}

/// Waits until the mount shows what the server has made of a name.
fn shown(mount: &Mount, name: &str) {
    wait_for(&format!("{name} is shown"), || {
        let mut names = fs::read_dir(mount.path()).unwrap();
        names.any(|entry| entry.unwrap().file_name() == name).then_some(())
    });
}

/// Two files whose names differ in upper and lower case only are two files here. At a server that
/// makes one name of both, the second one replaces nothing: it is a conflict.
fn letters_that_differ_in_case_only_replace_nothing(kind: Kind) {
    let server = kind.server().start();
    let proxy = folding(&server, |path| path.to_lowercase());
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    fs::write(mount.at("Notes"), "the first").unwrap();
    settled(&mount);
    fs::write(mount.at("NOTES"), "the second").unwrap();
    settled(&mount);
    assert!(has(&mount, b"the first") && has(&mount, b"the second"));
    assert_eq!(mount.status()["conflicts"]["open"], 1);
    assert_eq!(server.files(), BTreeMap::from([("/notes".to_owned(), b"the first".to_vec())]));
    let happened = history(&server).len();
    // It stays so, also when all is compared.
    let mut mount = mount;
    assert_eq!(mount.term(), Some(0));
    mount.start();
    wait_for("it is up to date", || mount.log().contains("tree is up to date").then_some(()));
    settled(&mount);
    assert!(has(&mount, b"the first") && has(&mount, b"the second"));
    assert_eq!(history(&server).len(), happened, "{:#?}", history(&server));
}

/// A file that gets a name which such a server takes for the one that it had keeps its bytes there:
/// the old name is not removed, since that is the file. The new one waits for a person, who can go
/// back or choose another one.
fn a_name_that_changes_its_case_only_keeps_its_bytes(kind: Kind) {
    let server = kind.server().start();
    let proxy = folding(&server, |path| path.to_lowercase());
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    let there = |name: &str, bytes: &[u8]| {
        assert_eq!(server.files(), BTreeMap::from([(name.to_owned(), bytes.to_vec())]));
    };
    for (n, edited) in [(1, false), (2, true)] {
        let (old, new) = (format!("Notes{n}"), format!("NOTES{n}"));
        fs::write(mount.at(&old), "my notes").unwrap();
        settled(&mount);
        fs::rename(mount.at(&old), mount.at(&new)).unwrap();
        if edited {
            fs::write(mount.at(&new), "my new notes").unwrap();
        }
        settled(&mount);
        let parked = outbox(&mount);
        let parked = parked.iter().find(|record| record["path"] == format!("/{new}")).unwrap();
        let why = parked["last_error"].as_str().unwrap_or_default();
        assert!(why.contains("takes this name for"), "{parked:#}");
        there(&format!("/notes{n}"), b"my notes");
        let shown = if edited { "my new notes" } else { "my notes" };
        assert_eq!(fs::read_to_string(mount.at(&new)).unwrap(), shown);
        let target = if edited { format!("other{n}") } else { old };
        fs::rename(mount.at(&new), mount.at(&target)).unwrap();
        mount.flush();
        assert_eq!(fs::read_to_string(mount.at(&target)).unwrap(), shown);
        let name = if edited { format!("/other{n}") } else { format!("/notes{n}") };
        there(&name, shown.as_bytes());
        shell(&mount.path(), "rm -f *");
        wait_for("nothing is left", || {
            settled(&mount);
            server.files().is_empty().then_some(())
        });
    }
    // Or the file can be removed, which is no conflict.
    fs::write(mount.at("Notes3"), "my notes").unwrap();
    settled(&mount);
    fs::rename(mount.at("Notes3"), mount.at("NOTES3")).unwrap();
    settled(&mount);
    there("/notes3", b"my notes");
    fs::remove_file(mount.at("NOTES3")).unwrap();
    mount.flush();
    assert_eq!(server.files(), BTreeMap::new());
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// A server that composes letters shows a name that was written decomposed under its own spelling,
/// too. To give the one the other's name loses nothing.
fn composed_and_decomposed_letters_lose_nothing(kind: Kind) {
    let server = kind.server().start();
    let proxy = folding(&server, |path| path.replace("e\u{301}", "\u{e9}"));
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    fs::write(mount.at("cafe\u{301}"), "one").unwrap();
    settled(&mount);
    shown(&mount, "caf\u{e9}");
    assert_eq!(fs::read(mount.at("caf\u{e9}")).unwrap(), b"one");
    fs::rename(mount.at("cafe\u{301}"), mount.at("caf\u{e9}")).unwrap();
    settled(&mount);
    let there = BTreeMap::from([("/caf\u{e9}".to_owned(), b"one".to_vec())]);
    assert_eq!(server.files(), there);
    // Nothing goes on.
    let happened = history(&server).len();
    fs::write(mount.at("after"), "after").unwrap();
    settled(&mount);
    fs::remove_file(mount.at("after")).unwrap();
    settled(&mount);
    assert_eq!(history(&server).len(), happened + 2, "{:#?}", history(&server));
    assert_eq!(server.files(), there);
    assert_eq!(fs::read(mount.at("caf\u{e9}")).unwrap(), b"one");
}

/// A server that stores other bytes than it was sent is not believed: that is noticed, ours stay, and
/// nothing is sent again. When a person goes on with it, both are kept.
fn other_bytes_than_were_sent_are_noticed(kind: Kind) {
    let server = kind.server().start();
    let proxy = Proxy::of(&server);
    proxy.rule(|_| {
        Act::Change(Box::new(|head, body| {
            let text = String::from_utf8(body).unwrap();
            (head, text.replace("\\r\\n", "\\n").into_bytes())
        }))
    });
    let mount = Mount::builder(&proxy.source()).start();
    mount.wait_synced();
    fs::write(mount.at("text"), "one\r\ntwo\r\n").unwrap();
    let status = wait_state(&mount, "reset_suspected");
    assert_eq!(fs::read(mount.at("text")).unwrap(), b"one\r\ntwo\r\n");
    assert_eq!(history(&server).len(), 1, "{status:#}");
    approve_all(&mount);
    wait_for("theirs is shown", || {
        (fs::read(mount.at("text")).unwrap() == b"one\ntwo\n").then_some(())
    });
    settled(&mount);
    assert!(has(&mount, b"one\r\ntwo\r\n"));
    assert_eq!(history(&server).len(), 1, "nothing was sent again");
}
