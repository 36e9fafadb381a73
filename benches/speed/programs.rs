//! Real programs: git, tar, grep, rm, cargo, a database.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use rusqlite::Connection;

use crate::places::Floor;
use crate::small::body;
use crate::{Figures, Scale, Workload, less, more};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "git and files",
        floor: Floor::Log,
        // Less time is better: 0.8 of the floor's speed is 1.25 of its time.
        goals: &[
            less("clone s", Some(1.25), None),
            less("status s", Some(1.25), None),
            less("grep s", Some(1.25), None),
            less("tar x s", Some(1.25), None),
            less("rm s", Some(1.25), None),
        ],
        run: git_and_files,
    },
    Workload {
        name: "cargo build",
        floor: Floor::Log,
        goals: &[less("build s", None, Some(1.0 / 0.95))],
        run: cargo_build,
    },
    Workload {
        name: "sqlite",
        floor: Floor::SyncedLog,
        goals: &[more("WAL tx/s", Some(0.8), None), more("DELETE tx/s", Some(0.8), None)],
        run: sqlite,
    },
];

fn run(program: &str, arguments: &[&str], folder: &Path) -> f64 {
    let began = Instant::now();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; is it installed?"));
    let took = began.elapsed().as_secs_f64();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    took
}

/// A repository and an archive of the same files, made once, on the native disk.
struct Source {
    _folder: tempfile::TempDir,
    repository: PathBuf,
    archive: PathBuf,
}

fn source(files: usize) -> &'static Source {
    static MADE: OnceLock<Source> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        for number in 0..files {
            let parent = repository.join(format!("src/{:02}", number % 60));
            fs::create_dir_all(&parent).unwrap();
            fs::write(parent.join(format!("file-{number}.txt")), body(number)).unwrap();
        }
        run("git", &["init", "-q"], &repository);
        run("git", &["add", "."], &repository);
        let who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        run("git", &[&who[..], &["commit", "-q", "-m", "all"]].concat(), &repository);
        run("tar", &["cf", "../files.tar", "src"], &repository);
        let archive = folder.path().join("files.tar");
        Source { repository, archive, _folder: folder }
    })
}

fn git_and_files(folder: &Path, scale: Scale) -> Figures {
    let source = source(scale.repository);
    let from = format!("file://{}", source.repository.display());
    let clone = run("git", &["clone", "-q", &from, "clone"], folder);
    let cloned = folder.join("clone");
    let status = run("git", &["status", "--porcelain"], &cloned);
    // Every file has such a line, so that each is read and found.
    let grep = run("grep", &["-rlq", "no such line anywhere\\|^file 0:", "src"], &cloned)
        + run("grep", &["-rc", "lazy dog", "src"], &cloned);
    fs::create_dir(folder.join("tar")).unwrap();
    let archive = source.archive.display().to_string();
    let tar = run("tar", &["xf", &archive], &folder.join("tar"));
    run("diff", &["-r", "clone/src", "tar/src"], folder);
    let rm = run("rm", &["-rf", "clone", "tar"], folder);
    vec![("clone s", clone), ("status s", status), ("grep s", grep), ("tar x s", tar), ("rm s", rm)]
}

/// A crate of its own modules, built from nothing.
fn cargo_build(folder: &Path, _scale: Scale) -> Figures {
    let sources = folder.join("built/src");
    fs::create_dir_all(&sources).unwrap();
    let manifest = "[package]\nname = \"built\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
                    [workspace]\n";
    fs::write(folder.join("built/Cargo.toml"), manifest).unwrap();
    let mut main = String::new();
    for number in 0..40 {
        let module = format!(
            "pub fn sum(values: &[u64]) -> u64 {{ values.iter().map(|v| v * {number}).sum() }}\n"
        );
        fs::write(sources.join(format!("m{number}.rs")), module).unwrap();
        writeln!(main, "mod m{number};").unwrap();
    }
    main.push_str("fn main() { println!(\"{}\", m1::sum(&[1, 2]) + m39::sum(&[3])); }\n");
    fs::write(sources.join("main.rs"), main).unwrap();
    let build = run("cargo", &["build", "--offline", "-q"], &folder.join("built"));
    vec![("build s", build)]
}

fn sqlite(folder: &Path, scale: Scale) -> Figures {
    let transactions = |mode: &str| {
        let database = folder.join(format!("{mode}.db"));
        let connection = Connection::open(&database).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection.execute("create table t(id integer primary key, text text)", []).unwrap();
        let began = Instant::now();
        for number in 0..scale.transactions {
            let text = format!("row {number}");
            connection.execute("insert into t(text) values (?1)", [text]).unwrap();
        }
        let rate = scale.transactions as f64 / began.elapsed().as_secs_f64();
        let check = "select count(*) from t";
        let count: i64 = connection.query_row(check, [], |row| row.get(0)).unwrap();
        assert_eq!(count, scale.transactions as i64);
        let whole: String =
            connection.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        rate
    };
    vec![("WAL tx/s", transactions("WAL")), ("DELETE tx/s", transactions("DELETE"))]
}
