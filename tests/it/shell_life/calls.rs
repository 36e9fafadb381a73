//! Single calls with exact promises: open files without a name, renames, appends, truncation.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{pair, text};
use crate::fuse_or_skip;
use crate::support::tree::{Entry, agree};
use crate::support::{Mount, TestServer, bytes, shell};

/// Sizes on both sides of the border between memory and disk.
const SIZES: [usize; 4] = [10, 65_536, 65_537, 300_000];

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn whole(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A file whose name was removed stays readable and writable for who has it open, and never comes
/// back under its name.
#[test]
fn an_open_file_outlives_its_name() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    for (at, size) in SIZES.into_iter().enumerate() {
        let content = bytes(at as u64, size);
        std::fs::write(a.at("sent"), &content).unwrap();
        agree(&server, &a, &b);
        let mut sent = read_write(&a.at("sent"));
        std::fs::write(a.at("fresh"), &content).unwrap();
        let mut fresh = read_write(&a.at("fresh"));
        for (name, file) in [("sent", &mut sent), ("fresh", &mut fresh)] {
            std::fs::remove_file(a.at(name)).unwrap();
            assert!(!a.at(name).exists());
            assert!(whole(file) == content, "{name} of {size} bytes after its removal");
            file.write_all_at(b"still here", 3).unwrap();
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"end").unwrap();
            file.sync_all().unwrap();
            let mut expected = content.clone();
            if expected.len() < 13 {
                expected.resize(13, 0);
            }
            expected[3..13].copy_from_slice(b"still here");
            expected.extend(b"end");
            assert!(whole(file) == expected, "{name} of {size} bytes, written after its removal");
            assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
            file.set_len(5).unwrap();
            assert_eq!(whole(file), expected[..5]);
        }
        // The name is free for another file meanwhile.
        std::fs::write(a.at("sent"), "other").unwrap();
        assert_eq!(whole(&mut sent).len(), 5);
        drop((sent, fresh));
        let ours = agree(&server, &a, &b);
        assert_eq!(text(&ours, "/sent"), "other");
        assert!(!ours.contains_key("/fresh"));
    }
}

/// A file that only the server has, opened here and then removed here, can still be read.
#[test]
fn an_open_file_that_was_never_read_outlives_its_name() {
    fuse_or_skip!();
    let server = TestServer::new();
    for size in SIZES {
        server.put(&format!("/f{size}"), &bytes(size as u64, size));
    }
    // Too much for one listing with all contents, so nothing of it is here yet.
    let big = bytes(99, 40 << 20);
    let (status, reply) = server.request(
        reqwest::Method::PUT,
        "/fs/raw?path=%2Fballast",
        &[("If-Match", "*")],
        Some(big),
    );
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&reply));
    let a = Mount::of(&server);
    a.wait_synced();
    for size in SIZES {
        let name = format!("f{size}");
        let mut removed = File::open(a.at(&name)).unwrap();
        std::fs::remove_file(a.at(&name)).unwrap();
        assert!(whole(&mut removed) == bytes(size as u64, size), "{size} bytes after removal");
    }
    a.flush();
    assert_eq!(server.files().keys().collect::<Vec<_>>(), ["/ballast"]);
}

/// A file keeps its writer through a rename, and through being renamed over keeps its reader.
#[test]
fn an_open_file_is_renamed() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    for (at, size) in SIZES.into_iter().enumerate() {
        let content = bytes(at as u64, size);
        std::fs::write(a.at("old"), &content).unwrap();
        std::fs::write(a.at("victim"), b"victim").unwrap();
        agree(&server, &a, &b);
        let mut file = read_write(&a.at("old"));
        let mut victim = File::open(a.at("victim")).unwrap();
        file.write_all(b"1").unwrap();
        std::fs::rename(a.at("old"), a.at("new")).unwrap();
        file.write_all(b"2").unwrap();
        std::fs::create_dir(a.at("folder")).unwrap();
        std::fs::rename(a.at("new"), a.at("folder/new")).unwrap();
        file.write_all(b"3").unwrap();
        std::fs::rename(a.at("folder"), a.at("moved")).unwrap();
        file.write_all(b"4").unwrap();
        std::fs::rename(a.at("moved/new"), a.at("victim")).unwrap();
        file.write_all(b"5").unwrap();
        let expected = [b"12345", &content[5..]].concat();
        assert!(std::fs::read(a.at("victim")).unwrap() == expected);
        assert_eq!(whole(&mut victim), b"victim");
        drop((file, victim));
        std::fs::remove_dir(a.at("moved")).unwrap();
        let ours = agree(&server, &a, &b);
        assert_eq!(ours.keys().collect::<Vec<_>>(), ["/victim"]);
        assert!(ours["/victim"] == Entry::File(0o644, expected), "{size}");
    }
}

/// `RENAME_NOREPLACE` never replaces; `RENAME_EXCHANGE` swaps files, folders and one of each.
#[test]
fn renameat2_keeps_its_promises() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    shell(&a.path(), "echo one > 1; echo two > 2; mkdir -p d/sub e; echo in > d/sub/f; ln -s 1 l");
    let before = agree(&server, &a, &b);
    let rename =
        |from: &str, to: &str, flags| renameat2(AT_FDCWD, &a.at(from), AT_FDCWD, &a.at(to), flags);
    let (keep, swap) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_EXCHANGE);
    for to in ["2", "d", "e", "l"] {
        assert_eq!(rename("1", to, keep), Err(Errno::EEXIST), "{to}");
    }
    assert_eq!(rename("d", "e", keep), Err(Errno::EEXIST));
    assert_eq!(rename("1", "none", swap), Err(Errno::ENOENT));
    assert_eq!(rename("d", "d/sub", swap), Err(Errno::EINVAL));
    assert!(agree(&server, &a, &b) == before);
    rename("1", "3", keep).unwrap();
    rename("3", "2", swap).unwrap();
    let ours = agree(&server, &a, &b);
    assert_eq!((text(&ours, "/2"), text(&ours, "/3")), ("one\n", "two\n"));
    rename("d", "e", swap).unwrap();
    let ours = agree(&server, &a, &b);
    assert_eq!((text(&ours, "/e/sub/f"), &ours["/d"]), ("in\n", &Entry::Dir));
    rename("e", "2", swap).unwrap();
    let ours = agree(&server, &a, &b);
    assert_eq!((text(&ours, "/2/sub/f"), text(&ours, "/e")), ("in\n", "one\n"));
    // The other mount, which may not have read any of it, swaps back.
    renameat2(AT_FDCWD, &b.at("e"), AT_FDCWD, &b.at("2"), swap).unwrap();
    renameat2(AT_FDCWD, &b.at("l"), AT_FDCWD, &b.at("3"), swap).unwrap();
    b.flush();
    eprintln!("EVENTS {:#?}", super::events(&server));
    eprintln!("BTREE {:?}", shell(&b.path(), "find ."));
    let ours = agree(&server, &b, &a);
    assert_eq!((text(&ours, "/e/sub/f"), text(&ours, "/l")), ("in\n", "two\n"));
    assert_eq!(ours["/3"], Entry::Symlink("1".to_owned()));
}

/// Several processes that append to one file lose no line and tear none, whether the file is small
/// or grows past the border to disk.
#[test]
fn appends_of_several_processes_are_all_there() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let append = "for p in 1 2 3 4; do (for i in $(seq 500); do echo \"process $p line $i \
                  $(printf %060d $i)\" >> log; done) & done; wait; \
                  wc -l < log; sort -u log | wc -l";
    // Each line through a descriptor of its own, then all through four that stay open.
    assert_eq!(shell(&a.path(), append), "2000\n2000\n");
    let append = "for p in 1 2 3 4; do (for i in $(seq 500); do echo \"process $p line $i\"; done \
                  >> open) & done; wait; sort -u open | wc -l";
    assert_eq!(shell(&a.path(), append), "2000\n");
    let ours = agree(&server, &a, &b);
    for name in ["/log", "/open"] {
        let lines = text(&ours, name).lines();
        assert!(lines.clone().all(|line| line.starts_with("process ")), "{name}");
        assert_eq!(lines.count(), 2000, "{name}");
    }
}

/// `O_TRUNC` empties, writing past the end leaves zeros, and a file may shrink and grow across the
/// border between memory and disk with every byte in its place.
#[test]
fn sizes_change_in_every_way() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let check = |model: &[u8], what: &str| {
        let shown = std::fs::read(a.at("f")).unwrap();
        assert!(shown == model, "{what}: {} bytes, expected {}", shown.len(), model.len());
        assert_eq!(a.at("f").metadata().unwrap().len(), model.len() as u64, "{what}");
    };
    let mut model = bytes(1, 1000);
    std::fs::write(a.at("f"), &model).unwrap();
    let sizes =
        [70_000, 65_536, 65_537, 100, 65_535, 65_536, 0, 131_072, 4096, 4097, 1 << 20, 3, 0, 1];
    for (at, size) in sizes.into_iter().enumerate() {
        let file = read_write(&a.at("f"));
        file.set_len(size as u64).unwrap();
        model.resize(size, 0);
        check(&model, &format!("set to {size}"));
        // Something in the middle and past the end, so that stale bytes would show.
        for (offset, len) in [(size / 2, 100), (size + 5000, 50)] {
            let patch = bytes(at as u64, len);
            file.write_all_at(&patch, offset as u64).unwrap();
            model.resize(model.len().max(offset + len), 0);
            model[offset..offset + len].copy_from_slice(&patch);
        }
        check(&model, &format!("written after set to {size}"));
        if at % 3 == 0 {
            drop(file);
            assert_eq!(agree(&server, &a, &b)["/f"], Entry::File(0o644, model.clone()));
        }
    }
    // By name, without a descriptor, and with O_TRUNC while another has it open.
    nix::unistd::truncate(&a.at("f"), 70_000).unwrap();
    model.resize(70_000, 0);
    check(&model, "truncate by name");
    let mut other = File::open(a.at("f")).unwrap();
    std::fs::write(a.at("f"), b"short").unwrap();
    assert_eq!(whole(&mut other), b"short");
    check(b"short", "O_TRUNC");
    let sparse = File::create(a.at("sparse")).unwrap();
    sparse.write_all_at(b"end", (3 << 20) - 3).unwrap();
    drop(sparse);
    let ours = agree(&server, &a, &b);
    let Entry::File(_, content) = &ours["/sparse"] else { panic!("{:?}", ours["/sparse"]) };
    assert_eq!(content.len(), 3 << 20);
    assert!(content.ends_with(b"\0end") && content[..(3 << 20) - 3].iter().all(|byte| *byte == 0));
}

/// Shrinking and growing a file that only the server has keeps the right bytes.
#[test]
fn a_file_that_was_never_read_is_truncated() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    for size in SIZES {
        server.put(&format!("/cut{size}"), &bytes(size as u64, size));
        server.put(&format!("/grown{size}"), &bytes(size as u64, size));
        server.put(&format!("/patched{size}"), &bytes(size as u64, size));
    }
    for name in ["cut", "grown", "patched"] {
        let all = SIZES.map(|size| format!("{name}{size}"));
        crate::support::wait_for("the files", || {
            all.iter().all(|n| a.at(n).exists()).then_some(())
        });
    }
    for size in SIZES {
        let content = bytes(size as u64, size);
        nix::unistd::truncate(&a.at(&format!("cut{size}")), 7).unwrap();
        nix::unistd::truncate(&a.at(&format!("grown{size}")), size as i64 + 70_000).unwrap();
        let file = OpenOptions::new().write(true).open(a.at(&format!("patched{size}"))).unwrap();
        file.write_all_at(b"patch", 2).unwrap();
        drop(file);
        let read = |name: &str| std::fs::read(a.at(&format!("{name}{size}"))).unwrap();
        assert_eq!(read("cut"), content[..7]);
        assert!(read("grown") == [content.as_slice(), &[0; 70_000]].concat());
        assert!(read("patched") == [&content[..2], b"patch", &content[7..]].concat());
    }
    agree(&server, &a, &b);
}

/// A hard link means nothing at the server: refused with `EPERM`, and nothing is left.
#[test]
fn hard_links_are_refused() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    shell(&a.path(), "echo x > f");
    let linked = std::fs::hard_link(a.at("f"), a.at("hard")).unwrap_err();
    assert_eq!(linked.raw_os_error(), Some(nix::libc::EPERM));
    assert_eq!(shell(&a.path(), "ls; stat -c %h f"), "f\n1\n");
}
