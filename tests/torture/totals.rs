//! What a number of runs came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::writer::Entry;

/// Sums over runs.
#[derive(Default)]
pub struct Totals {
    pub runs: u64,
    pub time: Duration,
    faults: BTreeMap<String, u64>,
    acknowledged: BTreeMap<String, u64>,
    failed: u64,
}

impl Totals {
    pub fn add_hits(&mut self, hits: &BTreeMap<String, u64>) {
        for (kind, count) in hits {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
    }

    pub fn add_kinds(&mut self, kinds: &BTreeMap<String, u64>) {
        self.add_hits(kinds);
    }

    pub fn add_entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.is_done() {
                let call = format!("{:?}", entry.call);
                let name = call.split([' ', '{']).next().unwrap_or_default().to_lowercase();
                *self.acknowledged.entry(name).or_default() += 1;
            } else {
                self.failed += 1;
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: u64 = self.acknowledged.values().sum();
        let faults: u64 = self.faults.values().sum();
        let minutes = self.time.as_secs_f64() / 60.0;
        writeln!(f, "{} runs, {minutes:.1} minutes", self.runs)?;
        writeln!(
            f,
            "{calls} calls acknowledged, {} failed: {}",
            self.failed,
            list(&self.acknowledged)
        )?;
        write!(f, "{faults} faults: {}", list(&self.faults))
    }
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    parts.join(", ")
}
