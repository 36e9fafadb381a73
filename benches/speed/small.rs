//! Many small files, which is what agents write.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::places::Floor;
use crate::report::percentile;
use crate::{Figures, Scale, Workload, less, more};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small files",
        floor: Floor::Log,
        goals: &[more("files/s", Some(0.7), None), less("p99 ms", Some(2.0), Some(1.0))],
        run: |folder, scale| write_files(folder, scale.files, false),
    },
    Workload {
        name: "small files, fsync",
        floor: Floor::SyncedLog,
        goals: &[more("files/s", Some(0.6), None), less("p99 ms", None, None)],
        run: |folder, scale| write_files(folder, scale.files, true),
    },
    Workload {
        name: "atomic save",
        floor: Floor::Log,
        goals: &[more("files/s", Some(0.6), None)],
        run: save_atomically,
    },
    Workload {
        name: "append to a log",
        floor: Floor::Log,
        goals: &[more("lines/s", Some(0.6), None)],
        run: append,
    },
];

const FOLDERS: usize = 20;

/// The content of file `number`: 1 to 8 KiB of text that differs from file to file.
pub fn body(number: usize) -> Vec<u8> {
    let line = format!("file {number}: the quick brown fox jumps over the lazy dog\n");
    let size = 1024 + (number * 7919) % (7 * 1024);
    line.bytes().cycle().take(size).collect()
}

/// Does something once for each number below `count` from several threads; how long each took, in
/// seconds, and all together.
fn spread(count: usize, threads: usize, act: impl Fn(usize) + Sync) -> (Vec<f64>, Duration) {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let each = std::thread::scope(|scope| {
        let work = || {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return times;
                }
                let began = Instant::now();
                act(number);
                times.push(began.elapsed().as_secs_f64());
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    (each, began.elapsed())
}

/// `count` files in twenty folders, from 16 writers.
pub fn write_files(folder: &Path, count: usize, sync: bool) -> Figures {
    for at in 0..FOLDERS {
        fs::create_dir(folder.join(at.to_string())).unwrap();
    }
    let path = |number: usize| folder.join((number % FOLDERS).to_string()).join(number.to_string());
    let bodies: Vec<Vec<u8>> = (0..count).map(body).collect();
    let (mut each, all) = spread(count, 16, |number| {
        let mut file = File::create(path(number)).unwrap();
        file.write_all(&bodies[number]).unwrap();
        if sync {
            file.sync_all().unwrap();
        }
    });
    for (number, body) in bodies.iter().enumerate() {
        assert!(fs::read(path(number)).unwrap() == *body, "file {number} is not what was written");
    }
    let p99 = percentile(&mut each, 0.99) * 1e3;
    vec![("files/s", count as f64 / all.as_secs_f64()), ("p99 ms", p99)]
}

/// A temporary file that is renamed over the old one, as editors and agents save; 8 writers.
fn save_atomically(folder: &Path, scale: Scale) -> Figures {
    let names = scale.files / 10;
    let (_, all) = spread(scale.files, 8, |number| {
        let temporary = folder.join(format!("{number}.tmp"));
        fs::write(&temporary, body(number)).unwrap();
        fs::rename(&temporary, folder.join((number % names).to_string())).unwrap();
    });
    assert_eq!(fs::read_dir(folder).unwrap().count(), names);
    vec![("files/s", scale.files as f64 / all.as_secs_f64())]
}

/// Open, append a line, close; one file, 8 writers. No line may be torn or lost.
fn append(folder: &Path, scale: Scale) -> Figures {
    let log = folder.join("log");
    let line = |number: usize| format!("{number:08} something happened that is worth a line\n");
    let (_, all) = spread(scale.lines, 8, |number| {
        let mut file = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        file.write_all(line(number).as_bytes()).unwrap();
    });
    let text = fs::read_to_string(&log).unwrap();
    let mut found: Vec<usize> = text.lines().map(|line| line[..8].parse().unwrap()).collect();
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..scale.lines), "lines are torn or lost");
    vec![("lines/s", scale.lines as f64 / all.as_secs_f64())]
}
