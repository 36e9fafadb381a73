//! What hangs on a file beside its bytes: extended attributes, times, modes, owners.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::fuse_or_skip;
use crate::shell_life::{pair, program_or_skip};
use crate::support::tree::agree;
use crate::support::{Mount, TestServer, shell, skip, wait_for};

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 100_000];
    let len = getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn text(path: &Path, name: &str) -> String {
    String::from_utf8(get(path, name).unwrap_or_else(|error| panic!("{name}: {error}"))).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 100_000];
    let len = listxattr(path, &mut list[..]).unwrap();
    let text = String::from_utf8(list[..len].to_vec()).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// `user.*` attributes of files and folders are kept over changes from both sides, renames and kills,
/// go with the file, and are nobody else's.
#[test]
fn user_attributes_are_kept_with_the_file() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    std::fs::write(a.at("file"), "one").unwrap();
    std::fs::create_dir(a.at("folder")).unwrap();
    for name in ["file", "folder"] {
        set(&a.at(name), "user.colour", b"green").unwrap();
        set(&a.at(name), "user.empty", b"").unwrap();
        set(&a.at(name), "user.bytes", &[0, 255, 10]).unwrap();
        set(&a.at(name), "user.gone", b"x").unwrap();
        removexattr(a.at(name), "user.gone").unwrap();
    }
    agree(&server, &a, &b);
    std::fs::write(a.at("file"), "two").unwrap();
    agree(&server, &a, &b);
    std::fs::write(b.at("file"), "three").unwrap();
    wait_for("their content", || {
        std::fs::read_to_string(a.at("file")).is_ok_and(|text| text == "three").then_some(())
    });
    std::fs::rename(a.at("file"), a.at("folder/moved")).unwrap();
    // One that is open and not closed yet has them, too.
    let unsealed = std::fs::File::create(a.at("unsealed")).unwrap();
    set(&a.at("unsealed"), "user.early", b"yes").unwrap();
    drop(unsealed);
    a.kill9();
    a.start();
    assert_eq!(text(&a.at("unsealed"), "user.early"), "yes");
    for name in ["folder/moved", "folder"] {
        assert_eq!(names(&a.at(name)), ["user.bytes", "user.colour", "user.empty"]);
        assert_eq!(get(&a.at(name), "user.colour").unwrap(), b"green");
        assert_eq!(get(&a.at(name), "user.empty").unwrap(), b"");
        assert_eq!(get(&a.at(name), "user.bytes").unwrap(), [0, 255, 10]);
    }
    agree(&server, &a, &b);
    assert!(names(&b.at("folder/moved")).is_empty());
    // Another file of that name has none of them.
    std::fs::remove_file(a.at("folder/moved")).unwrap();
    std::fs::write(a.at("folder/moved"), "new").unwrap();
    assert!(names(&a.at("folder/moved")).is_empty());
    // What has no name keeps them for who has it open.
    set(&a.at("folder/moved"), "user.last", b"1").unwrap();
    let open = std::fs::File::open(a.at("folder/moved")).unwrap();
    std::fs::remove_file(a.at("folder/moved")).unwrap();
    let mut value = [0; 1];
    assert_eq!(rustix::fs::fgetxattr(&open, "user.last", &mut value[..]), Ok(1));
}

/// Each wrong request has its errno, and changes nothing.
#[test]
fn attributes_have_their_limits() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    let file = a.at("file");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(get(&file, "user.none"), Err(Errno::NODATA));
    assert_eq!(removexattr(&file, "user.none"), Err(Errno::NODATA));
    assert_eq!(setxattr(&file, "user.a", b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    setxattr(&file, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(setxattr(&file, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    setxattr(&file, "user.a", b"22", XattrFlags::REPLACE).unwrap();
    // A buffer that is too small.
    assert_eq!(getxattr(&file, "user.a", &mut [0_u8; 1][..]), Err(Errno::RANGE));
    assert_eq!(listxattr(&file, &mut [0_u8; 3][..]), Err(Errno::RANGE));
    // Values and names that Linux has no room for, and more than a file may have.
    set(&file, "user.large", &vec![7; 65_536]).unwrap();
    assert_eq!(set(&file, "user.larger", &vec![7; 65_537]), Err(Errno::TOOBIG));
    assert_eq!(set(&file, "user.second", &vec![7; 65_536]), Err(Errno::NOSPC));
    assert_eq!(set(&file, &format!("user.{}", "n".repeat(251)), b""), Err(Errno::RANGE));
    set(&file, &format!("user.{}", "n".repeat(250)), b"").unwrap();
    assert_eq!(get(&file, "user.large").unwrap().len(), 65_536);
    // What belongs to the kernel's modules: none is set, none can be.
    assert_eq!(get(&file, "security.selinux"), Err(Errno::NODATA));
    assert_eq!(set(&file, "security.mountd", b"1"), Err(Errno::OPNOTSUPP));
    assert_eq!(set(&file, "trusted.mountd", b"1"), Err(Errno::OPNOTSUPP));
    assert!(matches!(set(&file, "system.mountd", b"1"), Err(Errno::OPNOTSUPP)));
    assert_eq!(set(&file, "user.mountd.state", b"1"), Err(Errno::PERM));
    assert_eq!(removexattr(&file, "user.mountd.state"), Err(Errno::PERM));
    assert_eq!(get(&file, "user.mountd.nonsense"), Err(Errno::NODATA));
    assert_eq!(names(&file).len(), 3);
    // Programs that copy whatever there is are content.
    shell(&a.path(), "cp -a file copy; ls -lZ file 2> /dev/null; ls -l copy");
    assert_eq!(names(&a.at("copy")).len(), 3);
}

/// What mountd knows of a file can be asked for like an attribute, and is never listed.
#[test]
fn mountd_tells_about_a_file() {
    fuse_or_skip!();
    let (server, a, _b) = pair();
    let file = a.at("file");
    a.ctl(&["pause"]);
    std::fs::write(&file, "x").unwrap();
    assert_eq!(text(&file, "user.mountd.state"), "pending");
    assert_eq!(text(&file, "user.mountd.path"), "/file");
    assert_eq!(get(&file, "user.mountd.revision"), Err(Errno::NODATA));
    let id = text(&file, "user.mountd.id");
    let shown = a.ctl(&["outbox", "show", &id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("/file"), "{id}: {shown:?}");
    a.ctl(&["resume"]);
    a.flush();
    assert_eq!(text(&file, "user.mountd.state"), "synced");
    assert_eq!(text(&file, "user.mountd.here"), "yes");
    assert_eq!(text(&file, "user.mountd.revision"), server.get("/file").unwrap().1);
    assert_eq!(get(&file, "user.mountd.id"), Err(Errno::NODATA));
    assert!(names(&file).is_empty());
    std::fs::create_dir(a.at(".git")).unwrap();
    std::fs::write(a.at(".git/HEAD"), "x").unwrap();
    assert_eq!(text(&a.at(".git/HEAD"), "user.mountd.state"), "local-only");
    // A conflict names its copy.
    a.ctl(&["pause"]);
    std::fs::write(&file, [0, 1, 2]).unwrap();
    server.put("/file", &[3, 4, 5]);
    a.ctl(&["resume"]);
    let id = wait_for("the conflict", || get(&file, "user.mountd.conflict").ok());
    let id = String::from_utf8(id).unwrap();
    let listed = a.ctl(&["conflicts"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id), "{id}: {listed:?}");
}

/// `atime` moves as with `relatime`: by the first look after a change. `mtime` and `ctime` move with
/// changes, and with nothing else.
#[test]
fn times_move_as_they_should() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    let file = a.at("file");
    let times = |path: &Path| {
        let meta = std::fs::metadata(path).unwrap();
        let at = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        (
            at(meta.atime(), meta.atime_nsec()),
            at(meta.mtime(), meta.mtime_nsec()),
            at(meta.ctime(), meta.ctime_nsec()),
        )
    };
    std::fs::write(&file, "one").unwrap();
    let made = times(&file);
    // The kernel may show what it knows for a second.
    let moved = |what: &str, is: &dyn Fn((i128, i128, i128)) -> bool| {
        wait_for(what, || Some(times(&file)).filter(|times| is(*times)))
    };
    std::fs::read(&file).unwrap();
    let read = moved("atime moves with the first look", &|(atime, ..)| atime > made.0);
    assert_eq!((read.1, read.2), (made.1, made.2));
    std::fs::read(&file).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let changed = times(&file);
    assert!(changed.2 > read.2 && changed.1 == read.1, "ctime alone moves with the mode");
    assert_eq!(changed.0, read.0, "a second look does not count");
    std::fs::write(&file, "two").unwrap();
    let written = times(&file);
    assert!(written.1 > changed.1 && written.2 > changed.2, "both move with the content");
    a.flush();
    assert_eq!(times(&file).1, written.1, "sending changes no time");
    assert_eq!(times(&file).2, written.2, "sending changes no time");
    // Set times are kept, whatever is closed later.
    let open = std::fs::File::options().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut &open, b"!").unwrap();
    shell(&a.path(), "touch -d '2001-02-03 04:05:06.123456789 UTC' file");
    drop(open);
    let set = times(&file);
    assert_eq!(set.1, 981_173_106_123_456_789);
    agree(&server, &a, &b);
    a.kill9();
    a.start();
    let again = times(&file);
    assert_eq!((again.1, again.2), (set.1, set.2), "a kill changes no time");
    assert_eq!(times(&b.at("file")).1, set.1);
    // A folder's times move with its entries.
    std::fs::create_dir(a.at("folder")).unwrap();
    let before = times(&a.at("folder"));
    std::fs::write(a.at("folder/x"), "").unwrap();
    let after = times(&a.at("folder"));
    assert!(after.1 > before.1 && after.2 > before.2);
}

/// A number means one entry, over renames and restarts, and never another one.
#[test]
fn inode_numbers_are_stable_and_never_used_again() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    shell(&a.path(), "mkdir d; echo x > d/f; ln -s f d/l; mkfifo d/p");
    server.put("/d/theirs", b"x");
    wait_for("theirs", || a.at("d/theirs").exists().then_some(()));
    let inos = |names: &[&str]| -> Vec<u64> {
        names.iter().map(|name| std::fs::symlink_metadata(a.at(name)).unwrap().ino()).collect()
    };
    let before = inos(&["d", "d/f", "d/l", "d/p", "d/theirs"]);
    shell(&a.path(), "mv d e");
    b.wait_synced();
    a.flush();
    a.kill9();
    a.start();
    let inos = |names: &[&str]| -> Vec<u64> {
        names.iter().map(|name| std::fs::symlink_metadata(a.at(name)).unwrap().ino()).collect()
    };
    assert_eq!(inos(&["e", "e/f", "e/l", "e/p", "e/theirs"]), before);
    // What `readdir` says is what `stat` says.
    for entry in std::fs::read_dir(a.at("e")).unwrap() {
        let entry = entry.unwrap();
        let ino = std::os::unix::fs::DirEntryExt::ino(&entry);
        assert_eq!(ino, std::fs::symlink_metadata(entry.path()).unwrap().ino());
    }
    shell(&a.path(), "rm -r e; mkdir e; echo x > e/f; ln -s f e/l");
    assert!(inos(&["e", "e/f", "e/l"]).iter().all(|ino| !before.contains(ino)));
}

/// Group and bit of a folder are handed on, a sticky folder protects names, bits that let others run a
/// file as its owner go with a change, and the permission bits hold for other users.
#[test]
fn modes_hold_for_other_users() {
    fuse_or_skip!();
    program_or_skip!("setpriv");
    if !nix::unistd::geteuid().is_root() {
        return skip("attributes: other users need root");
    }
    let server = TestServer::new();
    let mut a = Mount::builder(&server.source()).args(&["--allow-other"]).start();
    std::fs::set_permissions(a.outside(), Permissions::from_mode(0o755)).unwrap();
    let other = |uid: u32, script: &str| {
        std::process::Command::new("setpriv")
            .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "sh"])
            .args(["-c", script])
            .current_dir(a.path())
            .output()
            .unwrap()
            .status
            .success()
    };
    let mode = |name: &str| std::fs::symlink_metadata(a.at(name)).unwrap().mode() & 0o7777;
    // setgid
    std::fs::create_dir(a.at("team")).unwrap();
    chown(a.at("team"), None, Some(4242)).unwrap();
    std::fs::set_permissions(a.at("team"), Permissions::from_mode(0o2777)).unwrap();
    shell(&a.at("team"), "umask 022; echo x > f; mkdir d; mknod p p; ln -s f l");
    for name in ["team/f", "team/d", "team/p", "team/l"] {
        assert_eq!(std::fs::symlink_metadata(a.at(name)).unwrap().gid(), 4242, "{name}");
    }
    assert_eq!((mode("team/f"), mode("team/d")), (0o644, 0o2755));
    // sticky
    std::fs::create_dir(a.at("tmp")).unwrap();
    std::fs::set_permissions(a.at("tmp"), Permissions::from_mode(0o1777)).unwrap();
    assert!(other(1111, "umask 077; echo secret > tmp/mine"));
    assert!(!other(2222, "cat tmp/mine"), "private");
    assert!(!other(2222, "rm -f tmp/mine"), "sticky");
    assert!(!other(2222, "mv tmp/mine tmp/theirs"), "sticky");
    assert!(other(1111, "test $(cat tmp/mine) = secret && mv tmp/mine tmp/moved"));
    let meta = std::fs::metadata(a.at("tmp/moved")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1111, 1111, 0o600));
    // A folder without the right to search.
    std::fs::create_dir(a.at("closed")).unwrap();
    std::fs::write(a.at("closed/f"), "x").unwrap();
    std::fs::set_permissions(a.at("closed"), Permissions::from_mode(0o700)).unwrap();
    assert!(!other(1111, "cat closed/f") && !other(1111, "ls closed"));
    assert!(!other(1111, "chmod 777 closed") && !other(1111, "echo x > f"));
    // setuid and setgid of files
    for (bits, how, left) in [
        (0o6777, "echo more >> tmp/run", 0o777),
        (0o6777, "truncate -s 1 tmp/run", 0o777),
        (0o6777, "echo anew > tmp/run", 0o777),
        (0o2767, "echo more >> tmp/run", 0o2767),
    ] {
        std::fs::write(a.at("tmp/run"), "x").unwrap();
        std::fs::set_permissions(a.at("tmp/run"), Permissions::from_mode(bits)).unwrap();
        assert!(other(1111, how), "{how}");
        let is = || (mode("tmp/run") == left).then_some(());
        wait_for(&format!("{how}: {bits:o} becomes {left:o}"), is);
    }
    std::fs::set_permissions(a.at("tmp/run"), Permissions::from_mode(0o6755)).unwrap();
    chown(a.at("tmp/run"), Some(1111), None).unwrap();
    assert_eq!(mode("tmp/run"), 0o755, "another owner");
    a.flush();
    a.kill9();
    a.start();
    let meta = std::fs::metadata(a.at("tmp/moved")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1111, 1111, 0o600));
    assert_eq!(std::fs::metadata(a.at("tmp")).unwrap().mode() & 0o7777, 0o1777);
}
