//! The `blosm-testnet` command line. Exit status: 0 done, 1 it failed (the reason on stderr), 2 bad usage.

use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::bench::{self, Bench};
use crate::cleanup;
use crate::demo::{self, Demo};
use crate::engine::Engine;
use crate::hosts::{self, LinkQuality, MAX_HOSTS, Percent, Rate};
use crate::node::Node;
use crate::shell;
use crate::status;
use crate::testnet::{Spec, Testnet};

/// Networks of real blosm nodes on one machine: a namespace, a shaped link and a private engine for each.
#[derive(Debug, Parser)]
#[command(name = "blosm-testnet", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a car past three nodes and show what its container did
    Demo(Demo),
    /// Measure on real engines
    #[command(subcommand)]
    Bench(Bench),
    /// Bring a testnet up and keep it until Ctrl-C
    Up(Up),
    /// Show what runs
    Status {
        #[command(flatten)]
        testnet: At,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Kill a node or an engine (SIGKILL)
    Kill {
        /// node2, engine2
        what: Target,
        #[command(flatten)]
        testnet: At,
    },
    /// Stop a node or an engine if it runs, and start it again
    Restart {
        /// node2, engine2
        what: Target,
        #[command(flatten)]
        testnet: At,
    },
    /// Take a host's link down
    Cut {
        /// The host's number
        host: usize,
        #[command(flatten)]
        testnet: At,
    },
    /// Take a host's link up again
    Heal {
        /// The host's number
        host: usize,
        #[command(flatten)]
        testnet: At,
    },
    /// Change what a host's link does: its rate, delay, jitter, loss, or a cut in one direction
    Link(Link),
    /// Pass a host's frames on, late or not at all
    #[command(hide = true)]
    LinkRelay {
        /// The host's number
        host: usize,
        /// The file that says how late
        control: PathBuf,
    },
    /// Run a program on a host, with BLOSM_DATA_DIR and DOCKER_HOST set for it
    Exec {
        #[command(flatten)]
        testnet: At,
        /// The host's number, or `cars`
        host: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Remove a testnet with everything that belongs to it
    Down {
        #[command(flatten)]
        testnet: At,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// The testnet's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Link {
    /// The host's number
    host: usize,
    /// The capacity, both ways
    #[arg(long)]
    rate: Option<Rate>,
    /// What every packet waits, such as 20ms
    #[arg(long, value_name = "TIME", value_parser = hosts::millis)]
    delay: Option<u32>,
    /// What it may wait on top, evenly distributed; packets keep their order
    #[arg(long, value_name = "TIME", value_parser = hosts::millis)]
    jitter: Option<u32>,
    /// How many packets are lost, such as 1%
    #[arg(long, value_name = "PERCENT")]
    loss: Option<Percent>,
    /// Every packet is lost
    #[arg(long)]
    cut: bool,
    /// Which way delay, jitter, loss and cut are for, as the host sees it
    #[arg(long, default_value = "both")]
    direction: Way,
    /// First take back all delay, jitter, loss and cuts
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    testnet: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// From the host
    Up,
    /// To the host
    Down,
    /// Both ways
    Both,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    peers: usize,
    /// What runs the containers
    #[arg(long, default_value = "docker")]
    runtime: Runtime,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The capacity of each host's link, both ways
    #[arg(long, default_value = "40mbit")]
    rate: Rate,
    /// Return at once and leave it running
    #[arg(long)]
    detach: bool,
    /// Hosts, engines and the base image only
    #[arg(long)]
    no_nodes: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Runtime {
    /// A private Docker engine on each host
    Docker,
}

/// What can be killed and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Node(usize),
    Engine(usize),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Target> {
        let number = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
        if let Some(number) = number("engine") {
            return Ok(Target::Engine(number));
        }
        let number = number("node").or_else(|| number("host")).or_else(|| number(""));
        number
            .map(Target::Node)
            .with_context(|| format!("{text:?}: write it as node2 or engine2"))
    }
}

/// Parses the command line, does it, and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("BLOSM_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(Box::pin(execute(cli.command))));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blosm-testnet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Demo(demo) => demo::run(demo).await,
        Command::Bench(what) => bench::run(what).await,
        Command::Up(options) => up(options).await,
        Command::Status { testnet, json } => status::print(&Testnet::attach(&testnet.dir)?, json).await,
        Command::Kill { what, testnet } => kill(what, &testnet.dir),
        Command::Restart { what, testnet } => restart(what, &testnet.dir).await,
        Command::Cut { host, testnet } => Testnet::attach(&testnet.dir)?.cut(host),
        Command::Heal { host, testnet } => Testnet::attach(&testnet.dir)?.heal(host),
        Command::Link(options) => link(&options),
        Command::LinkRelay { host, control } => hosts::relay::run(host, control),
        Command::Exec { testnet, host, words } => exec(&testnet.dir, &host, &words),
        Command::Down { testnet } => cleanup::teardown(Testnet::attach(&testnet.dir)?.state().dir.as_path()),
    }
}

async fn up(options: Up) -> Result<()> {
    let Runtime::Docker = options.runtime;
    if !(1..=MAX_HOSTS).contains(&options.peers) {
        bail!("--peers lies between 1 and {MAX_HOSTS}");
    }
    let spec = Spec {
        dir: options.dir,
        rate: options.rate,
        nodes: !options.no_nodes,
        ..Spec::hosts(options.peers)
    };
    let testnet = Testnet::up(&spec, &|line| println!("{line}")).await?;
    status::print(&testnet, false).await?;
    let dir = testnet.state().dir.clone();
    println!(
        "\nblosm-testnet status|kill|restart|cut|heal|exec|down --dir {}",
        dir.display()
    );
    if options.detach {
        testnet.detach();
        return Ok(());
    }
    println!("Ctrl-C removes it");
    // The signal's thread ends this process; another command may take the testnet down before that.
    while dir.exists() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    testnet.detach();
    Ok(())
}

fn link(options: &Link) -> Result<()> {
    let mut testnet = Testnet::attach(&options.testnet.dir)?;
    if let Some(rate) = options.rate {
        testnet.reshape(options.host, rate)?;
    }
    let before = testnet.state().host(options.host)?.link;
    let mut link = if options.clear {
        LinkQuality::default()
    } else {
        before
    };
    for (way, quality) in [(Way::Up, &mut link.up), (Way::Down, &mut link.down)] {
        if ![way, Way::Both].contains(&options.direction) {
            continue;
        }
        quality.delay_ms = options.delay.unwrap_or(quality.delay_ms);
        quality.jitter_ms = options.jitter.unwrap_or(quality.jitter_ms);
        quality.loss = options.loss.unwrap_or(quality.loss);
        quality.cut |= options.cut;
    }
    testnet.impair(options.host, link)?;
    println!("host{}: {link}", options.host);
    Ok(())
}

fn kill(what: Target, dir: &Path) -> Result<()> {
    let mut testnet = Testnet::attach(dir)?;
    match what {
        Target::Node(number) => testnet.kill_node(number),
        Target::Engine(number) => testnet.kill_engine(number),
    }
}

async fn restart(what: Target, dir: &Path) -> Result<()> {
    let mut testnet = Testnet::attach(dir)?;
    match what {
        Target::Node(number) => {
            testnet.stop_node(number)?;
            testnet.start_node(number).await
        }
        Target::Engine(number) => {
            testnet.stop_engine(number)?;
            testnet.start_engine(number).await
        }
    }
}

fn exec(dir: &Path, host: &str, words: &[String]) -> Result<()> {
    let testnet = Testnet::attach(dir)?;
    let state = testnet.state();
    let mut command = Program::new(shell::find("nsenter").context("nsenter is not on the PATH")?);
    let namespace = if host == "cars" {
        state.road().cars()
    } else {
        let number = host
            .trim_start_matches("host")
            .parse()
            .with_context(|| format!("{host:?} is no host"))?;
        state.host(number)?;
        command
            .env("BLOSM_DATA_DIR", state.data_dir(number))
            .env("DOCKER_HOST", Engine::of(state, number).url());
        state.namespace(number)
    };
    command
        .arg(format!("--net={}", namespace.path().display()))
        .arg("--");
    match words {
        [first, rest @ ..] if first == "blosm" => command.arg(Node::of(state, 1)?.binary()).args(rest),
        words => command.args(words),
    };
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        bail!("{} ended with {status}", words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn targets_are_read() {
        assert_eq!("node2".parse::<Target>().unwrap(), Target::Node(2));
        assert_eq!("3".parse::<Target>().unwrap(), Target::Node(3));
        assert_eq!("engine10".parse::<Target>().unwrap(), Target::Engine(10));
        assert!("engine".parse::<Target>().is_err());
        assert!("road".parse::<Target>().is_err());
    }
}
