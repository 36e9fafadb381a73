//! Damage at rest: bits that flip in the state folder are noticed; wrong bytes are neither served
//! nor sent; what only this machine had is kept and reported, and the rest goes on.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::shell_life::program_or_skip;
use crate::support::{Kind, Mount, TestServer, wait_for};
use crate::{fuse_or_skip, on_both_servers};

/// Flips a bit of each place in `file` where `needle` begins. Returns how many there were.
pub fn flip(file: &Path, needle: &[u8]) -> usize {
    let bytes = fs::read(file).unwrap();
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect();
    let open = fs::File::options().write(true).open(file).unwrap();
    for at in &places {
        open.write_all_at(&[bytes[*at] ^ 1], *at as u64).unwrap();
    }
    open.sync_all().unwrap();
    places.len()
}

/// The working files that are there, and what was set aside.
pub fn files(mount: &Mount) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = fs::read_dir(mount.state().join("files")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    all.partition(|path| !path.display().to_string().contains(".corrupt."))
}

pub fn database(mount: &Mount) -> PathBuf {
    mount.state().join("state.db")
}

/// Larger than what lives in the database, different everywhere, never the same for two seeds.
pub fn large(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..300_000).map(|_| next()).collect()
}

fn read(server: &TestServer, path: &str) -> Option<Vec<u8>> {
    server.get(path).map(|(bytes, _)| bytes)
}

/// Waits until the checksums of so many working files are known.
pub fn wait_for_sums(mount: &Mount, files: i64) {
    wait_for("the checksums of working files", || {
        let state = rusqlite::Connection::open(database(mount)).unwrap();
        let count = "SELECT count(*) FROM sums";
        let count: i64 = state.query_row(count, [], |row| row.get(0)).unwrap();
        (count == files).then_some(())
    });
}

/// Has the kernel forget the pages of a file in the mount.
fn forget_pages(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
}

pub fn pause(mount: &Mount) {
    assert!(mount.ctl(&["pause"]).status.success());
}

pub fn resume(mount: &Mount) {
    assert!(mount.ctl(&["resume"]).status.success());
}

fn outbox(mount: &Mount) -> String {
    String::from_utf8(mount.ctl(&["outbox", "--json"]).stdout).unwrap()
}

on_both_servers! {
    damaged_contents_that_the_server_has_are_fetched_again,
    damaged_contents_that_only_this_machine_has_are_kept_and_never_sent,
}

/// A bit that flips in a small or large content that the server has too is noticed; the bytes are
/// fetched again, and the damaged ones are kept aside.
fn damaged_contents_that_the_server_has_are_fetched_again(kind: Kind) {
    let server = kind.server().start();
    let mut mount = Mount::of(&server);
    fs::write(mount.at("small"), "a small content to be damaged").unwrap();
    fs::write(mount.at("large"), large(1)).unwrap();
    mount.flush();
    mount.wait_synced();
    assert_eq!(mount.term(), Some(0));
    assert_eq!(flip(&database(&mount), b"a small content to be damaged"), 1);
    let file = files(&mount).0.pop().unwrap();
    assert_eq!(flip(&file, &large(1)[200_000..200_016]), 1);
    mount.start();
    assert_eq!(fs::read_to_string(mount.at("small")).unwrap(), "a small content to be damaged");
    assert!(fs::read(mount.at("large")).unwrap() == large(1));
    assert_eq!(files(&mount).1.len(), 2, "{:?}", files(&mount));
    mount.flush();
    assert_eq!(read(&server, "/large").unwrap(), large(1));
}

/// A content that was never sent and is damaged is not served and not sent. Its bytes are kept
/// aside, its record is parked with the reason, the rest goes on, and new bytes heal the file.
fn damaged_contents_that_only_this_machine_has_are_kept_and_never_sent(kind: Kind) {
    let server = kind.server().start();
    let mut mount = Mount::of(&server);
    pause(&mount);
    fs::write(mount.at("small"), "a small content to be damaged").unwrap();
    fs::write(mount.at("large"), large(1)).unwrap();
    fs::write(mount.at("other"), "not damaged").unwrap();
    // Nobody writes it any more: its checksums are taken.
    wait_for_sums(&mount, 1);
    assert_eq!(mount.term(), Some(0));
    assert_eq!(flip(&database(&mount), b"a small content to be damaged"), 1);
    let file = files(&mount).0.pop().unwrap();
    assert_eq!(flip(&file, &large(1)[200_000..200_016]), 1);
    mount.start();
    for name in ["small", "large"] {
        let error = fs::read(mount.at(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}");
    }
    assert_eq!(fs::read_to_string(mount.at("other")).unwrap(), "not damaged");
    resume(&mount);
    wait_for("what is not damaged to arrive", || read(&server, "/other"));
    assert_eq!((read(&server, "/small"), read(&server, "/large")), (None, None));
    let parked = outbox(&mount);
    for word in ["damaged", ".corrupt.", "/small", "/large"] {
        assert!(parked.contains(word), "{word}: {parked}");
    }
    assert_eq!(files(&mount).1.len(), 2);
    // Across another start nothing changes.
    assert_eq!(mount.term(), Some(0));
    mount.start();
    assert!(fs::read(mount.at("small")).is_err());
    fs::write(mount.at("small"), "whole again").unwrap();
    fs::write(mount.at("large"), large(2)).unwrap();
    mount.flush();
    assert_eq!(read(&server, "/small").unwrap(), b"whole again");
    assert!(read(&server, "/large").unwrap() == large(2));
    assert_eq!(files(&mount).1.len(), 2);
}

/// While the daemon runs, the next open notices what happened to a working file.
#[test]
fn a_working_file_that_is_damaged_while_the_daemon_runs_is_noticed() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    fs::write(mount.at("large"), large(1)).unwrap();
    mount.flush();
    wait_for_sums(&mount, 1);
    forget_pages(&mount.at("large"));
    let file = files(&mount).0.pop().unwrap();
    assert_eq!(flip(&file, &large(1)[250_000..250_016]), 1);
    assert!(fs::read(mount.at("large")).unwrap() == large(1));
    // Cut short, and gone altogether.
    let file = files(&mount).0.pop().unwrap();
    wait_for_sums(&mount, 1);
    fs::File::options().write(true).open(&file).unwrap().set_len(1000).unwrap();
    forget_pages(&mount.at("large"));
    assert!(fs::read(mount.at("large")).unwrap() == large(1));
    let file = files(&mount).0.pop().unwrap();
    fs::remove_file(&file).unwrap();
    forget_pages(&mount.at("large"));
    assert!(fs::read(mount.at("large")).unwrap() == large(1));
    assert_eq!(read(&server, "/large").unwrap(), large(1));
}

/// Who has a file open for writing and read a part of it is not given the rest of another version when damage is
/// found: what would be written then was made with neither in sight.
#[test]
fn a_file_that_is_open_for_writing_never_gets_another_version() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    let path = mount.at("large");
    fs::write(&path, large(1)).unwrap();
    mount.flush();
    wait_for_sums(&mount, 1);
    forget_pages(&path);
    let open = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut begin = [0; 1000];
    open.read_exact_at(&mut begin, 0).unwrap();
    assert!(begin == large(1)[..1000]);
    server.put("/large", &large(2));
    let file = files(&mount).0.pop().unwrap();
    assert_eq!(flip(&file, &large(1)[290_000..290_016]), 1);
    let mut end = vec![0; 10_000];
    for _ in 0..3 {
        let error = open.read_exact_at(&mut end, 285_000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    }
    drop(open);
    wait_for("their version", || (fs::read(&path).ok()? == large(2)).then_some(()));
}

/// What was set aside in the state folder itself.
fn set_aside(mount: &Mount) -> Vec<String> {
    let names = fs::read_dir(mount.state()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(".corrupt.")).collect()
}

/// A record that is damaged is not believed. The file it was about is still there, is found not
/// to be what the server has, and is recorded again; the others go on.
#[test]
fn the_change_of_a_damaged_record_is_sent_all_the_same() {
    fuse_or_skip!();
    let server = TestServer::new();
    server.put("/changed", b"as it was");
    let mut mount = Mount::of(&server);
    mount.wait_synced();
    assert_eq!(fs::read_to_string(mount.at("changed")).unwrap(), "as it was");
    pause(&mount);
    for name in ["new-and-recorded", "changed", "other"] {
        fs::write(mount.at(name), format!("the newest bytes of {name}")).unwrap();
    }
    assert_eq!(mount.term(), Some(0));
    assert!(flip(&database(&mount), b"/new-and-recorded") > 0);
    assert!(flip(&database(&mount), b"/changed") > 0);
    mount.start();
    for name in ["new-and-recorded", "changed", "other"] {
        let bytes = fs::read_to_string(mount.at(name)).unwrap();
        assert_eq!(bytes, format!("the newest bytes of {name}"));
    }
    assert_eq!(set_aside(&mount).len(), 1, "the rows are kept: {:?}", set_aside(&mount));
    resume(&mount);
    mount.flush();
    for name in ["new-and-recorded", "changed", "other"] {
        let bytes = read(&server, &format!("/{name}")).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("the newest bytes of {name}"));
    }
    // The next start finds nothing any more.
    assert_eq!(mount.term(), Some(0));
    mount.start();
    assert_eq!(set_aside(&mount).len(), 1);
}

/// A damaged row of the tree: what the server has comes back by a listing, what is unsent has its
/// place back by its record.
#[test]
fn the_file_of_a_damaged_name_comes_back() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    fs::create_dir(mount.at("a-folder")).unwrap();
    fs::write(mount.at("a-folder/sent-before"), "sent").unwrap();
    fs::write(mount.at("a-folder/neighbour"), "neighbour").unwrap();
    mount.flush();
    pause(&mount);
    fs::write(mount.at("a-folder/neighbour"), "unsent").unwrap();
    assert_eq!(mount.term(), Some(0));
    {
        // As a flipped bit would: the row is there and is not what was written.
        let state = rusqlite::Connection::open(database(&mount)).unwrap();
        let damage = "UPDATE nodes SET mode = mode + 1 WHERE name IN ('sent-before', 'a-folder')";
        assert_eq!(state.execute(damage, []).unwrap(), 2);
    }
    mount.start();
    wait_for("what the server has", || fs::read_to_string(mount.at("a-folder/sent-before")).ok());
    assert_eq!(fs::read_to_string(mount.at("a-folder/neighbour")).unwrap(), "unsent");
    resume(&mount);
    mount.flush();
    assert_eq!(read(&server, "/a-folder/neighbour").unwrap(), b"unsent");
    assert_eq!(read(&server, "/a-folder/sent-before").unwrap(), b"sent");
}

/// A database of which the header, any one page, or the end is damaged is made anew from what can
/// be read; the damaged one is kept. The mount starts, shows what the server has, sends what was
/// saved, and does not invent anything.
#[test]
fn a_damaged_database_is_made_anew() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut mount = Mount::of(&server);
    for n in 0..40 {
        fs::write(mount.at(&format!("sent-{n}")), format!("sent {n}").repeat(100)).unwrap();
    }
    mount.flush();
    pause(&mount);
    for n in 0..40 {
        fs::write(mount.at(&format!("unsent-{n}")), format!("unsent {n}").repeat(100)).unwrap();
    }
    assert_eq!(mount.term(), Some(0));
    let whole = fs::read(database(&mount)).unwrap();
    let pages = whole.len() / 4096;
    let garbage: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut header = whole.clone();
    header[..16].fill(0);
    cases.push(("header".to_owned(), header));
    cases.push(("end".to_owned(), whole[..whole.len() - 2 * 4096].to_vec()));
    for page in (0..pages).step_by(pages / 6) {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].copy_from_slice(&garbage);
        cases.push((format!("page {page}"), damaged));
    }
    for (case, bytes) in cases {
        eprintln!("{case}");
        fs::write(database(&mount), bytes).unwrap();
        drop(fs::remove_file(mount.state().join("state.db-wal")));
        let before = set_aside(&mount).len();
        mount.start();
        assert!(set_aside(&mount).len() > before, "{case}: nothing was kept");
        for n in 0..40 {
            let sent = mount.at(&format!("sent-{n}"));
            let bytes = wait_for("what the server has", || fs::read_to_string(&sent).ok());
            assert_eq!(bytes, format!("sent {n}").repeat(100), "{case}");
            if let Ok(bytes) = fs::read_to_string(mount.at(&format!("unsent-{n}"))) {
                assert_eq!(bytes, format!("unsent {n}").repeat(100), "{case}");
            } else {
                assert_ne!(case, "header");
            }
        }
        assert_eq!(mount.term(), Some(0), "{case}");
        assert!(server.files().keys().all(|path| path.starts_with("/sent-")), "{case}");
    }
}

/// A bit that flips in the log that a killed daemon left is turned back: no change is lost, neither
/// that one nor those behind it. Not even when somebody looks into the database meanwhile, as
/// `mountctl status` does: what they could not read is not taken for the end.
#[test]
fn a_flipped_bit_in_the_log_loses_no_change() {
    fuse_or_skip!();
    program_or_skip!("python3");
    for is_read_meanwhile in [false, true] {
        let server = TestServer::new();
        let mut mount = Mount::of(&server);
        mount.wait_synced();
        pause(&mount);
        for n in 0..20 {
            fs::write(mount.at(&format!("file-{n}")), format!("the content of file {n}.")).unwrap();
        }
        mount.kill9();
        let log = mount.state().join("state.db-wal");
        let bytes = fs::read(&log).unwrap();
        let needle = b"the content of file 7.";
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        // Not in the highest byte of a number: of those it cannot always be told which it was.
        let at = at + usize::from((at - 56) % 4 == 3);
        let open = fs::File::options().write(true).open(&log).unwrap();
        open.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        let reader = is_read_meanwhile.then(|| Reader::of(&mount.state().join("state.db")));
        mount.start();
        for n in 0..20 {
            let content = fs::read_to_string(mount.at(&format!("file-{n}"))).unwrap();
            assert_eq!(content, format!("the content of file {n}."));
        }
        assert!(set_aside(&mount).iter().any(|name| name.starts_with("state.db-wal.corrupt.")));
        resume(&mount);
        mount.flush();
        assert_eq!(server.files().len(), 20);
        drop(reader);
    }
}

/// A process that has a database open, and has read it.
struct Reader(Child);

impl Reader {
    fn of(database: &Path) -> Self {
        let script = "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); \
                      print(c.execute('SELECT count(*) FROM nodes').fetchone(), flush=True); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with('('), "{line}");
        Self(child)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
