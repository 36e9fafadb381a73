//! Made-up bytes, and valid ones that were damaged, at every way in.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn config_of(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A few damages, as [`decode`] reads them.
fn some_damage() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..60)
}

fn way(ways: &'static [Way], name: &str) -> Way {
    *ways.iter().find(|way| way.name == name).unwrap()
}

/// What each way takes, it takes.
#[test]
fn every_seed_is_read() {
    for way in WAYS.iter().chain(SLOW_WAYS) {
        way.seeds.iter().for_each(|seed| (way.read)(seed));
    }
}

/// Each way has a target of the fuzzer of the same name, and there is no other.
#[test]
fn every_way_has_a_fuzz_target() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    let targets: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .collect();
    let ways: Vec<&str> = WAYS.iter().chain(SLOW_WAYS).map(|way| way.name).collect();
    assert_eq!(targets, [&["mountd-fuzz"], &*ways].concat());
    for name in ways {
        let target = fs::read_to_string(root.join(format!("fuzz/targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("mountd::untrusted::{name}(bytes)")), "{name}: {target}");
    }
}

/// Writes what each way takes where the fuzzers look for it: the folder that `FUZZ_CORPUS` names.
#[test]
#[allow(clippy::disallowed_methods, reason = "a variable of this test")]
fn seeds_are_written_for_the_fuzzers() {
    let (_temporary, corpus) = match std::env::var_os("FUZZ_CORPUS") {
        Some(folder) => (None, std::path::PathBuf::from(folder)),
        None => {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_owned();
            (Some(folder), path)
        }
    };
    for way in WAYS.iter().chain(SLOW_WAYS) {
        let folder = corpus.join(way.name);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in way.seeds.iter().enumerate() {
            let path = folder.join(format!("seed-{number}"));
            fs::write(&path, seed).unwrap();
            assert_eq!(fs::read(&path).unwrap(), *seed);
        }
    }
}

proptest! {
    #![proptest_config(config_of(2000))]

    /// Bytes that mean nothing change nothing and stop nothing.
    #[test]
    fn made_up_bytes_are_refused(way in 0..WAYS.len(), bytes in vec(any::<u8>(), 0..200)) {
        (WAYS[way].read)(&bytes);
    }

    /// So do bytes that nearly mean something.
    #[test]
    fn damaged_bytes_are_refused_or_read_safely(
        way in 0..WAYS.len(),
        which in any::<usize>(),
        damage in some_damage(),
    ) {
        let Way { read, seeds, .. } = WAYS[way];
        read(&damaged(seeds[which % seeds.len()].to_vec(), &decode(&damage)));
    }

    /// Texts that were damaged are merged as they should or not at all.
    #[test]
    fn damaged_texts_are_merged_or_refused(which in any::<usize>(), damage in some_damage()) {
        let Way { read, seeds, .. } = way(SLOW_WAYS, "merge");
        read(&damaged(seeds[which % seeds.len()].to_vec(), &decode(&damage)));
    }
}

proptest! {
    #![proptest_config(config_of(40))]

    /// A state database that is none, or is damaged anywhere, or its log, is refused or read; what is
    /// read of it was once written, and the next start reads the same.
    #[test]
    fn a_damaged_state_is_refused_or_read(
        what in prop_oneof![8 => 0..3_u8, 1 => Just(3)],
        damage in some_damage(),
    ) {
        state(&[&[what], &*damage].concat());
    }

    /// What was exported and damaged is taken up as it is or refused, record by record; what waits
    /// stays, and no other file is read.
    #[test]
    fn a_damaged_export_is_refused_or_taken_up(which in any::<usize>(), damage in some_damage()) {
        let Way { read, seeds, .. } = way(SLOW_WAYS, "import");
        read(&damaged(seeds[which % seeds.len()].to_vec(), &decode(&damage)));
    }
}
