//! A name that is opened in the moment in which it goes elsewhere: what is written to it is not lost.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};

use crate::appends::in_the_moment_of;
use crate::run::{Run, Victim};
use crate::support::{Kind, wait_for};

/// The kernel found a file under its name and asks to have it opened for writing; before it is, the file
/// is removed elsewhere, and perhaps made anew. What is written is under the name afterwards, also while
/// somebody has the old one open.
#[test]
fn what_is_written_to_a_name_that_is_just_removed_is_under_it() {
    crate::fuse_or_skip!();
    for (made_anew, is_read) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut run = Run::new(Victim::Daemon, Kind::Extended);
        run.start();
        run.a.wait_synced();
        let note = run.a.at("note");
        fs::write(&note, "older\n").unwrap();
        run.a.flush();
        let reader = is_read.then(|| File::open(&note).unwrap());
        let path = note.clone();
        let write = move || fs::write(path, "mine\n").unwrap();
        let writer = in_the_moment_of(&run, "fs.open", write, |run| {
            run.server.http.delete("/note");
            if made_anew {
                run.server.http.put("/note", b"theirs\n");
            }
        });
        writer.join().unwrap();
        assert_eq!(fs::read_to_string(&note).unwrap(), "mine\n", "{made_anew} {is_read}");
        run.a.flush();
        let there = || run.server.http.get("/note").is_some_and(|(bytes, _)| bytes == b"mine\n");
        wait_for("it to be at the server", || there().then_some(()));
        drop(reader);
    }
}

/// The kernel found no file under a name and asks to have one made; before it is, one comes from
/// elsewhere. Who does not insist on a new one writes to that one, and is not refused.
#[test]
fn what_is_created_where_a_file_just_came_is_that_file() {
    crate::fuse_or_skip!();
    let mut run = Run::new(Victim::Daemon, Kind::Extended);
    run.start();
    run.a.wait_synced();
    let note = run.a.at("note");
    let path = note.clone();
    let append = move || {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(b"mine\n").unwrap();
    };
    let writer = in_the_moment_of(&run, "fs.create.asked", append, |run| {
        run.server.http.put("/note", b"theirs\n");
    });
    writer.join().unwrap();
    assert_eq!(fs::read_to_string(&note).unwrap(), "theirs\nmine\n");
    let path = run.a.at("other");
    let insist = move || {
        let error = File::create_new(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    };
    let writer = in_the_moment_of(&run, "fs.create.asked", insist, |run| {
        run.server.http.put("/other", b"theirs\n");
    });
    writer.join().unwrap();
    run.a.flush();
    let files = run.server.http.files();
    assert_eq!(files["/note"], b"theirs\nmine\n");
    assert_eq!(files["/other"], b"theirs\n");
}
