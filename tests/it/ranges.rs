//! Ranges of files: room set aside, holes, copies, appends, locks, mappings, and the largest sizes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, FlockOperation, copy_file_range, fallocate, flock, seek};
use rustix::io::Errno;

use crate::fuse_or_skip;
use crate::shell_life::{pair, program_or_skip};
use crate::support::tree::agree;
use crate::support::{Mount, TestServer, bytes, shell};

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// `fallocate` extends, keeps, punches and zeroes, in memory and on disk, and what it does arrives.
#[test]
fn fallocate_does_what_it_says() {
    fuse_or_skip!();
    let (server, mut a, b) = pair();
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    let zero = FallocateFlags::ZERO_RANGE;
    let mut expected = Vec::new();
    for (size, border) in [(1_000_u64, "small"), (60_000, "growing"), (300_000, "large")] {
        let cases = [
            ("extend", FallocateFlags::empty(), size / 2, size),
            ("keep", keep, size / 2, size),
            ("punch", punch, size / 3, size / 3),
            ("punch-past", punch, size / 2, size),
            ("zero", zero, size / 2, size),
            ("zero-keep", zero | keep, size / 2, size),
        ];
        for (what, flags, offset, len) in cases {
            let name = format!("{border}-{what}");
            let mut content = bytes(size, usize::try_from(size).unwrap());
            std::fs::write(a.at(&name), &content).unwrap();
            let file = read_write(&a.at(&name));
            fallocate(&file, flags, offset, len).unwrap_or_else(|error| panic!("{name}: {error}"));
            let end = usize::try_from(offset + len).unwrap();
            if matches!(what, "extend" | "zero") {
                content.resize(end.max(content.len()), 0);
            }
            if what.starts_with("punch") || what.starts_with("zero") {
                let end = end.min(content.len());
                content[usize::try_from(offset).unwrap()..end].fill(0);
            }
            assert!(std::fs::read(a.at(&name)).unwrap() == content, "{name}");
            expected.push((name, content));
        }
    }
    let file = read_write(&a.at("small-keep"));
    for refused in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(fallocate(&file, refused, 0, 4096), Err(Errno::OPNOTSUPP));
    }
    // Room that was set aside is room that the disk has given.
    let file = read_write(&a.at("reserved"));
    fallocate(&file, FallocateFlags::empty(), 0, 8 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8 << 20);
    drop(file);
    agree(&server, &a, &b);
    a.kill9();
    a.start();
    for (name, content) in expected {
        assert!(std::fs::read(a.at(&name)).unwrap() == content, "{name} after a kill");
    }
}

/// Holes are found where they are, and every file ends with one.
#[test]
fn data_and_holes_are_found() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let data = |file: &File, at| seek(file, rustix::fs::SeekFrom::Data(at));
    let hole = |file: &File, at| seek(file, rustix::fs::SeekFrom::Hole(at));
    for size in [10_u64, 300_000] {
        std::fs::write(a.at("f"), vec![1; usize::try_from(size).unwrap()]).unwrap();
        let file = read_write(&a.at("f"));
        assert_eq!((data(&file, 0), data(&file, 7)), (Ok(0), Ok(7)));
        assert_eq!(hole(&file, 3), Ok(size));
        assert_eq!((data(&file, size), hole(&file, size)), (Err(Errno::NXIO), Err(Errno::NXIO)));
    }
    let file = read_write(&a.at("sparse"));
    file.write_all_at(&[1; 4096], 10 << 20).unwrap();
    file.set_len(20 << 20).unwrap();
    assert_eq!(hole(&file, 0), Ok(0));
    assert_eq!(data(&file, 0), Ok(10 << 20));
    assert_eq!(hole(&file, 10 << 20), Ok((10 << 20) + 4096));
    assert_eq!(data(&file, 11 << 20), Err(Errno::NXIO));
    drop(file);
    // `cp` and `tar` find them and keep them.
    shell(
        &a.path(),
        "cp --sparse=auto sparse copy; tar -Scf t.tar sparse; test $(stat -c %s t.tar) -lt 100000",
    );
    shell(&a.path(), "cmp sparse copy; mkdir out; tar -xf t.tar -C out; cmp sparse out/sparse");
    agree(&server, &a, &b);
}

/// Bytes are copied from file to file without passing through the program.
#[test]
fn ranges_are_copied() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let content = bytes(1, 3_000_000);
    std::fs::write(a.at("from"), &content).unwrap();
    let (from, to) = (read_write(&a.at("from")), read_write(&a.at("to")));
    to.write_all_at(b"head", 0).unwrap();
    let (mut at, mut out) = (100_u64, 4_u64);
    loop {
        match copy_file_range(&from, Some(&mut at), &to, Some(&mut out), 5_000_000).unwrap() {
            0 => break,
            copied => assert!(copied > 0),
        }
    }
    let expected = [b"head", &content[100..]].concat();
    assert!(std::fs::read(a.at("to")).unwrap() == expected);
    // Within one file, where the ranges do not overlap.
    let (mut at, mut out) = (0, 4_000_000);
    assert_eq!(copy_file_range(&to, Some(&mut at), &to, Some(&mut out), 1_000), Ok(1_000));
    let (mut at, mut out) = (0, 10);
    assert_eq!(copy_file_range(&to, Some(&mut at), &to, Some(&mut out), 50), Err(Errno::INVAL));
    drop((from, to));
    shell(&a.path(), "cp from again; cmp from again; cat from > through; cmp from through");
    agree(&server, &a, &b);
}

/// Lines that many processes append are all there, whole, and each process's in its order.
#[test]
fn appended_lines_are_neither_torn_nor_lost() {
    fuse_or_skip!();
    program_or_skip!("python3");
    let (server, a, b) = pair();
    let script = "
import os, sys
who = int(sys.argv[1])
for n in range(500):
    line = ('%d %d ' % (who, n)).ljust(20 + 37 * who, 'x') + '\\n'
    if n % 3 == 0:
        with open('log', 'ab', buffering=0) as f:
            f.write(line.encode())
    else:
        if n % 3 == 1:
            fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fd, line.encode())
        if n % 3 == 2:
            os.close(fd)
";
    let children: Vec<_> = (0..8)
        .map(|who| {
            Command::new("python3")
                .args(["-c", script, &who.to_string()])
                .current_dir(a.path())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let text = std::fs::read_to_string(a.at("log")).unwrap();
    let mut next = [0; 8];
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().parse::<usize>().unwrap();
        let (who, n) = (word(), word());
        assert_eq!(n, next[who], "{line}");
        assert_eq!(line.len(), 20 + 37 * who, "{line}");
        next[who] += 1;
    }
    assert_eq!(next, [500; 8]);
    agree(&server, &a, &b);
}

/// Locks of whole files, of ranges by process, and of ranges by open file keep others out.
#[test]
fn locks_keep_others_out() {
    fuse_or_skip!();
    program_or_skip!("python3");
    let server = TestServer::new();
    let a = Mount::of(&server);
    std::fs::write(a.at("f"), "0123456789").unwrap();
    let (one, two) = (read_write(&a.at("f")), read_write(&a.at("f")));
    flock(&one, FlockOperation::LockExclusive).unwrap();
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    flock(&one, FlockOperation::LockShared).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    drop((one, two));
    // A process that waits gets the lock when the other lets go; ranges are apart from each other.
    shell(
        &a.path(),
        "cat > locks.py <<'END'
import fcntl, os, struct
F_OFD_SETLK = 37
def lock(kind, start, length):
    return struct.pack('hhqqi4x', kind, os.SEEK_SET, start, length, 0)
f = open('f', 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX, 5, 0)
r, w = os.pipe()
if os.fork() == 0:
    g = open('f', 'r+b')
    fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)
    try:
        fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        os._exit(1)
    except BlockingIOError:
        pass
    os.write(w, b'x')
    fcntl.lockf(g, fcntl.LOCK_EX, 5, 0)
    os._exit(7)
os.read(r, 1)
fcntl.lockf(f, fcntl.LOCK_UN, 5, 0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
g = open('f', 'r+b')
fcntl.fcntl(f, F_OFD_SETLK, lock(fcntl.F_WRLCK, 0, 5))
fcntl.fcntl(g, F_OFD_SETLK, lock(fcntl.F_WRLCK, 5, 5))
try:
    fcntl.fcntl(g, F_OFD_SETLK, lock(fcntl.F_WRLCK, 4, 1))
    raise SystemExit('an open file took what another has')
except BlockingIOError:
    pass
END
python3 locks.py",
    );
}

/// What is written through a shared mapping is what is read, through the file and other mappings, and
/// arrives; a private mapping is nobody else's.
#[test]
fn mappings_and_reads_agree() {
    fuse_or_skip!();
    program_or_skip!("python3");
    let (server, mut a, b) = pair();
    shell(
        &a.path(),
        "cat > maps.py <<'END'
import mmap, os
for size in 20000, 300000:
    name = 'f%d' % size
    with open(name, 'wb') as f:
        f.write(b'.' * size)
    f = open(name, 'r+b')
    shared = mmap.mmap(f.fileno(), size)
    other = mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ)
    private = mmap.mmap(f.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    shared[5000:5006] = b'shared'
    private[6000:6007] = b'private'
    os.pwrite(f.fileno(), b'written', 7000)
    whole = open(name, 'rb').read()
    assert whole == other[:], 'a read is what a mapping shows'
    assert whole[5000:5006] == b'shared' and whole[7000:7007] == b'written'
    assert whole[6000:6007] == b'.......' and private[6000:6007] == b'private'
    os.ftruncate(f.fileno(), size + 5000)
    shared.resize(size + 5000)
    shared[size:size + 3] = b'end'
    shared.flush()
    f.close()
    shared[10:16] = b'closed'
    del shared
    assert open(name, 'rb').read()[10:16] == b'closed'
END
python3 maps.py; rm maps.py",
    );
    let contents =
        |mount: &Mount| ["f20000", "f300000"].map(|name| std::fs::read(mount.at(name)).unwrap());
    let before = contents(&a);
    assert!(before.iter().all(|content| &content[5000..5006] == b"shared"));
    agree(&server, &a, &b);
    a.kill9();
    a.start();
    assert!(contents(&a) == before && contents(&b) == before);
}

/// `O_DIRECT` reads and writes the same bytes, aligned or not.
#[test]
fn direct_reads_and_writes_are_tolerated() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    let direct = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(nix::libc::O_DIRECT)
            .open(path)
            .unwrap()
    };
    for size in [4096, 5000, 262_144] {
        let content = bytes(9, size);
        let file = direct(&a.at("direct"));
        file.write_all_at(&content, 0).unwrap();
        let mut read = vec![0; size];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content && std::fs::read(a.at("direct")).unwrap()[..size] == content);
        // Both ways at once show the same.
        let cached = read_write(&a.at("direct"));
        cached.write_all_at(b"cached", 100).unwrap();
        file.read_exact_at(&mut read[..6], 100).unwrap();
        assert_eq!(&read[..6], b"cached");
        file.write_all_at(b"direct", 100).unwrap();
        cached.read_exact_at(&mut read[..6], 100).unwrap();
        assert_eq!(&read[..6], b"direct");
    }
    agree(&server, &a, &b);
}

/// What cannot be that large is refused with `EFBIG`, before anything is changed.
#[test]
fn what_is_too_large_is_refused() {
    fuse_or_skip!();
    let (server, a, b) = pair();
    std::fs::write(a.at("f"), "small").unwrap();
    let file = read_write(&a.at("f"));
    // The kernel lets it through, and the disk says so.
    let refused = file.write_at(b"x", 1 << 62).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EFBIG));
    let refused = file.set_len(1 << 62).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EFBIG));
    // The limit of a process.
    let limited = Command::new("bash")
        .args([
            "-c",
            "ulimit -f 100; trap '' XFSZ; head -c 200000 /dev/zero > limited 2> /dev/null",
        ])
        .current_dir(a.path())
        .status()
        .unwrap();
    assert!(!limited.success());
    assert_eq!(std::fs::metadata(a.at("limited")).unwrap().len(), 102_400);
    assert_eq!(std::fs::read_to_string(a.at("f")).unwrap(), "small");
    drop(file);
    agree(&server, &a, &b);
}

/// Entries and free room are those of the disk that a writer runs out of.
#[test]
fn statfs_tells_the_truth() {
    fuse_or_skip!();
    let server = TestServer::new();
    let a = Mount::of(&server);
    let numbers = |path: &Path| nix::sys::statvfs::statvfs(path).unwrap();
    let (here, disk) = (numbers(&a.path()), numbers(&a.state()));
    assert_eq!(here.blocks() * here.fragment_size(), disk.blocks() * disk.fragment_size());
    assert_eq!(here.name_max(), 255);
    assert!(here.blocks_available() <= here.blocks_free() && here.blocks_free() < here.blocks());
    let used = |path: &Path| {
        let numbers = numbers(path);
        numbers.files() - numbers.files_free()
    };
    let before = used(&a.path());
    std::fs::write(a.at("one"), "").unwrap();
    assert_eq!(used(&a.path()), before + 1);
    // Blocks are those that the bytes fill.
    std::fs::write(a.at("two"), vec![1; 10_000]).unwrap();
    assert_eq!(std::fs::metadata(a.at("two")).unwrap().blocks(), 20);
}

/// An exchange of open files changes names, not descriptors; what has no name is no target.
#[test]
fn open_files_are_exchanged_and_replaced() {
    fuse_or_skip!();
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let (server, a, b) = pair();
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, a.at(from), CWD, a.at(to), flags);
    for size in [10, 200_000] {
        let (first, second) = (bytes(1, size), bytes(2, size));
        std::fs::write(a.at("one"), &first).unwrap();
        std::fs::write(a.at("two"), &second).unwrap();
        let (mut one, mut two) = (read_write(&a.at("one")), read_write(&a.at("two")));
        one.write_all_at(b"1", 0).unwrap();
        two.write_all_at(b"2", 0).unwrap();
        rename("one", "two", RenameFlags::EXCHANGE).unwrap();
        one.write_all_at(b"one", 1).unwrap();
        two.write_all_at(b"two", 1).unwrap();
        assert_eq!(&std::fs::read(a.at("two")).unwrap()[..4], b"1one");
        assert_eq!(&std::fs::read(a.at("one")).unwrap()[..4], b"2two");
        assert_eq!(rename("one", "two", RenameFlags::NOREPLACE), Err(Errno::EXIST));
        rename("one", "three", RenameFlags::NOREPLACE).unwrap();
        two.write_all_at(b"tri", 1).unwrap();
        std::fs::rename(a.at("two"), a.at("three")).unwrap();
        // The replaced file goes on without a name.
        let mut start = [0; 4];
        two.seek(SeekFrom::Start(0)).unwrap();
        two.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"2tri");
        one.seek(SeekFrom::End(0)).unwrap();
        one.write_all(b"end").unwrap();
        drop((one, two));
        let content = std::fs::read(a.at("three")).unwrap();
        assert!(content.starts_with(b"1one") && content.ends_with(b"end"));
        agree(&server, &a, &b);
        std::fs::remove_file(a.at("three")).unwrap();
    }
}
