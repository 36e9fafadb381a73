//! Real programs and real input: version control, a build, a database, and the sources of released
//! crates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fuse_or_skip;
use crate::shell_life::{events, pair, program_or_skip};
use crate::support::tree::{Entry, Tree, agree, bytes_of, difference, shows, summaries, tree};
use crate::support::{Mount, TestServer, shell};

/// What `git` needs to work the same everywhere.
const GIT: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent \
                   GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.dev GIT_COMMITTER_NAME=a \
                   GIT_COMMITTER_EMAIL=a@example.dev; ";

fn git(folder: &Path, script: &str) -> String {
    shell(folder, &format!("{GIT}{script}"))
}

/// A repository lives on the mount: its history stays here, its files are sent, and it is intact
/// after a crash.
#[test]
fn git_works_and_its_history_stays_here() {
    fuse_or_skip!();
    program_or_skip!("git");
    let (server, mut a, b) = pair();
    git(
        &a.path(),
        "git init -q -b main repo; cd repo; mkdir src; echo one > src/one; echo r > README",
    );
    git(&a.at("repo"), "chmod +x src/one; ln -s src/one link; git add .; git commit -qm first");
    git(
        &a.at("repo"),
        "for i in $(seq 30); do echo $i > src/$i; git add .; git commit -qm $i; done",
    );
    git(
        &a.at("repo"),
        "git checkout -qb side HEAD~10; echo side > side; git add side; git commit -qm s",
    );
    git(
        &a.at("repo"),
        "git checkout -q main; git merge -q side -m merged; git mv README README.md",
    );
    git(&a.at("repo"), "git commit -qam moved; git gc -q; git fsck --full --strict");
    assert_eq!(git(&a.at("repo"), "git status --porcelain; git rev-list --count HEAD"), "34\n");
    a.kill9();
    a.start();
    git(&a.at("repo"), "git fsck --full --strict");
    assert_eq!(git(&a.at("repo"), "git status --porcelain; git rev-list --count HEAD"), "34\n");
    a.flush();
    let files = server.files();
    assert!(files.keys().all(|path| !path.contains("/.git")), "{:?}", files.keys());
    assert!(events(&server).iter().all(|(_, path)| !path.contains("/.git")));
    let mut work = tree(&a.path()).unwrap();
    work.retain(|path, _| !path.contains("/.git"));
    shows(&b, &work);
}

/// Clones go out of the mount, into it, and from one folder of it to another.
#[test]
fn git_clones_in_every_direction() {
    fuse_or_skip!();
    program_or_skip!("git");
    let (server, a, b) = pair();
    let out = tempfile::tempdir().unwrap();
    let mount = a.path();
    let (out, here) = (out.path(), mount.display());
    git(&mount, "git init -q -b main repo; cd repo; for i in $(seq 50); do echo $i > f$i; done");
    git(&a.at("repo"), "head -c 200000 /dev/urandom > big; git add .; git commit -qm all");
    git(out, &format!("git clone -q {here}/repo outside; git -C outside fsck --full --strict"));
    git(&mount, &format!("git clone -q {}/outside back; git -C back fsck --full", out.display()));
    git(&mount, "git clone -q repo beside; git -C beside fsck --full; git -C beside status");
    git(
        &mount,
        "cd beside; echo more > more; git add more; git commit -qm more; cd ..; \
                 git -C repo pull -q ../beside main; git -C repo fsck --full",
    );
    git(
        &mount,
        &format!("git clone -q --bare {}/outside bare.git; git -C bare.git fsck", out.display()),
    );
    for clone in ["back", "beside", "repo"] {
        assert_eq!(git(&a.at(clone), "git status --porcelain"), "", "{clone}");
        assert!(a.at(clone).join("big").exists());
    }
    a.flush();
    let mut work = tree(&mount).unwrap();
    work.retain(|path, _| !path.contains("/.git"));
    shows(&b, &work);
    let sent = summaries(&server.files());
    let difference = difference(&summaries(&bytes_of(&work)), &sent);
    assert!(difference.is_empty(), "{difference:#?}");
    // The bare repository is an ordinary folder, and whole at the other side.
    git(&b.path(), "git -C bare.git fsck --full --strict");
}

/// A virtual environment is made on the mount and works.
#[test]
fn python_makes_a_virtual_environment() {
    fuse_or_skip!();
    program_or_skip!("python3");
    let (server, a, b) = pair();
    // Without pip: what matters is the folder that `venv` lays out, not what it downloads.
    shell(&a.path(), "python3 -m venv --without-pip env; echo 'print(6 * 7)' > main.py");
    assert_eq!(shell(&a.path(), "env/bin/python main.py"), "42\n");
    let ours = agree(&server, &a, &b);
    assert!(ours.contains_key("/env/pyvenv.cfg"));
    assert!(matches!(ours["/env/bin/python3"], Entry::Symlink(_)));
    assert_eq!(shell(&b.path(), "env/bin/python main.py"), "42\n");
    // Byte code is written beside the sources.
    shell(
        &a.path(),
        "unset PYTHONDONTWRITEBYTECODE; mkdir pkg; echo 'x = 1' > pkg/__init__.py; \
         env/bin/python -c 'import pkg'",
    );
    let ours = agree(&server, &a, &b);
    assert!(ours.keys().any(|path| path.starts_with("/pkg/__pycache__/")));
}

/// A crate is built on the mount with its `target` folder kept here; a second build has nothing
/// to do.
#[test]
fn cargo_builds_with_a_local_target_folder() {
    fuse_or_skip!();
    program_or_skip!("cargo");
    let (server, a, b) = pair();
    shell(&a.path(), "echo target/ > .mountignore; mkdir -p app/src");
    shell(
        &a.path(),
        "printf '[package]\\nname = \"app\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n\\n\
         [workspace]\\n' > app/Cargo.toml",
    );
    shell(
        &a.path(),
        "echo 'mod part; fn main() { println!(\"{}\", part::answer()) }' > app/src/main.rs",
    );
    shell(&a.path(), "echo 'pub fn answer() -> u32 { 42 }' > app/src/part.rs");
    let cargo = |what: &str| {
        let clean = "unset CARGO_TARGET_DIR RUSTFLAGS CARGO_BUILD_TARGET CARGO_MANIFEST_DIR";
        shell(&a.at("app"), &format!("{clean}; cargo {what} --offline 2>&1"))
    };
    assert!(cargo("run -q").contains("42"));
    let again = cargo("build -v");
    assert!(again.contains("Fresh app"), "{again}");
    shell(&a.path(), "echo 'pub fn answer() -> u32 { 43 }' > app/src/part.rs");
    assert!(cargo("run -q").contains("43"));
    a.flush();
    let files: Vec<String> = server.files().into_keys().collect();
    let expected = [
        "/.mountignore",
        "/app/Cargo.lock",
        "/app/Cargo.toml",
        "/app/src/main.rs",
        "/app/src/part.rs",
    ];
    assert_eq!(files, expected);
    assert!(events(&server).iter().all(|(_, path)| !path.contains("target")));
    let mut sent = tree(&a.path()).unwrap();
    sent.retain(|path, _| !path.starts_with("/app/target"));
    shows(&b, &sent);
}

/// Works on a database in two processes at once, then prints what it holds.
const DATABASE: &str = r#"
import multiprocessing, os, sqlite3, sys
mode = sys.argv[1]
name = mode + ".db"
def connect():
    db = sqlite3.connect(name, timeout=60, isolation_level=None)
    assert db.execute("pragma journal_mode=" + mode).fetchone()[0] == mode
    return db
def work(who):
    db = connect()
    for i in range(60):
        db.execute("begin immediate")
        db.execute("insert into t values (?, ?, ?)", (who, i, os.urandom(300)))
        db.execute("update c set n = n + 1")
        db.execute("rollback" if i % 10 == 9 else "commit")
    db.close()
if __name__ == "__main__":
    db = connect()
    db.execute("create table t (who, i, bytes)")
    db.execute("create table c (n)")
    db.execute("insert into c values (0)")
    workers = [multiprocessing.Process(target=work, args=(who,)) for who in range(2)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert all(w.exitcode == 0 for w in workers)
    db.execute("delete from t where i % 3 = 0")
    db.execute("vacuum")
    print(*db.execute("pragma integrity_check").fetchone(),
          *db.execute("select n from c").fetchone(),
          *db.execute("select count(*) from t").fetchone())
"#;

/// A database in either journal mode keeps its promises on the mount: two writers at once, a crash
/// of the daemon afterwards, and the same bytes everywhere.
#[test]
fn sqlite_works_in_both_journal_modes() {
    fuse_or_skip!();
    program_or_skip!("python3");
    let (server, mut a, b) = pair();
    let check = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                 print(*db.execute('pragma integrity_check').fetchone(), \
                 *db.execute('select count(*) from t').fetchone())";
    std::fs::write(a.outside().join("work.py"), DATABASE).unwrap();
    for mode in ["delete", "wal"] {
        let work = format!("python3 {}/work.py {mode}", a.outside().display());
        // 54 of 60 are kept by each of two writers; each keeps 36 of those after the deletion.
        assert_eq!(shell(&a.path(), &work), "ok 108 72\n", "{mode}");
    }
    a.kill9();
    a.start();
    for mode in ["delete", "wal"] {
        let look = format!("python3 -c \"{check}\" {mode}.db");
        assert_eq!(shell(&a.path(), &look), "ok 72\n", "{mode}");
    }
    let ours = agree(&server, &a, &b);
    assert!(ours.keys().all(|path| !path.ends_with("-journal")), "{:?}", ours.keys());
    for mode in ["delete", "wal"] {
        let look = format!("python3 -c \"{check}\" {mode}.db");
        assert_eq!(shell(&b.path(), &look), "ok 72\n", "{mode}");
    }
}

/// Sources of released crates from this machine's registry, one folder each, until they hold at
/// least `files` files; none of their entries is left out.
fn released_sources(files: usize) -> Option<(Vec<PathBuf>, usize)> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut crates: Vec<(usize, PathBuf)> = Vec::new();
    for registry in std::fs::read_dir(home.join("registry/src")).ok()?.flatten() {
        for source in std::fs::read_dir(registry.path()).ok()?.flatten() {
            let count =
                Command::new("find").arg(source.path()).args(["-type", "f"]).output().ok()?;
            let count = count.stdout.iter().filter(|byte| **byte == b'\n').count();
            crates.push((count, source.path()));
        }
    }
    // Few crates of a middling size: deep enough to be real, small enough to be quick.
    crates.retain(|(count, _)| *count <= files);
    crates.sort();
    let (mut chosen, mut total) = (Vec::new(), 0);
    while total < files {
        let (count, source) = crates.pop()?;
        if total + count <= files + files / 5 {
            total += count;
            chosen.push(source);
        }
    }
    Some((chosen, total))
}

/// Copies the sources of released crates into the mount with `script` and compares every byte
/// through a second mount, a mount that comes later, and the server.
fn sources_go_in(script: &str) {
    let Some((sources, total)) = released_sources(1000) else {
        eprintln!("SKIPPED {}: no 1,000 files of released crates here", module_path!());
        return;
    };
    assert!(total >= 1000);
    let mut expected = Tree::new();
    let outside = tempfile::tempdir().unwrap();
    for source in &sources {
        let name = source.file_name().unwrap().to_str().unwrap();
        expected.insert(format!("/{name}"), Entry::Dir);
        let below = tree(source).unwrap();
        expected.extend(below.into_iter().map(|(path, entry)| (format!("/{name}{path}"), entry)));
    }
    let (server, a, b) = pair();
    for source in &sources {
        let (parent, name) = (source.parent().unwrap(), source.file_name().unwrap());
        let variables = format!(
            "FROM={} NAME={} OUTSIDE={}",
            parent.display(),
            name.to_str().unwrap(),
            outside.path().display()
        );
        shell(&a.path(), &format!("{variables}; {script}"));
    }
    let ours = agree(&server, &a, &b);
    let shown = |tree: &Tree| -> BTreeMap<String, String> {
        tree.iter().map(|(path, entry)| (path.clone(), format!("{entry:?}"))).collect()
    };
    let difference = difference(&shown(&expected), &shown(&ours));
    assert!(difference.is_empty(), "outside (left) and on the mount: {difference:#?}");
    assert!(server.files() == bytes_of(&expected));
    shows(&Mount::of(&server), &expected);
    // And out again, at the other side.
    let out = tempfile::tempdir().unwrap();
    shell(&b.path(), &format!("cp -a . {}/out", out.path().display()));
    assert!(tree(&out.path().join("out")).unwrap() == expected);
}

/// Two released crates' worth of sources, copied in, are the same everywhere.
#[test]
fn released_sources_copied_in_are_the_same_everywhere() {
    fuse_or_skip!();
    sources_go_in("cp -a $FROM/$NAME .");
}

/// The same, unpacked from an archive.
#[test]
fn released_sources_unpacked_are_the_same_everywhere() {
    fuse_or_skip!();
    program_or_skip!("tar");
    sources_go_in("tar -C $FROM -cf $OUTSIDE/$NAME.tar $NAME; tar xpf $OUTSIDE/$NAME.tar");
}

/// The same over the original protocol, which knows neither modes nor links.
#[test]
fn released_sources_travel_over_the_original_protocol() {
    fuse_or_skip!();
    let Some((sources, _)) = released_sources(1000) else {
        eprintln!("SKIPPED {}: no 1,000 files of released crates here", module_path!());
        return;
    };
    let server = TestServer::builder().original().start();
    let (a, b) = (Mount::of(&server), Mount::of(&server));
    for source in &sources {
        shell(&a.path(), &format!("cp -a {} .", source.display()));
    }
    a.flush();
    let ours = tree(&a.path()).unwrap();
    let sent = difference(&summaries(&bytes_of(&ours)), &summaries(&server.files()));
    assert!(sent.is_empty(), "the mount (left) and the server: {sent:#?}");
    // Modes and empty folders stay where they were made.
    let mut plain: Tree = ours;
    for entry in plain.values_mut() {
        if let Entry::File(mode, _) = entry {
            *mode = 0o644;
        }
    }
    shows(&b, &plain);
}
