//! `blosm run`: the node itself.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::helper::OwnHelper;
use super::log::{self, LogFile};
use crate::config::{CONFIG_FILE, Config, Overrides};
use crate::run::{self, RunOptions};

/// Peers can make libp2p warn as often as they like.
const LOG: &str = "info,libp2p=error";

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    which: Which,
    /// Seal although fewer than half of the members answer at the start (authority)
    #[arg(long)]
    alone: bool,
    /// Seal again although this key has sealed two blocks of one height: no copy of it is in use any more (authority)
    #[arg(long)]
    resume: bool,
    /// What to log: a level or a filter such as info,blosm_net=debug
    #[arg(long, env = "BLOSM_LOG", value_name = "FILTER", default_value = LOG)]
    log: String,
    #[command(flatten)]
    log_file: LogFile,
    #[command(flatten)]
    set: Overrides,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// The configuration file, if it is not DIR/blosm.toml
    #[arg(long, env = "BLOSM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory, as `blosm init` made it
    #[arg(long, env = "BLOSM_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(run: Run) -> anyhow::Result<()> {
    let path = match (run.which.config, run.which.data_dir) {
        (Some(config), _) => config,
        (None, data_dir) => data_dir.unwrap_or_default().join(CONFIG_FILE),
    };
    let config = Config::load_with(&path, &run.set)?;
    log::begin(&run.log, &run.log_file)?;
    let lock = run::lock(&config.data_dir)?;
    // Before any other thread is there: rights are a thread's own, and later ones inherit them.
    let helper_ended = OwnHelper::start(&config, &run.log)?;
    let options = RunOptions {
        alone: run.alone,
        resume: run.resume,
        helper_ended,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.threads)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(run::run(config, options, lock));
    if let (Err(error), true) = (&ended, run.log_file.is_given()) {
        // What ends the node is said on stderr; whoever reads the file looks for it there.
        tracing::error!(%error, "the node ends");
    }
    Ok(ended?)
}
