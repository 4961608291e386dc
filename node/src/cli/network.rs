//! `blosm network new`: the genesis, the authority's key and the recovery key.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use blosm_ledger::{Confirmation, Genesis, Params, SecretKey};
use blosm_net::{Multiaddr, peer_of_key};
use clap::{Args, Subcommand, ValueEnum};
use libp2p::multiaddr::Protocol;
use serde_json::json;

use super::{Output, table};
use crate::config::{NetworkFile, write_secret};

/// Name of the authority's key file, beside the network file.
const AUTHORITY_KEY_FILE: &str = "authority.key";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a network with a new authority key beside it; print the recovery key once
    New(New),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// Name of the network
    #[arg(long)]
    name: String,
    /// The network file to write; authority.key goes beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Address of the authority for new members to dial, repeatable; its peer id is added
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Whether a container moves only after 90 % of the members have confirmed its announcement
    #[arg(long, value_enum, default_value_t)]
    confirmation: Confirm,
    #[command(flatten)]
    output: Output,
}

/// The genesis parameter `confirmation`; it can't be changed later.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Confirm {
    /// Confirmations are counted and reported; no container waits for them
    #[default]
    Advisory,
    /// The paper's rule: no container stops before them
    Required,
}

impl From<Confirm> for Confirmation {
    fn from(confirm: Confirm) -> Self {
        match confirm {
            Confirm::Advisory => Self::Advisory,
            Confirm::Required => Self::Required,
        }
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::New(new) => make(new),
    }
}

fn make(new: New) -> anyhow::Result<()> {
    let authority = SecretKey::generate().context("the system gives no random numbers")?;
    let recovery = SecretKey::generate().context("the system gives no random numbers")?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970; set it")?;
    let genesis = Genesis {
        name: new.name,
        authorities: vec![authority.public()],
        recovery: recovery.public(),
        time_ms: u64::try_from(now.as_millis()).context("the clock is off; set it")?,
        params: Params {
            confirmation: new.confirmation.into(),
            ..Params::default()
        },
    };
    genesis.validate()?;
    let peer = peer_of_key(&authority.public().0);
    let bootstrap = new
        .bootstrap
        .into_iter()
        .map(|address| match address.iter().last() {
            Some(Protocol::P2p(_)) => address,
            _ => address.with(Protocol::P2p(peer)),
        });
    let file = NetworkFile {
        bootstrap: bootstrap.collect(),
        genesis,
    };

    let folder = new.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let key_path = folder.unwrap_or(Path::new(".")).join(AUTHORITY_KEY_FILE);
    if new.out.exists() {
        bail!(
            "{} exists and is not overwritten: it is the network's identity",
            new.out.display()
        );
    }
    write_secret(&key_path, authority.seed())?;
    if let Err(error) = write_network(&new.out, &file) {
        // The key belongs to a network that does not exist.
        let _ = fs::remove_file(&key_path);
        return Err(error).with_context(|| format!("cannot write {}", new.out.display()));
    }

    let recovery_secret = hex::encode(recovery.seed());
    let value = json!({
        "network": new.out, "name": file.genesis.name, "chain_id": file.chain_id(),
        "authority": authority.public(), "peer_id": peer.to_string(), "authority_key_file": key_path,
        "confirmation": file.genesis.params.confirmation, "recovery": recovery.public(), "recovery_secret": recovery_secret,
    });
    new.output.print(&value, || {
        table::lines(&[
            ("network", format!("{} ({})", file.genesis.name, file.chain_id())),
            ("written", new.out.display().to_string()),
            ("authority", authority.public().to_string()),
            ("its key", format!("{} (keep it secret)", key_path.display())),
            (
                "recovery",
                format!("{recovery_secret} (shown once: write it down, keep it apart from the network)"),
            ),
            (
                "next",
                format!(
                    "blosm init --network {} --key {} --data-dir DIR --location LAT,LON",
                    new.out.display(),
                    key_path.display()
                ),
            ),
        ])
    });
    Ok(())
}

/// Writes the file anew and makes it durable.
fn write_network(path: &Path, file: &NetworkFile) -> anyhow::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
    out.write_all(network_toml(file)?.as_bytes())?;
    out.sync_all()?;
    Ok(())
}

/// The text of a network file.
pub(super) fn network_toml(file: &NetworkFile) -> anyhow::Result<String> {
    Ok(format!(
        "# A BloSM network. Every member needs this file. The hash of [genesis] is the network's id: never change it.\n\
         # The bootstrap addresses may be changed at will; each ends in /p2p/ and the member's peer id.\n{}",
        toml::to_string(file)?
    ))
}
