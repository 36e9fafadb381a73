//! The speed of a mount, beside the least that FUSE costs and the native disk.
//!
//! Runs every workload on three places in the same run, in turn: a mount with the embedded server on
//! loopback, a *floor* (a FUSE daemon that does the least work possible, when one is given), and the disk
//! that holds the mount's state. Prints medians and ratios, and what has a bound of its own: how soon the
//! server and another mount have a change, first listings, memory, the start. All data are verified.
//!
//! ```text
//! cargo bench --bench speed -- [--quick] [--floor PROGRAM] [--only NAME]... [--rounds N] [--json FILE]
//! ```
//!
//! `PROGRAM mem MNT --log FILE [--log-sync-on-close]` must serve files from memory, `PROGRAM pass DIR MNT
//! [--passthrough]` a folder. Needs FUSE, and root for cold reads.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a program that measures, prints and may panic"
)]

mod big;
mod places;
mod programs;
mod report;
mod service;
mod small;
mod tree;

use std::path::{Path, PathBuf};

use self::places::{Bench, Floor, Place};
use self::report::{Report, Row};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Files of the small-file workloads.
    pub files: usize,
    /// Files of the tree.
    pub tree: usize,
    /// Files of the repository.
    pub repository: usize,
    /// Bytes of the big file.
    pub big: usize,
    /// Random reads and writes.
    pub random: usize,
    /// Appended lines.
    pub lines: usize,
    /// Database transactions.
    pub transactions: usize,
    /// Files of the large workspaces.
    pub workspace: usize,
}

const FULL: Scale = Scale {
    files: 10_000,
    tree: 20_000,
    repository: 3_000,
    big: 512 << 20,
    random: 20_000,
    lines: 20_000,
    transactions: 1_000,
    workspace: 100_000,
};

const QUICK: Scale = Scale {
    files: 300,
    tree: 300,
    repository: 60,
    big: 8 << 20,
    random: 300,
    lines: 300,
    transactions: 30,
    workspace: 1_000,
};

/// What a round measured: a metric with its value.
pub type Figures = Vec<(&'static str, f64)>;

/// Something that is run on every place.
pub struct Workload {
    pub name: &'static str,
    /// Which floor it is compared with.
    pub floor: Floor,
    /// The metrics that count, with their bounds.
    pub goals: &'static [Goal],
    /// Runs it in an empty folder of the place.
    pub run: fn(&Path, Scale) -> Figures,
}

/// What a metric should reach.
pub struct Goal {
    pub metric: &'static str,
    pub better: Better,
    /// Bounds of the ratio to the floor and to the native disk.
    pub floor: Option<f64>,
    pub native: Option<f64>,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// More of `metric` is better.
pub const fn more(metric: &'static str, floor: Option<f64>, native: Option<f64>) -> Goal {
    Goal { metric, better: Better::Higher, floor, native }
}

/// Less of `metric` is better.
pub const fn less(metric: &'static str, floor: Option<f64>, native: Option<f64>) -> Goal {
    Goal { metric, better: Better::Lower, floor, native }
}

struct Options {
    scale: Scale,
    rounds: usize,
    floor: Option<PathBuf>,
    only: Vec<String>,
    json: Option<PathBuf>,
}

impl Options {
    fn from_args() -> Result<Self, String> {
        let mut options =
            Self { scale: FULL, rounds: 3, floor: None, only: Vec::new(), json: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                // Given by `cargo bench`.
                "--bench" => {}
                "--quick" => (options.scale, options.rounds) = (QUICK, 1),
                "--floor" => options.floor = Some(PathBuf::from(value()?)),
                "--only" => options.only.push(value()?),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--rounds" => {
                    let text = value()?;
                    options.rounds = text.parse().map_err(|_| format!("--rounds {text}?"))?;
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

fn main() {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\nhint: see the head of benches/speed/main.rs");
            std::process::exit(2);
        }
    };
    if let Err(error) = mountd::fuse::session::check_available() {
        eprintln!("SKIPPED speed: {error}");
        return;
    }
    let bench = Bench::start(options.floor.clone());
    if options.floor.is_none() {
        println!("no --floor PROGRAM: measured against the native disk only");
    }
    let mut report = Report::default();
    let workloads = [small::WORKLOADS, big::WORKLOADS, tree::WORKLOADS, programs::WORKLOADS];
    for workload in workloads.into_iter().flatten().filter(|w| options.wants(w.name)) {
        for row in compare(&bench, workload, &options) {
            row.print();
            report.rows.push(row);
        }
    }
    for (name, measure) in service::MEASURES.iter().filter(|(name, _)| options.wants(name)) {
        for bound in measure(&bench, options.scale) {
            bound.print(name);
            report.bounds.push(((*name).to_owned(), bound));
        }
    }
    if let Some(file) = options.json {
        std::fs::write(&file, report.to_json()).unwrap();
    }
}

/// Runs a workload on all places in turn.
fn compare(bench: &Bench, workload: &Workload, options: &Options) -> Vec<Row> {
    let mut places = vec![Place::native(bench), Place::mount(bench)];
    places.extend(Place::floor(bench, workload.floor));
    let mut measured: Vec<Vec<Figures>> = places.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for (place, figures) in places.iter_mut().zip(&mut measured) {
            let folder = place.root().join(format!("round-{round}"));
            std::fs::create_dir(&folder).unwrap();
            figures.push((workload.run)(&folder, options.scale));
            place.settle();
        }
    }
    let [native, mount, ..] = measured.as_slice() else { unreachable!("two places at least") };
    Row::of(workload, mount, measured.get(2), native)
}
