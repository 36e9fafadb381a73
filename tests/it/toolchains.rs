//! Larger work of real programs: a repository of 3,000 files, mirrors, packages, a database that is cut off.

use std::process::{Command, Stdio};

use crate::fuse_or_skip;
use crate::shell_life::{pair, program_or_skip};
use crate::support::tree::agree;
use crate::support::{Mount, TestServer, shell, wait_for};

/// What `git` needs to work the same everywhere.
const GIT: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent \
                   GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.dev GIT_COMMITTER_NAME=a \
                   GIT_COMMITTER_EMAIL=a@example.dev; ";

/// A repository of 3,000 files is made, cloned, packed, checked, worked on in a second tree, and rebased.
#[test]
fn a_repository_of_3000_files_is_worked_on() {
    fuse_or_skip!();
    program_or_skip!("git");
    let server = TestServer::new();
    let a = Mount::of(&server);
    let git = |script: &str| shell(&a.path(), &format!("{GIT}{script}"));
    git("git init -q -b main repo; cd repo
         for d in $(seq 30); do mkdir d$d; for f in $(seq 100); do echo $d $f > d$d/f$f; done; done
         git add .; git commit -qm all");
    git("git clone -q repo clone; cd clone; git gc -q; git fsck --full --strict");
    git("cd clone; git worktree add -q ../tree -b side HEAD; cd ../tree
         for n in 1 2 3; do echo side $n > d1/f$n; git commit -qam side$n; done");
    git("cd clone; echo main > d30/f100; git commit -qam main; cd ../tree; git rebase -q main");
    assert_eq!(git("cd tree; git log --format=%s -5"), "side3\nside2\nside1\nmain\nall\n");
    for folder in ["repo", "clone", "tree"] {
        assert_eq!(
            git(&format!("cd {folder}; git status --porcelain; git ls-files | wc -l")),
            "3000\n"
        );
    }
    git("cd clone; git fsck --full --strict");
    a.flush();
    let files = server.files();
    assert!(files.keys().all(|path| !path.contains("/.git/")));
    // Each tree's `.git` stays here; that of the second one is a file.
    assert_eq!(files.keys().filter(|path| !path.ends_with("/.git")).count(), 9_000);
}

/// Mirrored a second time, nothing is moved: sizes and times are those that were set.
#[test]
fn a_second_rsync_moves_nothing() {
    fuse_or_skip!();
    program_or_skip!("rsync");
    let (server, a, b) = pair();
    let outside = tempfile::tempdir().unwrap();
    shell(
        outside.path(),
        "mkdir -p s/d; for i in $(seq 200); do head -c $((i * 997)) /dev/zero > s/d/$i; done
         chmod 750 s/d/1; ln -s d/1 s/l; touch -d '2001-02-03 04:05:06.7' s/d/2",
    );
    let from = outside.path().display();
    let moved = |to: &Mount| {
        let stats = shell(&to.path(), &format!("rsync -a --stats {from}/s/ mirror/"));
        let line = stats.lines().find(|line| line.contains("regular files transferred")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(moved(&a), "200");
    assert_eq!(moved(&a), "0");
    agree(&server, &a, &b);
    assert_eq!(moved(&a), "0");
    // The other mount was told the times, too.
    assert_eq!(moved(&b), "0");
}

/// `npm` packs a package and installs it into another one.
#[test]
fn npm_installs_a_package() {
    fuse_or_skip!();
    program_or_skip!("npm");
    let (server, a, b) = pair();
    shell(&a.path(), "echo node_modules/ > .mountignore; mkdir dep app");
    let package = r#"{"name":"NAME","version":"1.0.0","main":"index.js"}"#;
    for name in ["dep", "app"] {
        std::fs::write(a.at(name).join("package.json"), package.replace("NAME", name)).unwrap();
    }
    std::fs::write(a.at("dep/index.js"), "module.exports = 6 * 7\n").unwrap();
    std::fs::write(a.at("app/index.js"), "console.log(require('dep'))\n").unwrap();
    let home = a.outside().display().to_string();
    let npm = format!("export HOME={home} npm_config_cache={home}/npm npm_config_offline=true; ");
    shell(&a.at("dep"), &format!("{npm} npm pack --silent"));
    let install = "npm install --silent --no-audit --no-fund ../dep/dep-1.0.0.tgz; node index.js";
    assert_eq!(shell(&a.at("app"), &format!("{npm} {install}")).trim(), "42");
    a.flush();
    assert!(server.files().keys().all(|path| !path.contains("node_modules")));
    wait_for("the package at the other mount", || b.at("dep/dep-1.0.0.tgz").exists().then_some(()));
}

/// A database whose daemon is killed in the middle of a transaction is whole, with every transaction that
/// had been committed.
#[test]
fn sqlite_is_whole_after_a_kill() {
    fuse_or_skip!();
    program_or_skip!("python3");
    const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect('db', isolation_level=None)
db.execute('pragma journal_mode=' + sys.argv[1])
db.execute('create table t(n integer primary key, x blob)')
for n in range(100000):
    db.execute('begin')
    db.execute('insert into t values (?, randomblob(3000))', (n,))
    db.execute('commit')
    print(n, flush=True)
";
    for mode in ["wal", "delete"] {
        let server = TestServer::new();
        let mut a = Mount::of(&server);
        let log = a.outside().join("committed");
        let mut child = Command::new("python3")
            .args(["-c", WRITER, mode])
            .current_dir(a.path())
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let committed = || std::fs::read_to_string(&log).unwrap().lines().count();
        wait_for("some transactions", || (committed() >= 30).then_some(()));
        a.kill9();
        drop(child.kill());
        child.wait().unwrap();
        let committed = committed();
        a.start();
        let check = "import sqlite3
db = sqlite3.connect('db')
print(db.execute('pragma integrity_check').fetchone()[0], db.execute('select count(*) from t').fetchone()[0])";
        let found = shell(&a.path(), &format!("python3 -c \"{check}\""));
        let (whole, count) = found.trim().split_once(' ').unwrap();
        assert_eq!(whole, "ok", "{mode}");
        let count: usize = count.parse().unwrap();
        assert!(count >= committed, "{mode}: {count} of {committed}");
        a.flush();
    }
}
