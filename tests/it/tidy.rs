//! Rules that the compiler does not check: who may name whom, how large a file is, and that what
//! the documents say is there.
//!
//! Each rule is data at the top of this file; a change that needs another edge or door edits the
//! table in the same commit, where a reader sees it.

mod errnos;
mod points;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use self::reading::{
    code_spans, documents_named, is_project_path, leads_somewhere, links, module_groups,
    names_after_crate, names_crate, project_files, read, root, sources,
};

/// Plain types that every module may name.
const VOCABULARY: &[&str] = &[
    "checksum",
    "clock",
    "conflict_policy",
    "digest",
    "ignore_rules",
    "node",
    "path",
    "record",
    "revision",
    "xattrs",
];

/// Modules that put the others together and may name all of them.
const ROOTS: &[&str] = &["main", "lib", "daemon"];

/// Which modules each module names, beyond itself and the vocabulary. Neither more nor less.
const EDGES: &[(&str, &[&str])] = &[
    ("serve", &["args", "report"]),
    // The ways in, as tests and fuzzers use them.
    ("untrusted", &["args", "config", "content", "control", "engine", "remote", "store"]),
    ("args", &[]),
    // `check_url`: which addresses may be spoken to is said in one place.
    ("config", &["args", "remote", "report"]),
    ("failpoints", &[]),
    ("report", &[]),
    ("telemetry", &[]),
    ("control", &["content", "engine", "remote"]),
    // What `errno` tells apart comes from every layer below.
    ("fuse", &["engine", "fs", "remote", "store", "waker"]),
    // How a mount table is written is known in one place.
    ("guardian", &["fuse"]),
    ("waker", &[]),
    ("watch", &[]),
    ("fs", &["content", "engine", "remote", "store"]),
    ("engine", &["content", "namespace", "remote", "store"]),
    ("content", &["store"]),
    ("namespace", &[]),
    ("remote", &[]),
    ("store", &[]),
    ("checksum", &[]),
    ("clock", &[]),
    ("conflict_policy", &[]),
    ("digest", &[]),
    ("ignore_rules", &[]),
    ("node", &[]),
    ("path", &[]),
    ("record", &[]),
    ("revision", &[]),
    ("xattrs", &[]),
];

/// The only modules that name each outside crate.
const DOORS: &[(&str, &[&str])] = &[
    ("axum", &["control"]),
    ("base64", &["control", "remote"]),
    ("clap", &["args", "main", "untrusted"]),
    ("dashmap", &["content", "engine", "fs"]),
    ("fail", &["failpoints"]),
    ("diffy", &["engine"]),
    ("fuser", &["fuse"]),
    ("hyper", &["control"]),
    ("hyper_util", &["control"]),
    ("ignore", &["conflict_policy", "ignore_rules"]),
    (
        "mountctl",
        &["config", "control", "daemon", "main", "report", "serve", "telemetry", "untrusted"],
    ),
    (
        "nix",
        &[
            "content",
            "control",
            "daemon",
            "engine",
            "failpoints",
            "fs",
            "fuse",
            "guardian",
            "main",
            "store",
            "waker",
        ],
    ),
    ("notify", &["watch"]),
    ("rand", &["daemon", "engine", "remote"]),
    ("reqwest", &["remote"]),
    ("rusqlite", &["store"]),
    ("rustix", &["daemon"]),
    ("sd_notify", &["daemon"]),
    ("sha2", &["digest"]),
    ("tokio", &["control", "daemon", "engine", "fs", "remote", "serve", "watch"]),
    ("tokio_tungstenite", &["remote"]),
    ("tracing_subscriber", &["telemetry"]),
    ("url", &["config", "daemon", "remote", "untrusted"]),
    ("workspaced", &["daemon", "serve"]),
    ("zeroize", &["config", "daemon", "remote"]),
    ("xxhash_rust", &["checksum"]),
];

/// What `mountctl` must not drag along: it starts at once and does one thing.
const TOO_HEAVY_FOR_MOUNTCTL: &[&str] = &["reqwest", "fuser", "axum"];

/// Lines of a source file above its tests; files of tests may be longer.
const FILE_LINES_MAX: usize = 600;

/// Each module names what the table says, and the table says nothing that is not so.
#[test]
fn modules_name_what_the_table_says() {
    let named = named_modules();
    let mut wrong = Vec::new();
    for (module, may) in EDGES {
        let (names, may) = (named.get(*module).cloned().unwrap_or_default(), set(may));
        wrong.extend(names.difference(&may).map(|to| format!("{module} names {to}")));
        wrong.extend(may.difference(&names).map(|to| format!("{module} does not name {to}")));
    }
    let known: BTreeSet<&str> =
        EDGES.iter().map(|(module, _)| *module).chain(ROOTS.iter().copied()).collect();
    wrong.extend(
        named
            .keys()
            .filter(|module| !known.contains(module.as_str()))
            .map(|module| format!("{module} is not in the table")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Dependencies go down the list in `src/lib.rs`, group by group, and never in a circle.
#[test]
fn no_module_names_one_above_it() {
    let groups = module_groups();
    let group_of = |module: &str| {
        groups
            .iter()
            .position(|group| group.iter().any(|name| name == module))
            .unwrap_or_else(|| panic!("{module} is not in src/lib.rs"))
    };
    for (module, may) in EDGES {
        for to in *may {
            assert!(group_of(module) <= group_of(to), "{module} names {to}, which is above it");
        }
    }
    let vocabulary = groups.last().map(|group| group.iter().map(String::as_str).collect());
    assert_eq!(vocabulary, Some(VOCABULARY.to_vec()));
    // Taking out, again and again, what names nothing that is left must leave nothing.
    let mut left: BTreeMap<&str, BTreeSet<String>> =
        EDGES.iter().map(|(module, may)| (*module, set(may))).collect();
    while let Some(free) = left.iter().find(|(_, may)| may.is_empty()).map(|(module, _)| *module) {
        left.remove(free);
        for may in left.values_mut() {
            may.remove(free);
        }
    }
    assert!(left.is_empty(), "a circle: {left:?}");
}

/// Each outside crate is used where the table says, so that it can be replaced there.
#[test]
fn outside_crates_enter_by_their_doors() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test) {
        for (name, doors) in DOORS {
            if names_crate(&source.code, name) && !doors.contains(&source.module.as_str()) {
                wrong.push(format!("{}: {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "crates outside their doors:\n{}", wrong.join("\n"));
}

/// Each file is about one thing, says which, and leaves nothing to be done.
#[test]
fn files_are_small_finished_and_say_what_they_are_for() {
    let unfinished = ["todo!", "unimplemented!", "dbg!", "TODO", "FIXME", "XXX"];
    let own = root().join("tests/it/tidy.rs");
    let mut wrong = Vec::new();
    for folder in ["src", "ctl", "server", "tests", "benches"] {
        for source in sources(folder) {
            let path = source.path.strip_prefix(root()).unwrap().display();
            if !source.text.starts_with("//! ") {
                wrong.push(format!("{path} does not say what it is for"));
            }
            let lines = source.text.lines().take_while(|line| !line.starts_with("mod tests {"));
            let lines = lines.count();
            let is_test =
                source.is_test || source.path.components().any(|part| part.as_os_str() == "tests");
            if lines > FILE_LINES_MAX && !is_test {
                wrong.push(format!("{path} has {lines} lines"));
            }
            for word in unfinished.iter().filter(|_| source.path != own) {
                if source.text.contains(word) {
                    wrong.push(format!("{path} holds {word}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing in the project depends on the machine it was written on.
#[test]
fn no_file_names_a_folder_of_some_machine() {
    let own = root().join("tests/it/tidy.rs");
    let strange = ["/work/", "/root/", "/Users/", "/home/user"];
    for path in project_files().into_iter().filter(|path| *path != own) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for word in strange {
            assert!(!text.contains(word), "{} holds {word}", path.display());
        }
    }
}

/// Links of the documents lead somewhere, and files they name are there.
#[test]
fn documents_name_only_what_exists() {
    let mut wrong = Vec::new();
    for path in project_files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if path.extension().is_some_and(|extension| extension == "md") {
            let folder = path.parent().unwrap();
            for link in links(&text) {
                if !leads_somewhere(&path, folder, link) {
                    wrong.push(format!("{shown}: link to {link}"));
                }
            }
            let named = code_spans(&text).into_iter().filter(|span| is_project_path(span));
            wrong.extend(
                named
                    .filter(|named| !root().join(named).exists())
                    .map(|named| format!("{shown}: {named}")),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            wrong.extend(
                documents_named(&text)
                    .into_iter()
                    .filter(|named| !root().join(named).exists())
                    .map(|named| format!("{shown}: {named}")),
            );
        }
    }
    assert!(wrong.is_empty(), "not there:\n{}", wrong.join("\n"));
}

/// What the documents name as a test is one.
#[test]
fn every_test_that_a_promise_names_exists() {
    // Types have the same shape, but not in lower case.
    let is_test = |span: &String| span.starts_with(|c: char| c.is_lowercase());
    for document in ["docs/semantics.md", "docs/testing.md"] {
        let spans = code_spans(&read(&root().join(document)));
        let named =
            spans.iter().filter(|span| is_test(span)).filter(|span| names_a_test(span, document));
        assert!(named.count() > 0, "{document} names no test");
    }
}

/// Whether a span names a test; one that looks so and is none is a failure.
fn names_a_test(span: &str, document: &str) -> bool {
    let Some((file, test)) = span.rsplit_once("::") else { return false };
    let file = file.replace("::", "/");
    let places = [format!("tests/it/{file}.rs"), format!("src/{file}.rs")];
    let places = places.into_iter().chain([format!("tests/{file}.rs")]);
    let tests = format!("src/{file}/tests.rs");
    let found = places
        .chain([tests])
        .filter_map(|place| fs::read_to_string(root().join(place)).ok())
        .any(|text| text.contains(&format!("fn {test}(")));
    assert!(found, "{document} names {span}, which is no test");
    true
}

/// A file of tests that nobody listed would never run.
#[test]
fn every_file_of_tests_is_listed() {
    let top = root().join("tests/it");
    let mut wrong = Vec::new();
    for source in sources("tests/it").iter().filter(|source| !source.path.ends_with("main.rs")) {
        let folder = source.path.parent().unwrap();
        let name = source.path.file_stem().unwrap().to_string_lossy();
        let above = if folder == top { top.join("main.rs") } else { folder.with_extension("rs") };
        let lists = |line: &str| line.trim_start_matches("pub ") == format!("mod {name};");
        if !read(&above).lines().any(lists) {
            wrong.push(format!("{} is not in {}", source.path.display(), above.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `mountctl` depends on neither the kernel edge nor the HTTP stack of the daemon.
#[test]
fn mountctl_stays_small() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "mountctl", "-e", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    for heavy in TOO_HEAVY_FOR_MOUNTCTL {
        let found = tree.lines().any(|line| line.split(' ').next() == Some(heavy));
        assert!(!found, "mountctl depends on {heavy}");
    }
}

/// The modules that each module names, beyond itself and the vocabulary.
fn named_modules() -> BTreeMap<String, BTreeSet<String>> {
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources("src").into_iter().filter(|source| !source.is_test) {
        let names = named.entry(source.module.clone()).or_default();
        names.extend(
            names_after_crate(&source.code)
                .into_iter()
                .filter(|name| *name != source.module && !VOCABULARY.contains(&name.as_str())),
        );
    }
    named.retain(|module, _| !ROOTS.contains(&module.as_str()));
    named
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
