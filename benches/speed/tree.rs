//! A tree of many files: made, walked, removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use crate::places::{Floor, drop_caches};
use crate::{Figures, Scale, Workload, more};

pub const WORKLOADS: &[Workload] = &[Workload {
    name: "tree",
    floor: Floor::Log,
    goals: &[
        more("create/s", Some(0.6), None),
        more("walk cold/s", Some(0.8), None),
        more("walk warm/s", Some(0.8), None),
        more("remove/s", Some(0.6), None),
    ],
    run,
}];

const PER_FOLDER: usize = 50;

fn run(folder: &Path, scale: Scale) -> Figures {
    let root = folder.join("tree");
    let count = scale.tree;
    let rate = |act: &dyn Fn()| {
        let began = Instant::now();
        act();
        count as f64 / began.elapsed().as_secs_f64()
    };
    let create = rate(&|| {
        for number in 0..count {
            let parent = root.join(format!("{:03}", number / PER_FOLDER));
            if number % PER_FOLDER == 0 {
                fs::create_dir_all(&parent).unwrap();
            }
            fs::write(parent.join(number.to_string()), b"a small file\n").unwrap();
        }
    });
    drop_caches();
    let cold = rate(&|| assert_eq!(walk(&root), (count, count as u64 * 13)));
    let warm = rate(&|| assert_eq!(walk(&root), (count, count as u64 * 13)));
    let remove = rate(&|| fs::remove_dir_all(&root).unwrap());
    vec![("create/s", create), ("walk cold/s", cold), ("walk warm/s", warm), ("remove/s", remove)]
}

/// How many files there are below a folder, and their bytes.
pub fn walk(folder: &Path) -> (usize, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            let (more, size) = walk(&entry.path());
            (files, bytes) = (files + more, bytes + size);
        } else {
            (files, bytes) = (files + 1, bytes + metadata.size());
        }
    }
    (files, bytes)
}
