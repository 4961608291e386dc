//! `blosm init`: a data directory with everything that `blosm run` needs.
//!
//! Run again it keeps what is there, adds what is missing and prints the same lines; it never overwrites.
//! When it fails it takes away what it has made.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use blosm_ledger::SecretKey;
use clap::Args;
use serde_json::json;

use super::{Output, table};
use crate::config::{
    CONFIG_FILE, Config, ConfigError, KEY_FILE, NETWORK_FILE, NetworkFile, Overrides, TOKEN_FILE,
    default_toml, read_secret_key, write_secret,
};

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The network's file
    #[arg(long, value_name = "FILE")]
    network: PathBuf,
    /// The data directory to make
    #[arg(long, env = "BLOSM_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Use this key, such as the authority's, instead of a new one
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    set: Overrides,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(init: Init) -> anyhow::Result<()> {
    let mut made = Made::default();
    match make(&init, &mut made) {
        Ok(()) => Ok(()),
        Err(error) => {
            made.undo();
            Err(error)
        }
    }
}

fn make(init: &Init, made: &mut Made) -> anyhow::Result<()> {
    let dir = &init.data_dir;
    let network = NetworkFile::read(&init.network)?;
    if !dir.exists() {
        // Journals hold sessions' tokens: nobody else needs to look in.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        made.dir = Some(dir.clone());
    }
    copy_network(init, &network, made)?;
    place_key(init, made)?;
    let token_path = dir.join(TOKEN_FILE);
    if !token_path.exists() {
        let token = SecretKey::generate().context("the system gives no random numbers")?;
        made.file(&token_path, |path| Ok(write_secret(path, token.seed())?))?;
    }
    let config_path = dir.join(CONFIG_FILE);
    let fresh = !config_path.exists();
    if fresh {
        made.file(&config_path, |path| write_new(path, &default_toml(&init.set)))?;
    }
    report(init, &config_path, fresh, made)
}

/// The network file goes with the data, so that the directory is whole by itself.
fn copy_network(init: &Init, network: &NetworkFile, made: &mut Made) -> anyhow::Result<()> {
    let own = init.data_dir.join(NETWORK_FILE);
    if own.exists() {
        let there = NetworkFile::read(&own)?;
        ensure!(
            there.chain_id() == network.chain_id(),
            "{} belongs to another network, {} ({}); take a new data directory",
            init.data_dir.display(),
            there.genesis.name,
            there.chain_id()
        );
        return Ok(());
    }
    made.file(&own, |own| {
        let text = fs::read_to_string(&init.network)?;
        write_new(own, &text)
    })
}

fn place_key(init: &Init, made: &mut Made) -> anyhow::Result<()> {
    let own = init.data_dir.join(KEY_FILE);
    let given = init.key.as_deref().map(read_secret_key).transpose()?;
    if own.exists() {
        let there = read_secret_key(&own)?;
        if let Some(given) = given {
            ensure!(
                given.public() == there.public(),
                "{} is there and holds another key than --key; take a new data directory",
                own.display()
            );
        }
        return Ok(());
    }
    let key = match given {
        Some(key) => key,
        None => SecretKey::generate().context("the system gives no random numbers")?,
    };
    made.file(&own, |own| Ok(write_secret(own, key.seed())?))
}

fn report(init: &Init, config_path: &Path, fresh: bool, made: &Made) -> anyhow::Result<()> {
    let config = match Config::load(config_path) {
        Ok(config) => config,
        // The one key without a default may come later; everything else has to be right now.
        Err(ConfigError::Value { key, .. }) if key == "node.location" && init.set.location.is_none() => {
            let place = Overrides {
                location: "0,0".parse().ok(),
                ..Overrides::default()
            };
            let config = Config::load_with(config_path, &place)?;
            print(init, &config, made, None);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if !fresh {
        let wished = Config::load_with(config_path, &init.set)?;
        if let Some(key) = differing(&config, &wished) {
            bail!(
                "{} is there and says something else for {key}; change it there",
                config_path.display()
            );
        }
    }
    let admit = config.admit_command();
    print(init, &config, made, Some(&admit));
    Ok(())
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

fn print(init: &Init, config: &Config, made: &Made, admit: Option<&str>) {
    let value = json!({
        "key": config.public_key(), "peer_id": config.peer_id().to_string(),
        "network": config.network.genesis.name, "chain_id": config.network.chain_id,
        "authority": config.is_authority(), "data_dir": config.data_dir, "admit": admit,
    });
    init.output.print(&value, || {
        let written: Vec<_> = made
            .files
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .collect();
        let written = if written.is_empty() {
            "nothing: all is there".to_owned()
        } else {
            written.join(", ")
        };
        let next = match (admit, config.is_authority()) {
            (None, _) => format!(
                "set `location` under [node] in {}, then `blosm init` again prints how to admit this node",
                config.path.display()
            ),
            (Some(_), true) => format!(
                "blosm run --data-dir {} (an authority: it admits itself on its first run)",
                init.data_dir.display()
            ),
            (Some(_), false) => format!(
                "the line below on the authority, then blosm run --data-dir {}",
                init.data_dir.display()
            ),
        };
        let mut text = table::lines(&[
            ("node key", config.public_key().to_string()),
            ("peer id", config.peer_id().to_string()),
            (
                "network",
                format!("{} ({})", config.network.genesis.name, config.network.chain_id),
            ),
            ("data", config.data_dir.display().to_string()),
            ("written", written),
            ("next", next),
        ]);
        if let Some(admit) = admit {
            text = format!("{text}\n{admit}\n");
        }
        text
    });
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    Ok(())
}

/// What this run has made, to be taken away if it fails.
#[derive(Debug, Default)]
struct Made {
    dir: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Made {
    fn file(&mut self, path: &Path, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        make(path).with_context(|| format!("cannot write {}", path.display()))?;
        self.files.push(path.to_owned());
        Ok(())
    }

    fn undo(self) {
        for path in self.files {
            let _ = fs::remove_file(path);
        }
        if let Some(dir) = self.dir {
            // Only if empty: nothing that somebody else put there goes.
            let _ = fs::remove_dir(dir);
        }
    }
}
