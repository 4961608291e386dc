//! A data directory in the making, for `init` and `join`: what is there is kept, what is missing is made, nothing is
//! overwritten. What a command has made goes away again if the command fails before it says [`DataDir::keep`].

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use blosm_ledger::SecretKey;

use crate::config::{
    CONFIG_FILE, Config, KEY_FILE, NETWORK_FILE, NetworkFile, Overrides, TOKEN_FILE, default_toml,
    read_secret_key, write_secret,
};
use crate::durable;
use crate::run::{self, LOCK_FILE, Lock, RunError};

#[derive(Debug)]
pub(super) struct DataDir {
    dir: PathBuf,
    made_dir: bool,
    files: Vec<PathBuf>,
    kept: bool,
}

impl DataDir {
    /// Opens the directory, or makes it.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let made_dir = !dir.exists();
        if made_dir {
            // Journals hold sessions' tokens: nobody else needs to look in.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            made_dir,
            files: Vec::new(),
            kept: false,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The right to run on it, which no node must have meanwhile.
    pub(super) fn lock(&mut self) -> Result<Lock, RunError> {
        let path = self.path(LOCK_FILE);
        let there = path.exists();
        let lock = run::lock(&self.dir)?;
        if !there {
            self.files.push(path);
        }
        Ok(lock)
    }

    /// The network that it belongs to already, if any.
    pub(super) fn network(&self) -> anyhow::Result<Option<NetworkFile>> {
        let own = self.path(NETWORK_FILE);
        Ok(match own.exists() {
            true => Some(NetworkFile::read(&own)?),
            false => None,
        })
    }

    /// The network file goes with the data, so that the directory is whole by itself.
    pub(super) fn place_network(&mut self, network: &NetworkFile, text: &str) -> anyhow::Result<()> {
        match self.network()? {
            Some(there) => ensure!(
                there.chain_id() == network.chain_id(),
                "{} belongs to another network, {} ({}); take a new data directory",
                self.dir.display(),
                there.genesis.name,
                there.chain_id()
            ),
            None => self.file(&self.path(NETWORK_FILE), |own| {
                Ok(durable::create(own, text.as_bytes(), 0o644)?)
            })?,
        }
        Ok(())
    }

    /// The node's key: the one that is there, or `given`, or a new one.
    pub(super) fn place_key(&mut self, given: Option<SecretKey>) -> anyhow::Result<SecretKey> {
        let own = self.path(KEY_FILE);
        if own.exists() {
            let there = read_secret_key(&own)?;
            if let Some(given) = given {
                ensure!(
                    given.public() == there.public(),
                    "{} is there and holds another key than --key; take a new data directory",
                    own.display()
                );
            }
            return Ok(there);
        }
        let key = match given {
            Some(key) => key,
            None => SecretKey::generate().context("the system gives no random numbers")?,
        };
        self.file(&own, |own| Ok(write_secret(own, key.seed())?))?;
        Ok(key)
    }

    /// The token of the local API.
    pub(super) fn place_token(&mut self) -> anyhow::Result<()> {
        let path = self.path(TOKEN_FILE);
        if path.exists() {
            return Ok(());
        }
        let token = SecretKey::generate().context("the system gives no random numbers")?;
        self.file(&path, |path| Ok(write_secret(path, token.seed())?))
    }

    /// The configuration with these settings. Says whether it was made now.
    pub(super) fn place_config(&mut self, set: &Overrides) -> anyhow::Result<bool> {
        let path = self.path(CONFIG_FILE);
        if path.exists() {
            return Ok(false);
        }
        self.file(&path, |path| {
            Ok(durable::create(path, default_toml(set).as_bytes(), 0o644)?)
        })?;
        Ok(true)
    }

    /// Refuses settings that the configuration, which was there before, contradicts.
    pub(super) fn check_settings(&self, config: &Config, set: &Overrides) -> anyhow::Result<()> {
        let path = self.path(CONFIG_FILE);
        let wished = Config::load_with(&path, set)?;
        if let Some(key) = differing(config, &wished) {
            bail!(
                "{} is there and says something else for {key}; change it there",
                path.display()
            );
        }
        Ok(())
    }

    /// The names of the files that were made, for people.
    pub(super) fn written(&self) -> String {
        let written: Vec<_> = self
            .files
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .filter(|name| *name != LOCK_FILE)
            .collect();
        if written.is_empty() {
            "nothing: all is there".to_owned()
        } else {
            written.join(", ")
        }
    }

    /// From now on nothing is taken away.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    fn file(&mut self, path: &Path, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        make(path).with_context(|| format!("cannot write {}", path.display()))?;
        self.files.push(path.to_owned());
        Ok(())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for path in &self.files {
            let _ = fs::remove_file(path);
        }
        if self.made_dir {
            // Only if empty: nothing that somebody else put there goes.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// The first setting in which two configurations of one node differ.
fn differing(ours: &Config, wished: &Config) -> Option<&'static str> {
    let pairs = [
        ("[node] label", ours.node.label == wished.node.label),
        ("[node] location", ours.node.location == wished.node.location),
        ("[node] radius", ours.node.radius_m == wished.node.radius_m),
        ("[net] listen", ours.net.listen == wished.net.listen),
        ("[net] advertise", ours.net.advertise == wished.net.advertise),
        ("[gateway] listen", ours.gateway.listen == wished.gateway.listen),
        ("[gateway] url", ours.gateway.url == wished.gateway.url),
        ("[api] listen", ours.api.listen == wished.api.listen),
        ("[metrics] listen", ours.metrics.listen == wished.metrics.listen),
        ("[metrics] url", ours.metrics.url == wished.metrics.url),
        ("[engine] runtime", ours.engine.runtime == wished.engine.runtime),
        ("[engine] socket", ours.engine.socket == wished.engine.socket),
    ];
    pairs.into_iter().find_map(|(key, same)| (!same).then_some(key))
}
