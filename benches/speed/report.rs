//! Medians, ratios, and how they are printed.

use std::fmt::Write as _;

use crate::{Better, Figures, Workload};

/// One metric of one workload on all places.
pub struct Row {
    workload: &'static str,
    metric: &'static str,
    mount: f64,
    floor: Option<f64>,
    native: f64,
    better: Better,
    floor_goal: Option<f64>,
    native_goal: Option<f64>,
}

/// A metric of a mount alone, with its bound.
pub struct Bound {
    pub metric: &'static str,
    pub value: f64,
    pub goal: Option<f64>,
    pub better: Better,
}

#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
    pub bounds: Vec<(String, Bound)>,
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which `share` of all are.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

fn of(rounds: &[Figures], metric: &str) -> f64 {
    let value = |round: &Figures| round.iter().find(|(name, _)| *name == metric).unwrap().1;
    median(rounds.iter().map(value).collect())
}

/// A figure with three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn verdict(better: Better, value: f64, goal: Option<f64>) -> String {
    let Some(goal) = goal else { return String::new() };
    let met = match better {
        Better::Higher => value >= goal,
        Better::Lower => value <= goal,
    };
    let sign = if better == Better::Higher { "≥" } else { "≤" };
    format!(" ({} {sign} {})", if met { "meets" } else { "MISSES" }, short(goal))
}

impl Row {
    pub fn of(
        workload: &Workload,
        mount: &[Figures],
        floor: Option<&Vec<Figures>>,
        native: &[Figures],
    ) -> Vec<Self> {
        let row = |goal: &crate::Goal| Self {
            workload: workload.name,
            metric: goal.metric,
            mount: of(mount, goal.metric),
            floor: floor.map(|rounds| of(rounds, goal.metric)),
            native: of(native, goal.metric),
            better: goal.better,
            floor_goal: goal.floor,
            native_goal: goal.native,
        };
        workload.goals.iter().map(row).collect()
    }

    pub fn print(&self) {
        let mut line =
            format!("{:<22} {:<14} mount {:>8}", self.workload, self.metric, short(self.mount));
        if let Some(floor) = self.floor {
            let ratio = self.mount / floor;
            let verdict = verdict(self.better, ratio, self.floor_goal);
            write!(line, "   floor {:>8} ×{}{verdict}", short(floor), short(ratio)).unwrap();
        }
        let ratio = self.mount / self.native;
        let verdict = verdict(self.better, ratio, self.native_goal);
        println!("{line}   native {:>8} ×{}{verdict}", short(self.native), short(ratio));
    }
}

impl Bound {
    pub fn print(&self, workload: &str) {
        let verdict = verdict(self.better, self.value, self.goal);
        println!("{workload:<22} {:<40} {:>8}{verdict}", self.metric, short(self.value));
    }
}

impl Report {
    pub fn to_json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "workload": row.workload, "metric": row.metric, "mount": row.mount,
                    "floor": row.floor, "native": row.native,
                    "ofFloor": row.floor.map(|floor| row.mount / floor),
                    "ofNative": row.mount / row.native,
                    "goalOfFloor": row.floor_goal, "goalOfNative": row.native_goal,
                })
            })
            .collect();
        let bound = |(workload, bound): &(String, Bound)| {
            serde_json::json!({
                "workload": workload, "metric": bound.metric, "value": bound.value,
                "goal": bound.goal,
            })
        };
        let bounds: Vec<_> = self.bounds.iter().map(bound).collect();
        serde_json::to_string_pretty(&serde_json::json!({ "rows": rows, "bounds": bounds }))
            .unwrap()
    }
}
