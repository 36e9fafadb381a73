//! The checker at work: what is planted is found. A checker that cannot fail is worth nothing.

use crate::check::check;
use crate::run::{Evidence, play};
use crate::story::{Act, Call, How, Side, Step, Story};
use crate::totals::Totals;
use crate::world::alone;
use crate::writer::{Failure, Turns, Writer};
use crate::{can_mount, content};

fn write(path: &str, how: How) -> Call {
    let path = path.to_owned();
    Call::Write { path, size: 500, how, chunks: 1, sync: false, hold: 0 }
}

/// A calm story in which each kind of evidence comes up.
fn calm() -> Story {
    let calls = [
        (Side::A, write("/shared/f0", How::Truncate)),
        (Side::A, write("/shared/f1", How::Truncate)),
        (Side::A, Call::Append { path: "/log-0".into() }),
        (Side::B, Call::Append { path: "/log-1".into() }),
        (Side::A, Call::Slot { path: "/slots-0".into() }),
        (Side::A, write("/shared/f1", How::Seen)),
        (Side::B, write("/own-B/f0", How::Aside)),
        (Side::A, write("/shared/f2", How::Truncate)),
    ];
    let step = |(index, (side, call)): (usize, (Side, Call))| Step {
        id: u32::try_from(index + 1).unwrap(),
        // Each is sent by itself, so that the server's history has them all.
        rest: 400,
        act: Act::Call { side, writer: 0, call },
    };
    let steps = calls.into_iter().enumerate().map(step).collect();
    Story { seed: 0, original: false, writers: 1, steps }
}

#[track_caller]
fn finds(evidence: &Evidence, what: &str) {
    let wrong = check(evidence);
    assert!(wrong.iter().any(|wrong| wrong.starts_with(what)), "{what} is not among {wrong:#?}");
}

/// Changes a file wherever it is.
fn everywhere(evidence: &mut Evidence, path: &str, bytes: Option<&[u8]>) {
    let [a, b] = &mut evidence.shown;
    for view in [&mut evidence.server, a, b] {
        match bytes {
            Some(bytes) => drop(view.insert(path.to_owned(), bytes.to_vec())),
            None => drop(view.remove(path)),
        }
    }
}

/// Each promise, broken in the evidence of a run in which all was well.
#[test]
fn each_kind_of_damage_is_found() {
    let alone = alone();
    let Ok(_alone) = alone.lock() else { return };
    if !can_mount() {
        return;
    }
    let (_world, good) = play(&calm(), &mut Totals::default(), |_, _| {});
    assert_eq!(check(&good), Vec::<String>::new());
    let with = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        evidence
    };
    let gone = |path| with(&move |evidence: &mut Evidence| everywhere(evidence, path, None));
    finds(&gone("/shared/f0"), "LOST 500 bytes of #1");
    finds(&gone("/own-B/f0"), "LOST 500 bytes of #7");
    // What a conflict copy holds is not lost.
    let kept = with(&|evidence| {
        let bytes = evidence.server["/shared/f0"].clone();
        everywhere(evidence, "/shared/f0", None);
        evidence.copies.insert("copy".into(), bytes);
    });
    assert_eq!(check(&kept), Vec::<String>::new());
    let torn =
        with(&|evidence| everywhere(evidence, "/shared/f0", Some(&content::whole(1, 500)[..300])));
    finds(&torn, "LOST 500 bytes of #1");
    let older = with(&|evidence| everywhere(evidence, "/shared/f1", Some(&content::whole(2, 500))));
    finds(&older, "LOST 500 bytes of #6");
    let strange = with(&|evidence| everywhere(evidence, "/shared/new", Some(b"nobody wrote this")));
    finds(&strange, "INVENTED /shared/new");
    let mixed = with(&|evidence| {
        let mut bytes = content::whole(1, 500);
        bytes[400] ^= 1;
        everywhere(evidence, "/shared/f9", Some(&bytes));
    });
    finds(&mixed, "INVENTED /shared/f9");
    let apart = with(&|evidence| drop(evidence.shown[1].remove("/shared/f0")));
    finds(&apart, "DIVERGED /shared/f0");
    finds(&with(&|evidence| everywhere(evidence, "/log-0", Some(b""))), "LOST the line #3");
    let twice = content::line(4).repeat(2);
    let twice = with(&|evidence| everywhere(evidence, "/log-1", Some(twice.as_bytes())));
    finds(&twice, "DOUBLED lines in /log-1");
    let slots = content::slots(2);
    finds(&with(&|evidence| everywhere(evidence, "/slots-0", Some(&slots))), "LOST slot 0");
    // A write that was refused may not have emptied the file, unless emptying it had succeeded.
    let refused = |emptied| {
        with(&|evidence| {
            evidence.history.retain(|event| event.path != "/shared/f1");
            everywhere(evidence, "/shared/f1", Some(b""));
            let second = evidence.entries.iter_mut().find(|entry| entry.id == 6).unwrap();
            (second.kept, second.emptied) = (None, emptied);
            second.outcome = Err(Failure::Full);
        })
    };
    finds(&refused(false), "LOST 500 bytes of #2");
    assert_eq!(check(&refused(true)), Vec::<String>::new());
    // The second version was made with the first one in sight; now it was made without.
    let blind = with(&|evidence| {
        let second = evidence.entries.iter_mut().find(|entry| entry.id == 6).unwrap();
        second.seen = Some(content::whole(8, 500));
        second.side = Side::B;
    });
    finds(&blind, "BLIND replacement at /shared/f1");
    let unasked = with(&|evidence| {
        let mut event = evidence.history.last().unwrap().clone();
        event.path = "/shared/f0".into();
        event.kind = "file.deleted".into();
        event.digest = None;
        evidence.history.push(event);
    });
    finds(&unasked, "BLIND removal of /shared/f0");
}

/// A daemon that forgets what it acknowledged: its database is one of a moment before.
#[test]
fn a_forgotten_record_is_found() {
    let alone = alone();
    let Ok(_alone) = alone.lock() else { return };
    if !can_mount() {
        return;
    }
    let (_world, evidence) = play(&calm(), &mut Totals::default(), |world, account| {
        let mount = world.mount(Side::A);
        let turns = Turns::default();
        let writer = Writer { world, turns: &turns, account, side: Side::A, number: 0, slot: 0 };
        let database = mount.state_folder().join("state.db");
        let earlier = mount.disk().join("earlier");
        assert!(mount.stop());
        std::fs::copy(&database, &earlier).unwrap();
        mount.start();
        assert!(mount.ctl(&["pause"]).0);
        writer.call(9, &write("/shared/f0", How::Truncate));
        mount.kill();
        std::fs::rename(&earlier, &database).unwrap();
        for name in ["state.db-wal", "state.db-shm"] {
            drop(std::fs::remove_file(mount.state_folder().join(name)));
        }
        mount.start();
        mount.ctl(&["resume"]);
    });
    assert_eq!(evidence.disorder, Vec::<String>::new());
    finds(&evidence, "LOST 500 bytes of #9");
}
