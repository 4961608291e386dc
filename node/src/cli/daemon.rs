//! `blosm run`: the node itself.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::helper::OwnHelper;
use crate::config::{CONFIG_FILE, Config, Overrides};
use crate::run::{self, RunOptions};

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    which: Which,
    /// Seal although fewer than half of the members answer at the start (authority)
    #[arg(long)]
    alone: bool,
    /// What to log: a level or a filter such as info,blosm_net=debug
    #[arg(long, env = "BLOSM_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
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
    log_to_stderr(&run.log)?;
    let lock = run::lock(&config)?;
    // Before any other thread is there: rights are a thread's own, and later ones inherit them.
    let helper_ended = OwnHelper::start(&config, &run.log)?;
    let options = RunOptions {
        alone: run.alone,
        helper_ended,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run::run(config, options, lock))?;
    Ok(())
}

pub(super) fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no log filter; try info or info,blosm_net=debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
