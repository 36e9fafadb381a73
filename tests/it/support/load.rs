//! Writers that keep an account of what they were told is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// What one writer was told.
#[derive(Debug, Default, Clone)]
pub struct Account {
    /// The newest bytes of each path whose `close` or `rename` succeeded.
    acknowledged: BTreeMap<String, Vec<u8>>,
    /// Bytes that replace the former as a whole, whose `rename` failed: they may have arrived.
    maybe: BTreeMap<String, Vec<Vec<u8>>>,
    /// Paths on which a call failed half-way: anything may be there.
    unknown: BTreeSet<String>,
    next: usize,
}

/// Several writers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Account>>,
}

impl Load {
    /// Starts a writer for each account, in folders of their own below `folder`. A writer ends
    /// when a call fails, as it does when the daemon goes away.
    pub fn start(folder: &Path, accounts: Vec<Account>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let threads = accounts
            .into_iter()
            .enumerate()
            .map(|(number, account)| {
                let writer = Writer {
                    root: folder.to_owned(),
                    name: format!("w{number}"),
                    rng: SmallRng::seed_from_u64(seed ^ (number as u64) << 32),
                    account,
                };
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                std::thread::spawn(move || writer.run(&stop, &acknowledged))
            })
            .collect();
        Self { stop, acknowledged, threads }
    }

    /// Calls that succeeded so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether all writers met their end.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the writers. Returns their accounts.
    pub fn stop(self) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

struct Writer {
    root: PathBuf,
    name: String,
    rng: SmallRng,
    account: Account,
}

impl Writer {
    fn run(mut self, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Account {
        // Once, and not again after a failure: the folder below a mount that ended is no place
        // for it.
        match fs::create_dir(self.root.join(&self.name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return self.account,
            _ => {}
        }
        while !stop.load(Ordering::Relaxed) {
            if self.step().is_err() {
                break;
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.account
    }

    fn step(&mut self) -> io::Result<()> {
        self.account.next += 1;
        let number = self.account.next;
        // Mostly small; now and then beyond what is kept in the database.
        let size = if self.rng.random_ratio(1, 20) { 100_000 } else { 2_000 };
        let mut bytes = vec![0; self.rng.random_range(0..size)];
        self.rng.fill_bytes(&mut bytes);
        bytes.extend_from_slice(format!("#{number}").as_bytes());
        match self.rng.random_range(0..3) {
            0 => self.write(&format!("{}/new-{number}", self.name), bytes),
            1 => {
                let slot = self.rng.random_range(0..8);
                self.write(&format!("{}/slot-{slot}", self.name), bytes)
            }
            _ => {
                let slot = self.rng.random_range(0..8);
                self.replace(&format!("{}/swap-{slot}", self.name), bytes)
            }
        }
    }

    /// Writes in place.
    fn write(&mut self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        let key = format!("/{path}");
        if self.account.unknown.contains(&key) {
            return Ok(());
        }
        match close_checked(&self.root.join(path), &bytes) {
            Ok(()) => {
                self.account.acknowledged.insert(key, bytes);
                Ok(())
            }
            Err(error) => {
                self.account.unknown.insert(key);
                Err(error)
            }
        }
    }

    /// Writes beside it and renames over it, as editors do.
    fn replace(&mut self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        let key = format!("/{path}");
        let temporary = self.root.join(format!("{path}.tmp"));
        close_checked(&temporary, &bytes)?;
        match fs::rename(&temporary, self.root.join(path)) {
            Ok(()) => {
                self.account.acknowledged.insert(key.clone(), bytes);
                self.account.maybe.remove(&key);
                Ok(())
            }
            Err(error) => {
                self.account.maybe.entry(key).or_default().push(bytes);
                Err(error)
            }
        }
    }
}

/// Writes a file and hears what `close` says.
fn close_checked(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::fd::IntoRawFd as _;
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from)
}

/// Checks that every path holds its newest acknowledged bytes; `found` is looked up by path.
#[track_caller]
pub fn check(accounts: &[Account], found: &BTreeMap<String, Vec<u8>>) {
    let mut checked = 0;
    for account in accounts {
        for (path, bytes) in &account.acknowledged {
            if account.unknown.contains(path) {
                continue;
            }
            let there = found.get(path);
            let newest = there == Some(bytes);
            let mut maybe = account.maybe.get(path).into_iter().flatten();
            let newer = maybe.any(|bytes| there == Some(bytes));
            assert!(
                newest || newer,
                "{path}: {} acknowledged bytes end in {:?}, found {:?}, of {} the end is not known: {:?}",
                bytes.len(),
                ending(bytes),
                there.map(|there| (there.len(), ending(there))),
                path,
                account
                    .maybe
                    .get(path)
                    .into_iter()
                    .flatten()
                    .map(|b| ending(b))
                    .collect::<Vec<_>>(),
            );
            checked += 1;
        }
    }
    assert!(checked > 0, "nothing was acknowledged");
}

fn ending(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(6);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}
