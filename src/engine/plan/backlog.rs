//! A backlog of a hundred thousand records and a server that fails again and again.

use super::tests::Bench;
use super::*;
use crate::engine::link::table::State;
use crate::node::ROOT;

/// What waits at the start.
const RECORDS: usize = 100_000;

fn errors() -> [RemoteError; 4] {
    [
        RemoteError::Unreachable { message: String::new(), maybe_applied: false },
        RemoteError::Unreachable { message: String::new(), maybe_applied: true },
        RemoteError::Busy { status: 503, message: String::new(), retry_after: None },
        RemoteError::Busy {
            status: 429,
            message: String::new(),
            retry_after: Some(Duration::from_secs(5)),
        },
    ]
}

/// Whatever fails in between, and whether or not that opens the circuit: what was accepted stays
/// accepted, each request that gets through takes a whole batch off the backlog, and nothing is sent
/// twice that was accepted once.
#[test]
fn no_failure_throws_a_drain_back() {
    let mut bench = Bench::new(Capabilities { bulk_delete: true, ..Capabilities::default() });
    let folders: Vec<Ino> = (0..100).map(|n| bench.folder(ROOT, &format!("d{n}"))).collect();
    for n in 0..RECORDS {
        bench.write(folders[n % folders.len()], &format!("f{n}"), 100);
    }
    // Folders are records as well where the server stores them; here it does not.
    let total = bench.core.outbox.len();
    bench.pass(Duration::from_secs(1));
    let (mut left, mut requests, mut failures, mut accepted) = (total, 0_usize, 0_usize, 0_usize);
    let mut states = std::collections::BTreeSet::new();
    while !bench.core.outbox.is_empty() {
        let plan = bench.plan();
        if plan.tasks.is_empty() {
            let due = plan.deadline.expect("there is always a next time");
            assert!(due > bench.now.mono, "and it is later than now");
            bench.now.mono = due;
            continue;
        }
        for task in plan.tasks {
            let Task::Bulk(items) = task else { continue };
            requests += 1;
            // Runs of failures, now and then long enough to open the circuit and to fail its probe.
            let fails = matches!(requests % 97, 3 | 40..=42 | 70..=82);
            if fails {
                failures += 1;
                let error = &errors()[requests % 4];
                bench.core.batch_over();
                bench.core.failed(items, error, 0, bench.now, &mut Changes::default());
            } else {
                accepted += items.len();
                bench.accept(Plan { tasks: vec![Task::Bulk(items)], deadline: None });
            }
            states.insert(format!("{:?}", bench.core.link.states()[0]));
            let now_left = bench.core.outbox.len();
            assert!(now_left <= left, "{left} became {now_left}");
            assert!(fails || now_left < left, "a request that got through took nothing off");
            left = now_left;
        }
    }
    assert_eq!(accepted, total, "each once");
    assert!(failures > 50, "{failures}");
    assert!(states.contains(&format!("{:?}", State::Open)), "{states:?}");
    let batches = total.div_ceil(bench.core.settings.batch_files_max);
    assert!(requests - failures <= batches + failures, "{requests} requests for {batches} batches");
    eprintln!("{total} records: {requests} requests, {failures} of them failed");
}
