//! One big file: in sequence, and at random places.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use crate::places::{Floor, drop_caches};
use crate::{Figures, Scale, Workload, more};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "one big file",
        floor: Floor::Pass,
        goals: &[
            more("write MiB/s", Some(0.8), Some(0.9)),
            more("cold MiB/s", Some(0.8), Some(0.9)),
            more("warm MiB/s", Some(0.8), Some(0.9)),
        ],
        run: in_sequence,
    },
    Workload {
        name: "4 KiB at random",
        floor: Floor::Pass,
        goals: &[
            more("reads/s qd1", None, Some(0.9)),
            more("reads/s qd8", None, Some(0.9)),
            more("writes/s qd1", None, Some(0.9)),
            more("writes/s qd8", None, Some(0.9)),
        ],
        run: at_random,
    },
];

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

fn noise(seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; MIB];
    SmallRng::seed_from_u64(seed as u64).fill_bytes(&mut bytes);
    bytes
}

fn write_big(path: &Path, mebibytes: usize) {
    let mut block = noise(1);
    let mut file = File::create(path).unwrap();
    for number in 0..mebibytes {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

/// Reads all of it and checks each block's number.
fn read_big(path: &Path, mebibytes: usize) {
    let mut block = vec![0; MIB];
    let mut file = File::open(path).unwrap();
    for number in 0..mebibytes {
        file.read_exact(&mut block).unwrap();
        assert_eq!(block[..8], (number as u64).to_le_bytes(), "a block is not what was written");
    }
    assert_eq!(file.read(&mut block).unwrap(), 0);
}

fn in_sequence(folder: &Path, scale: Scale) -> Figures {
    let (path, mebibytes) = (folder.join("big"), scale.big / MIB);
    let rate = |act: &dyn Fn()| {
        let began = Instant::now();
        act();
        mebibytes as f64 / began.elapsed().as_secs_f64()
    };
    let write = rate(&|| write_big(&path, mebibytes));
    drop_caches();
    let cold = rate(&|| read_big(&path, mebibytes));
    let warm = rate(&|| read_big(&path, mebibytes));
    fs::remove_file(&path).unwrap();
    vec![("write MiB/s", write), ("cold MiB/s", cold), ("warm MiB/s", warm)]
}

fn at_random(folder: &Path, scale: Scale) -> Figures {
    let (path, mebibytes) = (folder.join("random"), scale.big / MIB / 4);
    write_big(&path, mebibytes);
    read_big(&path, mebibytes);
    let pages = mebibytes * MIB / PAGE;
    let run = |threads: usize, write: bool| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let path = &path;
                scope.spawn(move || {
                    let file = OpenOptions::new().read(true).write(write).open(path).unwrap();
                    let mut random = SmallRng::seed_from_u64(thread as u64);
                    let mut page = [7; PAGE];
                    for _ in 0..scale.random / threads {
                        // The first page of a block has its number.
                        let at = random.random_range(0..pages) | 1;
                        let offset = (at * PAGE) as u64;
                        if write {
                            file.write_all_at(&page, offset).unwrap();
                        } else {
                            file.read_exact_at(&mut page, offset).unwrap();
                        }
                    }
                });
            }
        });
        scale.random as f64 / began.elapsed().as_secs_f64()
    };
    let figures = vec![
        ("reads/s qd1", run(1, false)),
        ("reads/s qd8", run(8, false)),
        ("writes/s qd1", run(1, true)),
        ("writes/s qd8", run(8, true)),
    ];
    read_big(&path, mebibytes);
    fs::remove_file(&path).unwrap();
    figures
}
