//! How a person ends a conflict: with ours, theirs, both, a merge, or a content of their own.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{all_conflicts, apart, inode, lines, names, open_conflicts, shows, side, start, text};
use crate::on_both_servers;
use crate::support::observe::{json as ctl_json, stderr, stdout, wait_sent};
use crate::support::{Kind, Mount, TestServer, seed, wait_for};

on_both_servers!(
    ours_or_theirs_takes_the_name,
    both_get_a_name,
    a_merge_by_hand_takes_the_name,
    what_was_settled_apart_is_merged_later,
    a_file_that_changed_since_is_replaced_by_force_only,
    a_file_that_is_gone_or_in_use,
    a_removal_that_gave_way_is_carried_out_or_dropped,
    many_are_resolved_at_once,
    a_kill_while_it_is_resolved_leaves_it_open_or_resolved,
    versions_are_shown_and_compared,
    old_copies_go_and_open_ones_stay,
);

/// Makes a conflict that does not merge: ours is `ours`, theirs `theirs`.
fn conflict(
    server: &mut TestServer,
    mount: &Mount,
    name: &str,
    ours: &str,
    theirs: &str,
) -> String {
    let before = super::list(mount, &["conflicts", "list"]).len();
    fs::write(mount.at(name), "base").unwrap();
    wait_sent(mount);
    apart(server, &format!("/{name}"), theirs, || fs::write(mount.at(name), ours).unwrap());
    let open = open_conflicts(mount, before + 1);
    wait_sent(mount);
    open[0]["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn resolve(mount: &Mount, args: &[&str]) -> Value {
    let output = mount.ctl(&[&["conflicts", "resolve", "--yes", "--json"], args].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one outcome that must not be: a change that is not sent, or not seen.
#[track_caller]
fn is_everywhere(server: &TestServer, mount: &Mount, name: &str, content: &str) {
    wait_sent(mount);
    assert_eq!(text(server, &format!("/{name}")), content);
    shows(mount, name, content);
}

/// Ours or theirs takes the name, here and at the server; the other side is still in the copy; the
/// conflict no longer counts, also after a restart.
fn ours_or_theirs_takes_the_name(kind: Kind) {
    let (mut server, mut mount) = start(kind, &[]);
    let large = "large ours\n".repeat(20_000);
    for (name, ours, how) in
        [("o", "ours", "ours"), ("t", "ours", "theirs"), ("large", large.as_str(), "ours")]
    {
        let id = conflict(&mut server, &mount, name, ours, "theirs");
        let before = inode(&mount, name);
        let reply = resolve(&mount, &[&id, &format!("--{how}")]);
        assert_eq!(reply["data"]["results"][0]["how"], how);
        is_everywhere(&server, &mount, name, if how == "ours" { ours } else { "theirs" });
        assert_eq!(inode(&mount, name), before);
        let resolved = all_conflicts(&mount).remove(0);
        assert_eq!(resolved["resolution"]["how"], how);
        assert_eq!(resolved["resolution"]["automatic"], false);
        assert_eq!(side(&resolved, "local"), ours.as_bytes());
        assert_eq!(side(&resolved, "remote"), b"theirs");
        // Once is enough.
        let again = mount.ctl(&["conflicts", "resolve", &id, "--theirs", "--yes"]);
        assert_eq!(again.status.code(), Some(7), "{}", stderr(&again));
        assert!(stderr(&again).contains("resolved before"), "{}", stderr(&again));
    }
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    mount.wait_synced();
    assert_eq!(mount.term(), Some(0));
    mount.start();
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    assert_eq!(all_conflicts(&mount).len(), 3);
}

/// Both have a name and are at the server: theirs as before, ours beside it.
fn both_get_a_name(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    let long = format!("{}.md", "ö".repeat(126));
    for name in ["plan.md", &long] {
        let known = names(&mount);
        let id = conflict(&mut server, &mount, name, "ours", "theirs");
        // Nothing is taken away: nobody is asked.
        let output = mount.ctl(&["conflicts", "resolve", &id, "--both"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let new = |shown: &String| !known.contains(shown) && shown != name;
        let beside = names(&mount).into_iter().find(new).expect("ours beside it");
        assert!(beside.contains(" (conflict ") && beside.ends_with(").md"), "{beside}");
        is_everywhere(&server, &mount, &beside, "ours");
        is_everywhere(&server, &mount, name, "theirs");
    }
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// What a person made of both takes the name, from a file outside and inside of the mount.
fn a_merge_by_hand_takes_the_name(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    let outside = mount.outside().join("merged");
    fs::write(&outside, "ours and theirs").unwrap();
    let id = conflict(&mut server, &mount, "f", "ours", "theirs");
    resolve(&mount, &[&id, "--merged", outside.to_str().unwrap()]);
    is_everywhere(&server, &mount, "f", "ours and theirs");
    let large = "a line of the merge\n".repeat(10_000);
    fs::write(mount.at("inside"), &large).unwrap();
    let id = conflict(&mut server, &mount, "f", "ours again", "theirs again");
    resolve(&mount, &[&id, "--merged", mount.at("inside").to_str().unwrap()]);
    is_everywhere(&server, &mount, "f", &large);
    // From standard input.
    let id = conflict(&mut server, &mount, "g", "ours", "theirs");
    let mut command = mount.ctl_command(&["conflicts", "resolve", &id, "--merged", "-", "--yes"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed").unwrap();
    assert!(child.wait().unwrap().success());
    is_everywhere(&server, &mount, "g", "typed");
    let missing = mount.ctl(&["conflicts", "resolve", &id, "--merged", "/nowhere", "--yes"]);
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
}

/// Where a rule kept both sides apart, they are merged when a person says so, into what the file
/// is by then; where both changed the same lines, the person is told.
fn what_was_settled_apart_is_merged_later(kind: Kind) {
    let (mut server, mount) = start(kind, &["--conflict", "keep"]);
    fs::write(mount.at("f"), lines(&[])).unwrap();
    mount.flush();
    let theirs = lines(&[(8, "theirs")]);
    apart(&mut server, "/f", &theirs, || {
        fs::write(mount.at("f"), lines(&[(1, "ours")])).unwrap();
    });
    let id = open_conflicts(&mount, 1)[0]["id"].as_str().unwrap().to_owned();
    wait_sent(&mount);
    let detail = ctl_json(&mount, &["conflicts", "show", &id]);
    assert_eq!(detail["data"]["merge"], "clean");
    assert_eq!(detail["data"]["now"]["state"], "theirs");
    // It went on meanwhile.
    fs::write(mount.at("f"), lines(&[(5, "since"), (8, "theirs")])).unwrap();
    let detail = ctl_json(&mount, &["conflicts", "show", &id]);
    assert_eq!(detail["data"]["now"]["state"], "changed");
    let dry = mount.ctl(&["conflicts", "merge", &id, "--dry-run"]);
    assert!(stdout(&dry).contains("would be resolved: merged"), "{}", stdout(&dry));
    assert_eq!(mount.status()["conflicts"]["open"], 1);
    assert!(mount.ctl(&["conflicts", "merge", &id]).status.success());
    is_everywhere(&server, &mount, "f", &lines(&[(1, "ours"), (5, "since"), (8, "theirs")]));
    assert_eq!(all_conflicts(&mount)[0]["resolution"]["how"], "merged");

    let id = conflict(&mut server, &mount, "f", "ours", "theirs");
    let overlap = mount.ctl(&["conflicts", "merge", &id]);
    assert_eq!(overlap.status.code(), Some(7));
    assert!(stderr(&overlap).contains("both sides changed the same lines"), "{}", stderr(&overlap));
    is_everywhere(&server, &mount, "f", "theirs");
    assert_eq!(mount.status()["conflicts"]["open"], 1);
}

/// What the file became after the conflict is nobody's to overwrite unseen; by force it is kept in
/// the copy.
fn a_file_that_changed_since_is_replaced_by_force_only(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    // Changed here and sent, changed here and not sent, changed there.
    for way in ["sent", "unsent", "there"] {
        let id = conflict(&mut server, &mount, way, "ours", "theirs");
        match way {
            "there" => {
                server.put("/there", b"since");
                wait_for("the change", || {
                    (fs::read(mount.at(way)).unwrap() == b"since").then_some(())
                });
            }
            _ => {
                if way == "unsent" {
                    assert!(mount.ctl(&["pause"]).status.success());
                }
                fs::write(mount.at(way), "since").unwrap();
            }
        }
        if way == "sent" {
            wait_sent(&mount);
        }
        for choice in ["--ours", "--merged=/dev/null"] {
            let refused = mount.ctl(&["conflicts", "resolve", &id, choice, "--yes"]);
            assert_eq!(refused.status.code(), Some(7), "{way}: {}", stdout(&refused));
            let said = stderr(&refused);
            assert!(said.contains("changed since") && said.contains("--force"), "{said}");
            assert_eq!(fs::read(mount.at(way)).unwrap(), b"since");
        }
        resolve(&mount, &[&id, "--ours", "--force"]);
        shows(&mount, way, "ours");
        let resolved = all_conflicts(&mount);
        let resolved = resolved.iter().find(|conflict| conflict["id"] == *id).unwrap();
        assert_eq!(side(resolved, "replaced"), b"since", "{way}");
        assert!(mount.ctl(&["resume"]).status.success());
        is_everywhere(&server, &mount, way, "ours");
    }
    assert_eq!(mount.status()["conflicts"]["open"], 0);
}

/// A file that is gone is there again; one that is being written is not replaced under the writer;
/// a folder that has the name is not removed.
fn a_file_that_is_gone_or_in_use(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    fs::create_dir(mount.at("d")).unwrap();
    let id = conflict(&mut server, &mount, "d/gone", "ours", "theirs");
    fs::remove_dir_all(mount.at("d")).unwrap();
    wait_sent(&mount);
    resolve(&mount, &[&id, "--ours"]);
    is_everywhere(&server, &mount, "d/gone", "ours");

    let id = conflict(&mut server, &mount, "open", "ours", "theirs");
    let open = fs::OpenOptions::new().append(true).open(mount.at("open")).unwrap();
    let refused = mount.ctl(&["conflicts", "resolve", &id, "--ours", "--yes"]);
    assert_eq!(refused.status.code(), Some(7));
    assert!(stderr(&refused).contains("open for writing"), "{}", stderr(&refused));
    drop(open);
    wait_for("it is closed", || {
        mount.ctl(&["conflicts", "resolve", &id, "--ours", "--yes"]).status.success().then_some(())
    });
    is_everywhere(&server, &mount, "open", "ours");

    let id = conflict(&mut server, &mount, "name", "ours", "theirs");
    fs::remove_file(mount.at("name")).unwrap();
    fs::create_dir(mount.at("name")).unwrap();
    fs::write(mount.at("name/inside"), "inside").unwrap();
    wait_sent(&mount);
    for choice in [["--ours", "--yes"], ["--ours", "--force"]] {
        let refused = mount.ctl(&[&["conflicts", "resolve", &id, "--yes"], &choice[..1]].concat());
        assert_eq!(refused.status.code(), Some(7));
        assert!(stderr(&refused).contains("has the name"), "{}", stderr(&refused));
    }
    is_everywhere(&server, &mount, "name/inside", "inside");
    resolve(&mount, &[&id, "--both"]);
    wait_sent(&mount);
    let beside = names(&mount).into_iter().find(|name| name.starts_with("name (")).unwrap();
    is_everywhere(&server, &mount, &beside, "ours");
}

/// A removal that gave way to an edit is carried out when a person says so, and the edit is kept;
/// or it is dropped.
fn a_removal_that_gave_way_is_carried_out_or_dropped(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    for (name, how) in [("removed", "--ours"), ("kept", "--theirs")] {
        fs::write(mount.at(name), "base").unwrap();
        mount.flush();
        apart(&mut server, &format!("/{name}"), "theirs", || {
            fs::remove_file(mount.at(name)).unwrap();
        });
        let id = open_conflicts(&mount, 1)[0]["id"].as_str().unwrap().to_owned();
        for impossible in ["--both", "--merged=/dev/null"] {
            let refused = mount.ctl(&["conflicts", "resolve", &id, impossible, "--yes"]);
            assert_eq!(refused.status.code(), Some(7), "{}", stdout(&refused));
            assert!(stderr(&refused).contains("ours was a removal"), "{}", stderr(&refused));
        }
        resolve(&mount, &[&id, how]);
        wait_sent(&mount);
    }
    assert_eq!(server.get("/removed"), None);
    assert!(fs::metadata(mount.at("removed")).is_err());
    is_everywhere(&server, &mount, "kept", "theirs");
    let all = all_conflicts(&mount);
    let removed = all.iter().find(|conflict| conflict["path"] == "/removed").unwrap();
    assert_eq!(side(removed, "remote"), b"theirs");
}

/// By path and all at once; without a terminal only when told so; without a change when asked what
/// would be done.
fn many_are_resolved_at_once(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    fs::create_dir(mount.at("docs")).unwrap();
    for name in ["docs/a.md", "docs/b.md", "docs/c.txt", "other.md"] {
        conflict(&mut server, &mount, name, "ours", "theirs");
    }
    let unasked = mount.ctl(&["conflicts", "resolve", "--all", "--ours"]);
    assert_eq!(unasked.status.code(), Some(2));
    let said = stderr(&unasked);
    assert!(said.contains("4 conflicts") && said.contains("--yes"), "{said}");
    for wrong in [
        vec!["conflicts", "resolve", "--all", "--yes"],
        vec!["conflicts", "resolve", "--ours", "--yes"],
        vec!["conflicts", "resolve", "--all", "--ours", "--theirs", "--yes"],
        vec!["conflicts", "resolve", "c-1", "--all", "--ours", "--yes"],
        vec!["conflicts", "resolve", "--all", "--merged", "/dev/null", "--yes"],
    ] {
        assert_eq!(mount.ctl(&wrong).status.code(), Some(2), "{wrong:?}");
    }
    let unknown = mount.ctl(&["conflicts", "resolve", "c-0", "--ours", "--yes"]);
    assert_eq!(unknown.status.code(), Some(5), "{}", stderr(&unknown));
    assert_eq!(mount.ctl(&["conflicts", "show", "../c"]).status.code(), Some(5));
    let dry = resolve(&mount, &["--path", "/docs/*.md", "--ours", "--dry-run"]);
    assert_eq!((&dry["data"]["dry_run"], &dry["data"]["resolved"]), (&true.into(), &2.into()));
    assert_eq!(mount.status()["conflicts"]["open"], 4);
    is_everywhere(&server, &mount, "docs/a.md", "theirs");

    let done = resolve(&mount, &["--path", "/docs/*.md", "--ours"]);
    assert_eq!(done["data"]["resolved"], 2, "{done}");
    assert_eq!(mount.status()["conflicts"]["open"], 2);
    resolve(&mount, &["--all", "--theirs"]);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    for (name, content) in [
        ("docs/a.md", "ours"),
        ("docs/b.md", "ours"),
        ("docs/c.txt", "theirs"),
        ("other.md", "theirs"),
    ] {
        is_everywhere(&server, &mount, name, content);
    }
    let none = mount.ctl(&["conflicts", "resolve", "--all", "--ours", "--yes"]);
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(0), "no conflicts\n"));
}

/// Killed at any moment, the conflict is open as before or resolved altogether; what was said to be
/// resolved is.
fn a_kill_while_it_is_resolved_leaves_it_open_or_resolved(kind: Kind) {
    let (mut server, mut mount) = start(kind, &[]);
    let mut rng = SmallRng::seed_from_u64(seed());
    for round in 0..6_usize {
        let name = format!("f{round}");
        let ours = format!("ours {round}").repeat(if round % 2 == 0 { 1 } else { 20_000 });
        let id = conflict(&mut server, &mount, &name, &ours, "theirs");
        let mut command = mount.ctl_command(&["conflicts", "resolve", &id, "--ours", "--yes"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut resolving = command.spawn().unwrap();
        // A moment of the resolution's life, not a wait for anything.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..40_000)));
        mount.kill9();
        let was_told = resolving.wait().unwrap().success();
        mount.start();
        let open = super::list(&mount, &["conflicts", "list"]);
        let is_open = !open.is_empty();
        assert!(!(was_told && is_open), "round {round}: it was said to be resolved");
        is_everywhere(&server, &mount, &name, if is_open { "theirs" } else { &ours });
        if is_open {
            assert_eq!(side(&open[0], "local"), ours.as_bytes());
            resolve(&mount, &[&id, "--ours"]);
            is_everywhere(&server, &mount, &name, &ours);
        }
    }
}

/// Every side is labelled, and what differs is shown.
fn versions_are_shown_and_compared(kind: Kind) {
    let (mut server, mount) = start(kind, &[]);
    fs::write(mount.at("f"), lines(&[])).unwrap();
    mount.flush();
    apart(&mut server, "/f", &lines(&[(3, "THEIRS"), (8, "more")]), || {
        fs::write(mount.at("f"), lines(&[(3, "OURS")])).unwrap();
    });
    let open = open_conflicts(&mount, 1);
    let id = open[0]["id"].as_str().unwrap();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(open[0]["ours"]["by"].as_str().unwrap().ends_with(&format!("@{host}")));
    for side in ["ours", "theirs"] {
        assert!(open[0][side]["modified_at"].is_string(), "{}", open[0]);
        assert!(open[0][side]["size"].is_u64() && open[0][side]["sha256"].is_string());
    }
    let shown = stdout(&mount.ctl(&["conflicts", "show", id]));
    for part in ["/f", &format!("@{host}"), "merge      overlap", "theirs, unchanged since", "rev_"]
    {
        assert!(shown.contains(part), "{part:?} is missing: {shown}");
    }
    let diff = |args: &[&str]| stdout(&mount.ctl(&[&["conflicts", "diff", id], args].concat()));
    let both = diff(&[]);
    assert!(both.contains("--- base\n+++ ours\n") && both.contains("--- base\n+++ theirs\n"));
    assert!(both.contains("-line 3\n+OURS\n") && both.contains("-line 3\n+THEIRS\n"), "{both}");
    assert!(!diff(&["--ours"]).contains("THEIRS") && !diff(&["--theirs"]).contains("OURS"));
    let marked = diff(&["--merge"]);
    assert!(marked.contains("<<<<<<< ours\nOURS\n") && marked.contains("more\n"), "{marked}");
    // What is no text is said to be none.
    let id = conflict(&mut server, &mount, "binary", "ours\0", "theirs");
    let refused = mount.ctl(&["conflicts", "diff", &id]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("binary"), "{}", stderr(&refused));
    let detail = ctl_json(&mount, &["conflicts", "show", &id]);
    assert_eq!(detail["data"]["merge"], "binary");
    // Names of others cannot steer the terminal.
    let id = conflict(&mut server, &mount, "x\u{1b}[2J", "ours", "theirs");
    for args in [vec!["conflicts"], vec!["conflicts", "show", &id]] {
        assert!(!stdout(&mount.ctl(&args)).contains('\u{1b}'));
    }
}

/// The copies of resolved conflicts go when their time is over; those of open ones never do.
fn old_copies_go_and_open_ones_stay(kind: Kind) {
    let (mut server, mut mount) = start(kind, &["--conflict-keep", "1ms"]);
    let id = conflict(&mut server, &mount, "resolved", "ours", "theirs");
    conflict(&mut server, &mount, "open", "ours", "theirs");
    let copies = |mount: &Mount| fs::read_dir(mount.state().join("conflicts")).unwrap().count();
    assert_eq!(copies(&mount), 2);
    resolve(&mount, &[&id, "--theirs"]);
    // Looked at now and then, and at the start.
    assert_eq!(mount.term(), Some(0));
    mount.start();
    wait_for("the old copy is removed", || (copies(&mount) == 1).then_some(()));
    let left = wait_for("it is no longer listed", || {
        let all = all_conflicts(&mount);
        (all.len() == 1).then_some(all)
    });
    assert_eq!(left[0]["path"], "/open");
    assert_eq!(side(&left[0], "local"), b"ours");
    let told = stdout(&mount.ctl(&["events", "--json"]));
    let told = told.lines().any(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["kind"] == json!("conflict") && event["path"] == json!("/resolved")
    });
    assert!(told, "it was not said");
    let folder = PathBuf::from(left[0]["dir"].as_str().unwrap());
    assert!(folder.join("meta.json").exists());
}
