//! A folder with very many entries.

use std::collections::BTreeSet;
use std::fs::File;

use crate::fuse_or_skip;
use crate::support::{Mount, TestServer};

/// 100,000 entries are listed completely, each once, while others are made and removed; what was there all
/// the time is never left out.
#[test]
fn a_folder_of_100000_entries_is_listed_while_it_changes() {
    fuse_or_skip!();
    let server = TestServer::new();
    let mut a = Mount::of(&server);
    // Kept here: this is about the folder, not about sending.
    let folder = a.at(".git");
    std::fs::create_dir(&folder).unwrap();
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
    for (at, entry) in std::fs::read_dir(&folder).unwrap().enumerate() {
        names.push(entry.unwrap().file_name().into_string().unwrap());
        if at.is_multiple_of(100) {
            drop(File::create(folder.join(format!("passing-{at}"))).unwrap());
            std::fs::remove_file(folder.join(format!("0-{}", at / 100))).unwrap();
        }
    }
    let lasting: BTreeSet<&String> = names.iter().filter(|name| is_lasting(name)).collect();
    assert_eq!(lasting.len(), 75_000);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "each once");
    let count = || std::fs::read_dir(&folder).unwrap().count();
    let now = count();
    assert_eq!(now, 100_000);
    a.kill9();
    a.start();
    assert_eq!(count(), now);
    assert_eq!(std::fs::metadata(folder.join("3-24999")).unwrap().len(), 0);
}
