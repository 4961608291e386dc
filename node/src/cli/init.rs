//! `blosm init`: a data directory with everything that `blosm run` needs.
//!
//! Run again it keeps what is there, adds what is missing and prints the same lines; it never overwrites.
//! When it fails it takes away what it has made.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::datadir::DataDir;
use super::{Output, table};
use crate::config::{CONFIG_FILE, Config, ConfigError, NetworkFile, Overrides, read_secret_key};

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
    let network = NetworkFile::read(&init.network)?;
    let mut data = DataDir::open(&init.data_dir)?;
    data.place_network(&network, &fs::read_to_string(&init.network)?)?;
    data.place_key(init.key.as_deref().map(read_secret_key).transpose()?)?;
    data.place_token()?;
    let fresh = data.place_config(&init.set)?;
    report(&init, &data, fresh)?;
    data.keep();
    Ok(())
}

fn report(init: &Init, data: &DataDir, fresh: bool) -> anyhow::Result<()> {
    let path = data.path(CONFIG_FILE);
    let config = match Config::load(&path) {
        Ok(config) => config,
        // The one key without a default may come later; everything else has to be right now.
        Err(ConfigError::Value { key, .. }) if key == "node.location" && init.set.location.is_none() => {
            let place = Overrides {
                location: "0,0".parse().ok(),
                ..Overrides::default()
            };
            let config = Config::load_with(&path, &place)?;
            print(init, &config, data, None);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if !fresh {
        data.check_settings(&config, &init.set)?;
    }
    let admit = config.admit_command();
    print(init, &config, data, Some(&admit));
    Ok(())
}

fn print(init: &Init, config: &Config, data: &DataDir, admit: Option<&str>) {
    let value = json!({
        "key": config.public_key(), "peer_id": config.peer_id().to_string(),
        "network": config.network.genesis.name, "chain_id": config.network.chain_id,
        "authority": config.is_authority(), "data_dir": config.data_dir, "admit": admit,
    });
    init.output.print(&value, || {
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
            ("written", data.written()),
            ("next", next),
        ]);
        if let Some(admit) = admit {
            text = format!("{text}\n{admit}\n");
        }
        text
    });
}
