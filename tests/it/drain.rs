//! The way back: a backlog that drains while things go on failing.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use workspaced::{After, Before};

use crate::fuse_or_skip;
use crate::support::edge::{Edge, reply};
use crate::support::observe::{count, history};
use crate::support::{Mount, TestServer, seed, wait_within};

/// How many files wait: small enough for every run, and `DRAIN_FILES=100000` for the long form.
fn files() -> usize {
    std::env::var("DRAIN_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000)
}

/// A backlog goes out in steady steps: whatever fails in between, requests that are refused, cut
/// before or after they took effect, told to wait, and a daemon that is killed, what was accepted stays
/// accepted. In the end every file is there, made once.
#[test]
fn a_backlog_drains_whatever_fails_in_between() {
    fuse_or_skip!();
    let (files, seed) = (files(), seed());
    let edge = Edge::new();
    let server = TestServer::builder().interceptor(edge.clone()).start();
    let args = ["--circuit-failures", "3", "--circuit-cool-down", "300ms"];
    let mut mount = Mount::builder(&server.source()).args(&args).start();
    mount.wait_synced();
    assert!(mount.ctl(&["pause"]).status.success());
    let folders = 20;
    for folder in 0..folders {
        fs::create_dir(mount.at(&format!("d{folder}"))).unwrap();
    }
    for n in 0..files {
        fs::write(mount.at(&format!("d{}/f{n}", n % folders)), format!("content {n}")).unwrap();
    }
    let queued = |mount: &Mount| mount.status()["uploads"]["queued"].as_u64().unwrap();
    assert_eq!(queued(&mount), (files + folders) as u64);

    let mut random = SmallRng::seed_from_u64(seed);
    let failed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failed);
    edge.before(move |request| {
        // Runs of failures, so that the circuit opens now and then.
        if request.route != "/fs/bulk" || random.random_bool(0.6) {
            return Before::Pass;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..4) {
            0 => reply(503, &[]),
            1 => reply(429, &[("Retry-After", "1")]),
            2 => reply(500, &[]),
            _ => Before::Reset,
        }
    });
    let mut random = SmallRng::seed_from_u64(seed + 1);
    edge.after(move |request, _| {
        let cut = request.route == "/fs/bulk" && random.random_bool(0.1);
        if cut { After::Drop } else { After::Pass }
    });
    let began = Instant::now();
    assert!(mount.ctl(&["resume"]).status.success());
    let mut left = queued(&mount);
    let mut steps = BTreeSet::from([left]);
    let mut kill_at = Some(left / 2);
    // Each hundred files have as long as the longest failure takes.
    let patience = Duration::from_secs(60 + files as u64 / 50);
    wait_within(patience, "the backlog is gone", || {
        let now = queued(&mount);
        assert!(now <= left, "{left} records became {now}");
        left = now;
        steps.insert(now);
        if kill_at.is_some_and(|at| now <= at) {
            kill_at = None;
            mount.kill9();
            mount.start();
        }
        (now == 0).then_some(())
    });
    let took = began.elapsed();
    let failures = failed.load(Ordering::Relaxed);
    eprintln!(
        "{files} files in {took:?}, {:.0} a second; {failures} requests failed, {} steps seen",
        files as f64 / took.as_secs_f64(),
        steps.len()
    );
    assert!(failures > 3 && steps.len() > 3, "{failures} {steps:?}");
    edge.clear();
    let there = server.files();
    assert_eq!(there.len(), files);
    for n in 0..files {
        assert_eq!(there[&format!("/d{}/f{n}", n % folders)], format!("content {n}").as_bytes());
    }
    let history = history(&server);
    assert_eq!(history.iter().filter(|(kind, _)| kind == "file.created").count(), files);
    assert_eq!(count(&history, "file.created", "/d0/f0"), 1);
    assert_eq!(mount.status()["conflicts"]["open"], 0);
    mount.wait_synced();
}
