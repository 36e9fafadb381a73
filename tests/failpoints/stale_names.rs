//! A name that is opened in the moment in which it goes elsewhere: what is written to it is not lost.

use std::fs::{self, File};

use crate::appends::in_the_moment_of_open;
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
        let writer = in_the_moment_of_open(&run, write, |run| {
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
