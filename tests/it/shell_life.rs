//! Everyday work in a shell: what programs do to files on the mount is what the server and a
//! second mount have afterwards.

mod calls;
mod local_only;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::fuse_or_skip;
use crate::support::observe::approve_all;
use crate::support::tree::{Entry, Tree, agree, shows, tree};
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

/// Skips the test, loudly, where a program is missing.
macro_rules! program_or_skip {
    ($program:literal) => {
        if !crate::shell_life::has_program($program) {
            let why = format!("{}: {} is not installed", module_path!(), $program);
            return crate::support::skip(&why);
        }
    };
}
pub(crate) use program_or_skip;

/// Whether a program can be found.
pub(crate) fn has_program(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|found| found.status.success())
}

/// A server with two mounts, both up to date.
pub(crate) fn pair() -> (TestServer, Mount, Mount) {
    let server = TestServer::new();
    let (a, b) = (Mount::of(&server), Mount::of(&server));
    a.wait_synced();
    b.wait_synced();
    (server, a, b)
}

/// The text of a file in a tree.
#[track_caller]
pub(crate) fn text<'a>(tree: &'a Tree, path: &str) -> &'a str {
    match tree.get(path) {
        Some(Entry::File(_, bytes)) => std::str::from_utf8(bytes).unwrap(),
        other => panic!("{path}: {other:?}"),
    }
}

/// The paths of a tree.
fn paths(tree: &Tree) -> Vec<&str> {
    tree.keys().map(String::as_str).collect()
}

/// The names of all files that ever were at the server, in the order of its events.
pub(crate) fn events(server: &TestServer) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let mut cursor = String::new();
    loop {
        let route = format!("/fs/events?direction=asc&limit=1000{cursor}");
        let (status, body) = server.request(reqwest::Method::GET, &route, &[], None);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let page = page["events"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        events.extend(page.iter().map(|event| (text(&event["type"]), text(&event["path"]))));
        match page.last() {
            Some(last) if page.len() == 1000 => {
                cursor = format!("&cursor={}", last["eventId"].as_str().unwrap());
            }
            _ => return events,
        }
    }
}

/// Redirections write, append and replace; `mv` replaces; `sed -i` and `touch` work as on a disk.
#[test]
fn redirections_moves_and_edits_in_place() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "echo old > f; echo old > target; echo longer than before > g; : > new");
    agree(&server, &a, &b);
    shell(&a.path(), "echo x > f; echo y >> f; echo g > g; mv f target; sed -i 's/x/z/' target");
    shell(&a.path(), "touch touched target; cat target | tee copy >/dev/null; : > g");
    let ours = agree(&server, &a, &b);
    assert_eq!(paths(&ours), ["/copy", "/g", "/new", "/target", "/touched"]);
    assert_eq!(text(&ours, "/target"), "z\ny\n");
    assert_eq!(text(&ours, "/copy"), "z\ny\n");
    assert_eq!((text(&ours, "/g"), text(&ours, "/touched")), ("", ""));
}

/// A script becomes executable, runs from the mount, and is executable in the other mount.
#[test]
fn a_script_can_be_made_executable_and_run() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let script = "printf '#!/bin/sh\\necho ran $1\\n' > run; ! ./run 2>/dev/null; chmod +x run";
    shell(&a.path(), script);
    assert_eq!(shell(&a.path(), "./run here"), "ran here\n");
    agree(&server, &a, &b);
    assert_eq!(shell(&b.path(), "./run there"), "ran there\n");
    // A program, not only a script: it is mapped, not read.
    shell(&a.path(), "cp \"$(type -P true)\" prog; ./prog");
    agree(&server, &a, &b);
    shell(&b.path(), "./prog");
}

/// A folder made in one go with what is in it arrives whole, and goes whole.
#[test]
fn deep_folders_appear_and_go_in_one_go() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "mkdir -p a/b/c && echo deep > a/b/c/f && mkdir -p a/empty/er");
    let ours = agree(&server, &a, &b);
    assert_eq!(paths(&ours), ["/a", "/a/b", "/a/b/c", "/a/b/c/f", "/a/empty", "/a/empty/er"]);
    shell(&a.path(), "rm -rf a; mkdir -p a/b && echo again > a/b/f");
    let ours = agree(&server, &a, &b);
    assert_eq!(paths(&ours), ["/a", "/a/b", "/a/b/f"]);
    shell(&a.path(), "rm -rf a");
    assert!(agree(&server, &a, &b).is_empty());
}

/// A tree with every kind of entry, outside of the mount.
const MAKE_TREE: &str = r"
    mkdir -p tree/src/deep/er tree/empty 'tree/with space'
    for i in $(seq 1 60); do echo content $i > tree/src/file$i; done
    printf '#!/bin/sh\n' > tree/run.sh; chmod 755 tree/run.sh
    printf private > tree/secret; chmod 600 tree/secret; chmod 444 tree/src/file7
    : > tree/src/deep/nothing; head -c 70000 /dev/urandom > tree/src/deep/er/binary
    ln -s src/file1 tree/link; ln -s ../file2 tree/src/deep/up; ln -s /nowhere/at/all tree/dangling
    ln -s src tree/folder-link; echo spaced > 'tree/with space/a file'
    touch -d '2001-02-03 04:05:06.789' tree/src/file3 tree/run.sh
    touch -h -d '2002-02-02 02:02:02' tree/link";

/// `cp -a`, `tar x` and `rsync -a` bring a tree in as it is: bytes, modes, times and links; and
/// `rsync` run again finds nothing to do, there and back.
#[test]
fn trees_are_copied_in_whole() {
    fuse_or_skip!();
    program_or_skip!("rsync");
    let (server, a, b) = pair();
    let outside = tempfile::tempdir().unwrap();
    shell(outside.path(), MAKE_TREE);
    shell(outside.path(), "tar --format=posix -cf tree.tar tree");
    let original = tree(&outside.path().join("tree")).unwrap();
    let (from, to) = (outside.path().display(), a.path());
    shell(&to, &format!("cp -a {from}/tree copied"));
    shell(&to, &format!("mkdir unpacked && tar xpf {from}/tree.tar -C unpacked"));
    shell(&to, &format!("rsync -a {from}/tree/ synced/"));
    agree(&server, &a, &b);
    for (mount, folder) in [&a, &b].into_iter().flat_map(|mount| {
        ["copied", "unpacked/tree", "synced"].into_iter().map(move |folder| (mount, folder))
    }) {
        assert!(tree(&mount.at(folder)).unwrap() == original, "{folder}");
        let time = |folder: &std::path::Path| {
            shell(folder, "stat -c '%n %y' run.sh src/file1 src/file3 src/deep/er/binary")
        };
        assert_eq!(time(&mount.at(folder)), time(&outside.path().join("tree")), "{folder}");
    }
    // Nothing is different, so nothing is sent again.
    let again = shell(&to, &format!("rsync -ai --omit-dir-times {from}/tree/ synced/"));
    assert_eq!(again, "");
    let back = shell(outside.path(), &format!("rsync -ai -O {}/synced/ tree/", to.display()));
    assert_eq!(back, "");
    // One changed file is one change.
    shell(outside.path(), "echo changed > tree/src/file9; rm tree/src/file10");
    let before = events(&server).len();
    shell(&to, &format!("rsync -aO --delete {from}/tree/ synced/"));
    let ours = agree(&server, &a, &b);
    assert_eq!(text(&ours, "/synced/src/file9"), "changed\n");
    assert!(!ours.contains_key("/synced/src/file10"));
    let files = events(&server).split_off(before);
    assert_eq!(files.len(), 2, "{files:?}");
}

/// An editor that keeps a backup, writes a new file and renames it over leaves the new text and the
/// backup; so does the real `vim`.
#[test]
fn editors_save_their_way() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "echo one > note");
    agree(&server, &a, &b);
    for text in ["two", "three", "four"] {
        let save = format!("cp -p note note~; echo {text} > .note.swp; mv .note.swp note");
        shell(&a.path(), &save);
    }
    let ours = agree(&server, &a, &b);
    assert_eq!(paths(&ours), ["/note", "/note~"]);
    assert_eq!((text(&ours, "/note"), text(&ours, "/note~")), ("four\n", "three\n"));
    program_or_skip!("vim");
    for options in ["", "backup", "nowritebackup", "backup backupcopy=yes"] {
        shell(&a.path(), "printf 'alpha\\nbeta\\n' > text; rm -f text~");
        agree(&server, &a, &b);
        let edit = "vim -es -u NONE -N -i NONE -c \"set backupskip= $OPTIONS\" \
                    -c '%s/beta/gamma/' -c wq text";
        shell(&a.path(), &format!("export OPTIONS='{options}'; {edit}"));
        let ours = agree(&server, &a, &b);
        assert_eq!(text(&ours, "/text"), "alpha\ngamma\n", "{options}");
        assert_eq!(
            ours.contains_key("/text~"),
            options.contains("backup") && !options.starts_with("no"),
            "{options}"
        );
        assert!(!ours.keys().any(|path| path.contains(".sw")), "{:?}", paths(&ours));
    }
}

/// A save over a temporary name is one change of the file: the temporary name is never at the
/// server, nor does the file disappear there for a moment.
#[test]
fn a_temporary_name_never_reaches_the_server() {
    fuse_or_skip!();
    let server = TestServer::new();
    // Long enough that a busy machine does not come between the write and the rename.
    let patient = ["--debounce", "1s", "--max-delay", "8s"];
    let a = Mount::builder(&server.source()).args(&patient).start();
    a.wait_synced();
    shell(&a.path(), "echo one > doc");
    a.flush();
    let before = events(&server).len();
    shell(&a.path(), "echo two > .doc.tmp; mv .doc.tmp doc");
    a.flush();
    shell(&a.path(), "echo big > big.part; head -c 300000 /dev/zero >> big.part; mv big.part big");
    a.flush();
    shell(&a.path(), "echo gone > .scratch; rm .scratch; mkdir d; rmdir d; echo three > doc");
    a.flush();
    let seen = events(&server).split_off(before);
    let expected = [("file.updated", "/doc"), ("file.created", "/big"), ("file.updated", "/doc")];
    let expected = expected.map(|(kind, path)| (kind.to_owned(), path.to_owned()));
    assert_eq!(seen, expected);
    assert_eq!(server.get("/doc").unwrap().0, b"three\n");
}

/// A folder of 1,500 files is listed completely, by every way of listing, in both mounts.
#[test]
fn a_folder_of_1500_files_is_listed_completely() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(
        &a.path(),
        "mkdir many; cd many; for i in $(seq 1500); do echo $i > file-number-$i; done",
    );
    agree(&server, &a, &b);
    let late = Mount::of(&server);
    late.wait_synced();
    for mount in [&a, &b, &late] {
        let count = "ls many | wc -l; ls -l many | grep -c file-; \
                     find many -type f | sort -u | wc -l; \
                     cat many/* | sort -n | uniq | wc -l";
        assert_eq!(shell(&mount.path(), count), "1500\n1500\n1500\n1500\n");
    }
    // Removing while listing neither skips nor repeats.
    shell(&a.path(), "rm -r many");
    // So many removals wait for a person, on either side.
    wait_for("the removals are approved", || {
        [&a, &b, &late].into_iter().for_each(approve_all);
        let gone = [&a, &b, &late].iter().all(|mount| !mount.at("many").exists());
        (gone && server.files().is_empty()).then_some(())
    });
    assert!(agree(&server, &a, &b).is_empty());
}

/// Permission bits, times, links and empty folders survive a restart, also one by kill.
#[test]
fn attributes_survive_a_restart() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    shell(&a.path(), "echo x > f; chmod 640 f; echo y > g; chmod 755 g; mkdir e d; chmod 750 d");
    shell(&a.path(), "touch -d '1999-12-31 23:59:58.123456789Z' f; ln -s f l; ln -s no/where n");
    let look = "stat -c '%n %a %Y %y' f g; stat -c '%n %a' d e; readlink l n";
    let before = shell(&a.path(), look);
    a.kill9();
    a.start();
    assert_eq!(shell(&a.path(), look), before);
    agree(&server, &a, &b);
    a.term();
    a.start();
    assert_eq!(shell(&a.path(), look), before);
    let files = "stat -c '%n %a %y' f g; readlink l n; ls";
    assert_eq!(shell(&b.path(), files), shell(&a.path(), files));
    shell(&a.path(), "cp -p f kept; chmod 600 f");
    agree(&server, &a, &b);
    assert_eq!(shell(&b.path(), "stat -c %y f; stat -c %y kept; stat -c %a f kept"), {
        let time = "1999-12-31 23:59:58.123456789 +0000\n";
        let zone = shell(&b.path(), "date +%z");
        assert_eq!(zone, "+0000\n", "the machine's clock is in UTC");
        format!("{time}{time}600\n640\n")
    });
}

/// An empty folder is seen by the other mount, and its end too.
#[test]
fn an_empty_folder_is_seen_by_the_other_mount() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "mkdir -p empty/inner");
    let ours = agree(&server, &a, &b);
    assert_eq!(paths(&ours), ["/empty", "/empty/inner"]);
    shell(&a.path(), "rmdir empty/inner");
    assert_eq!(paths(&agree(&server, &a, &b)), ["/empty"]);
    // A folder that lost its last file stays, as everywhere.
    shell(&b.path(), "echo x > empty/f");
    agree(&server, &b, &a);
    shell(&a.path(), "rm empty/f");
    assert_eq!(paths(&agree(&server, &a, &b)), ["/empty"]);
    shell(&b.path(), "rmdir empty");
    assert!(agree(&server, &b, &a).is_empty());
}

/// A file becomes a folder of the same name and a file again, links likewise; every mount follows.
#[test]
fn a_name_changes_its_kind() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "echo file > x");
    agree(&server, &a, &b);
    shell(&a.path(), "rm x; mkdir x; echo below > x/y; mkdir x/z");
    assert_eq!(paths(&agree(&server, &a, &b)), ["/x", "/x/y", "/x/z"]);
    shell(&a.path(), "rm -r x; echo again > x");
    assert_eq!(text(&agree(&server, &a, &b), "/x"), "again\n");
    shell(&a.path(), "rm x; ln -s elsewhere x");
    agree(&server, &a, &b);
    shell(&a.path(), "rm x; mkdir x");
    assert_eq!(paths(&agree(&server, &a, &b)), ["/x"]);
    shell(&a.path(), "rmdir x; echo last > x");
    assert_eq!(text(&agree(&server, &a, &b), "/x"), "last\n");
    // All at once, without time to send what is between.
    shell(
        &a.path(),
        "rm x; mkdir x; echo 1 > x/1; rm -r x; echo f > x; rm x; mkdir x; echo 2 > x/2",
    );
    assert_eq!(paths(&agree(&server, &a, &b)), ["/x", "/x/2"]);
}

/// Folders with all that is below them move; the server has the new names and none of the old.
#[test]
fn folders_move_with_everything_below() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(
        &a.path(),
        "mkdir -p old/sub/deep other; for i in 1 2 3 4 5; do echo $i > old/sub/$i; done",
    );
    shell(
        &a.path(),
        "head -c 200000 /dev/urandom > old/sub/deep/big; mkdir old/empty; ln -s sub/1 old/l",
    );
    let before = agree(&server, &a, &b);
    shell(&a.path(), "mv old new");
    let ours = agree(&server, &a, &b);
    let renamed: Tree = before
        .iter()
        .map(|(path, entry)| (path.replacen("/old", "/new", 1), entry.clone()))
        .collect();
    assert!(ours == renamed);
    assert!(!server.files().keys().any(|path| path.starts_with("/old")));
    // A move by the mount that never read the big file, then one before the first is sent.
    shell(&b.path(), "mv new other/newer; mv other moved");
    let ours = agree(&server, &b, &a);
    assert_eq!(ours["/moved/newer/sub/deep/big"], before["/old/sub/deep/big"]);
    assert_eq!(ours.len(), before.len());
    // Over an empty folder, and never over a full one.
    shell(&a.path(), "mkdir target; mv -T moved/newer target; mkdir full; echo x > full/x");
    shell(&a.path(), "! mv -T target full 2>/dev/null");
    let ours = agree(&server, &a, &b);
    assert!(ours.contains_key("/target/sub/5") && ours.contains_key("/full/x"));
}

/// `umask` decides over the mode of what is made, and other mounts and restarts agree.
#[test]
fn umask_is_honoured() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let made =
        "umask 022; echo > open; umask 077; echo > closed; umask 0; echo > all; umask 027; mkdir d";
    shell(&a.path(), made);
    let modes = "stat -c '%a %n' all closed open";
    let expected = "666 all\n600 closed\n644 open\n";
    assert_eq!(shell(&a.path(), modes), expected);
    agree(&server, &a, &b);
    wait_for("the modes in the other mount", || {
        (shell(&b.path(), modes) == expected).then_some(())
    });
    let mode = a.at("d").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    let mode = a.at("open").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

/// `df` tells the space of the disk that writers run out of first.
#[test]
fn df_is_sensible() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    shell(&a.path(), "df . >/dev/null; df -i . >/dev/null");
    let space = nix::sys::statvfs::statvfs(&a.path()).unwrap();
    let disk = nix::sys::statvfs::statvfs(&a.state()).unwrap();
    assert_eq!(space.name_max(), 255);
    assert_eq!(
        space.blocks() * space.fragment_size(),
        disk.blocks() * disk.fragment_size(),
        "the size of the disk"
    );
    assert!(space.blocks_available() > 0 && space.blocks_available() <= space.blocks());
    assert!(space.files_free() > 0);
}

/// A read-only mount shows everything, refuses every change with `EROFS` and sends nothing.
#[test]
fn a_read_only_mount_refuses_every_change() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/f", b"content");
    server.put("/d/g", &bytes(7, 100_000));
    let a = Mount::builder(&server.source()).args(&["--read-only"]).start();
    a.wait_synced();
    for change in [
        "echo x > f",
        "echo x >> f",
        "echo x > new",
        "rm f",
        "mkdir n",
        "rmdir d",
        "mv f g",
        "ln -s f l",
        "chmod 600 f",
        "touch f",
        "truncate -s 0 f",
        "touch -d 2001-01-01 f",
        "mkfifo p",
        "ln f hard",
    ] {
        let script = format!("! {{ {change}; }} 2> {}/error", a.outside().display());
        shell(&a.path(), &script);
        let error = std::fs::read_to_string(a.outside().join("error")).unwrap();
        assert!(error.contains("Read-only file system"), "{change}: {error}");
    }
    assert_eq!(shell(&a.path(), "cat f; ls; wc -c < d/g"), "contentd\nf\n100000\n");
    server.put("/f", b"changed elsewhere");
    wait_for("the change in the read-only mount", || {
        (std::fs::read(a.at("f")).unwrap() == b"changed elsewhere").then_some(())
    });
    assert_eq!(server.log().count("POST", "/fs/bulk"), 0);
    shows(&a, &tree(&a.path()).unwrap());
}
