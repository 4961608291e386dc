//! The file of a session journal on a disk that forgets at a power cut what was not synced.

use blosm_migrate::session::journal_bytes::MAGIC;
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

pub(crate) struct Disk {
    /// What survives a power cut.
    durable: Vec<u8>,
    /// What was written after it: it survives the process, not the machine.
    cached: Vec<u8>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            durable: MAGIC.to_vec(),
            cached: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.cached.extend_from_slice(bytes);
    }

    pub(crate) fn sync(&mut self) {
        self.durable.append(&mut self.cached);
    }

    /// What survives whatever comes.
    pub(crate) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// What a process reads.
    pub(crate) fn read(&self) -> Vec<u8> {
        [self.durable.as_slice(), &self.cached].concat()
    }

    /// A process cuts off a torn end.
    pub(crate) fn truncate(&mut self, good: usize) {
        let mut all = self.read();
        all.truncate(good);
        self.cached = all.split_off(self.durable.len().min(good));
        self.durable.truncate(good);
    }

    /// Of what was not synced a part may have reached the disk.
    pub(crate) fn power_cut(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let kept = rng.random_range(0..=self.cached.len());
        // Mostly nothing: the system writes back after many seconds.
        if rng.random_bool(0.3) {
            self.durable.extend_from_slice(&self.cached[..kept]);
            // The file may have grown by a block that was never written.
            if kept > 0 && rng.random_bool(0.3) {
                let torn = rng.random_range(0..kept);
                let at = self.durable.len() - torn - 1;
                self.durable[at..].fill(0);
            }
        }
        self.cached.clear();
    }
}
