//! Very many entries, and very many that come and go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;

use crate::fuse_or_skip;
use crate::support::{Mount, TestServer, bytes, shell, wait_for};

/// 100,000 entries are listed completely, each once, while others are made and removed; what was there all
/// the time is never left out.
#[test]
fn a_folder_of_100000_entries_is_listed_while_it_changes() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut a = Mount::of(&server);
    // Kept here: this is about the folder, not about sending.
    let folder = a.at(".git");
    fs::create_dir(&folder).unwrap();
    let makers: Vec<_> = (0..4)
        .map(|maker| {
            let folder = folder.clone();
            std::thread::spawn(move || {
                for n in 0..25_000 {
                    drop(File::create(folder.join(format!("{maker}-{n}"))).unwrap());
                }
            })
        })
        .collect();
    for maker in makers {
        maker.join().unwrap();
    }
    let is_lasting = |name: &String| !name.starts_with("passing") && !name.starts_with("0-");
    let mut names = Vec::new();
    for (at, entry) in fs::read_dir(&folder).unwrap().enumerate() {
        names.push(entry.unwrap().file_name().into_string().unwrap());
        if at.is_multiple_of(100) {
            drop(File::create(folder.join(format!("passing-{at}"))).unwrap());
            fs::remove_file(folder.join(format!("0-{}", at / 100))).unwrap();
        }
    }
    let lasting: BTreeSet<&String> = names.iter().filter(|name| is_lasting(name)).collect();
    assert_eq!(lasting.len(), 75_000);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "each once");
    let count = || fs::read_dir(&folder).unwrap().count();
    let now = count();
    assert_eq!(now, 100_000);
    a.kill9();
    a.start();
    assert_eq!(count(), now);
    assert_eq!(fs::metadata(folder.join("3-24999")).unwrap().len(), 0);
}

/// What a daemon holds while nothing is going on: descriptors, and KiB of memory.
fn holds(mount: &Mount) -> (usize, u64) {
    let process = PathBuf::from(format!("/proc/{}", mount.pid()));
    let descriptors = fs::read_dir(process.join("fd")).unwrap().count();
    let status = fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (descriptors, line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Files that are made, written, read, renamed and removed, here and at the server, leave nothing behind:
/// no open file, no working file, no memory.
#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    // Fewer removals than a person is asked about.
    const ROUNDS: u64 = 24;
    fuse_or_skip!();
    let server = TestServer::new();
    let mount = Mount::of(&server);
    mount.wait_synced();
    let round = |n: u64| {
        shell(&mount.path(), "mkdir -p d/e");
        for file in 0..10 {
            let size = if file % 2 == 0 { 3000 } else { 100_000 };
            let (name, moved) = (format!("d/e/{n}-{file}"), format!("d/{n}-{file}"));
            fs::write(mount.at(&name), bytes(n, size)).unwrap();
            assert_eq!(fs::read(mount.at(&name)).unwrap().len(), size);
            fs::rename(mount.at(&name), mount.at(&moved)).unwrap();
        }
        let theirs = format!("/theirs-{n}");
        server.put(&theirs, &bytes(n, 90_000));
        wait_for("theirs", || fs::read(mount.at(&theirs[1..])).ok());
        mount.flush();
        server.delete(&theirs);
        shell(&mount.path(), "rm -r d");
        mount.flush();
        wait_for("it is empty", || {
            (fs::read_dir(mount.path()).unwrap().count() == 0).then_some(())
        });
        let left = || fs::read_dir(mount.state().join("files")).unwrap().count();
        wait_for("no working file is left", || (left() == 0).then_some(()));
    };
    (0..ROUNDS / 3).for_each(round);
    let before = holds(&mount);
    (ROUNDS / 3..ROUNDS).for_each(round);
    // Connections come, and are kept for a while; a file left open in each round would be as many
    // as there were rounds.
    let after = wait_for("no more descriptors than before", || {
        let now = holds(&mount);
        (now.0 < before.0 + 16).then_some(now)
    });
    eprintln!("{before:?}, then {after:?}");
    assert!(after.1 < before.1 + (16 << 10), "memory grew: {before:?}, then {after:?}");
    assert!(server.files().is_empty());
}
