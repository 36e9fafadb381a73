//! Paths that the ignore rules keep here: full files of the mount that are never sent.

use super::events;
use crate::fuse_or_skip;
use crate::support::{Mount, TestServer, shell, wait_for};

/// The files at the server.
fn at_server(server: &TestServer) -> Vec<String> {
    server.files().into_keys().collect()
}

/// Every path that any event of the server names.
fn ever_at_server(server: &TestServer) -> Vec<String> {
    let mut paths: Vec<String> = events(server).into_iter().map(|(_, path)| path).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// What `.mountignore` names works like any file, survives stops and crashes, and is never sent.
#[test]
fn ignored_paths_are_kept_here_and_never_sent() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut a = Mount::of(&server);
    shell(&a.path(), "printf 'target/\\n*.log\\n!keep.log\\n' > .mountignore");
    shell(
        &a.path(),
        "mkdir -p target/debug src; echo bin > target/debug/prog; echo code > src/main",
    );
    shell(&a.path(), "echo l > a.log; echo l > src/b.log; echo k > keep.log; ln -s prog target/l");
    shell(&a.path(), "head -c 300000 /dev/urandom > target/big; sha256sum target/big > sum");
    // Changes of every kind stay here.
    shell(&a.path(), "echo more >> a.log; mv a.log c.log; chmod 600 c.log; mkdir target/gone");
    shell(
        &a.path(),
        "rmdir target/gone; echo x > target/x; rm target/x; touch -d 2001-01-01 c.log",
    );
    a.flush();
    let sent = ["/.mountignore", "/keep.log", "/src/main", "/sum"];
    assert_eq!(at_server(&server), sent);
    assert!(a.status()["local_only"].as_u64().unwrap() > 0);
    let look = "cat c.log src/b.log target/debug/prog; readlink target/l; stat -c '%a %Y' c.log; \
                sha256sum -c sum; find . | LC_ALL=C sort";
    let before = shell(&a.path(), look);
    a.kill9();
    a.start();
    assert_eq!(shell(&a.path(), look), before);
    a.term();
    a.start();
    assert_eq!(shell(&a.path(), look), before);
    a.flush();
    assert_eq!(at_server(&server), sent);
    let ever = ever_at_server(&server);
    assert!(
        !ever.iter().any(|path| path.contains("target") || path.ends_with("a.log")),
        "{ever:?}"
    );
    // A second mount has none of it.
    let b = Mount::of(&server);
    b.wait_synced();
    assert_eq!(shell(&b.path(), "find . -type f | LC_ALL=C sort"), {
        "./.mountignore\n./keep.log\n./src/main\n./sum\n"
    });
}

/// A move across the border of what is sent is a creation on one side: into it, the remote forgets
/// the name; out of it, the remote learns it.
#[test]
fn moves_across_the_border_send_or_withdraw() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    shell(
        &a.path(),
        "echo 'private/' > .mountignore; mkdir private; echo a > a; echo p > private/p",
    );
    a.flush();
    shell(&a.path(), "mv a private/a; mv private/p p");
    a.flush();
    assert_eq!(at_server(&server), ["/.mountignore", "/p"]);
    shell(&a.path(), "mv private public");
    a.flush();
    assert_eq!(at_server(&server), ["/.mountignore", "/p", "/public/a"]);
    shell(&a.path(), "mv public private");
    a.flush();
    assert_eq!(at_server(&server), ["/.mountignore", "/p"]);
    assert_eq!(shell(&a.path(), "cat private/a p"), "a\np\n");
}

/// The rules are taken up when the file changes: what is no longer ignored is sent, what is now
/// ignored stays at the server as it is and is not sent again.
#[test]
fn changed_rules_are_taken_up() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    shell(&a.path(), "echo '*.log' > .mountignore; echo 1 > a.log; mkdir d; echo 2 > d/b.log");
    shell(&a.path(), "head -c 100000 /dev/zero > big.log; echo t > text");
    a.flush();
    assert_eq!(at_server(&server), ["/.mountignore", "/text"]);
    // Replaced as an editor does it.
    shell(&a.path(), "echo 'text' > .new; mv .new .mountignore");
    a.flush();
    assert_eq!(at_server(&server), ["/.mountignore", "/a.log", "/big.log", "/d/b.log", "/text"]);
    shell(&a.path(), "echo changed > text; echo changed > a.log");
    a.flush();
    assert_eq!(server.get("/text").unwrap().0, b"t\n");
    assert_eq!(server.get("/a.log").unwrap().0, b"changed\n");
    // Without the file nothing but the built-in rules holds.
    shell(&a.path(), "rm .mountignore");
    a.flush();
    wait_for("the file that is no longer ignored", || {
        (server.get("/text").unwrap().0 == b"changed\n").then_some(())
    });
}

/// Rules that another mount wrote hold here, too, for a mount that was there and for one that comes
/// later.
#[test]
fn rules_of_another_mount_hold_here() {
    fuse_or_skip!();
    let server = TestServer::new();
    let (a, b) = (Mount::of(&server), Mount::of(&server));
    a.wait_synced();
    b.wait_synced();
    shell(&a.path(), "echo '*.log' > .mountignore");
    a.flush();
    wait_for("the rules in the other mount", || b.at(".mountignore").exists().then_some(()));
    let late = Mount::of(&server);
    late.wait_synced();
    for (mount, name) in [(&b, "there"), (&late, "late")] {
        wait_for("rules are taken up", || {
            shell(&mount.path(), &format!("echo x > {name}.log"));
            let kept = mount.status()["local_only"].as_u64().unwrap() > 0;
            shell(&mount.path(), &format!("{}rm -f {name}.log", if kept { ": " } else { "" }));
            kept.then_some(())
        });
        shell(&mount.path(), &format!("echo more >> {name}.log; echo y > {name}.txt"));
        mount.flush();
        assert_eq!(shell(&mount.path(), &format!("cat {name}.log")), "x\nmore\n");
    }
    assert_eq!(at_server(&server), ["/.mountignore", "/late.txt", "/there.txt"]);
}

/// Version-control folders are kept here without any rule, at any depth; a rule can have them sent.
#[test]
fn version_control_folders_are_kept_here_by_default() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    shell(&a.path(), "mkdir -p .git/refs sub/.git .hg; echo 1 > .git/HEAD; echo 2 > sub/.git/HEAD");
    shell(&a.path(), "echo 3 > .gitignore; echo 4 > .hg/x; echo 5 > sub/.git/index");
    a.flush();
    assert_eq!(at_server(&server), ["/.gitignore"]);
    shell(&a.path(), "echo '!.hg' > .mountignore");
    a.flush();
    assert_eq!(at_server(&server), ["/.gitignore", "/.hg/x", "/.mountignore"]);
    let ever = ever_at_server(&server);
    assert!(!ever.iter().any(|path| path.contains(".git/")), "{ever:?}");
}
