//! The `blosm-testnet` command line. Exit status: 0 done, 1 it failed (the reason on stderr), 2 bad usage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::{self, Bench};
use crate::cleanup;
use crate::config::Runtime;
use crate::dashboards::{self, CheckDashboards};
use crate::demo::{self, Demo};
use crate::drive::{self, Drive};
use crate::engine::Engine;
use crate::hosts::{self, LinkQuality, Percent, Rate};
use crate::monitor;
use crate::node;
use crate::offers::Offers;
use crate::oracle;
use crate::scenario;
use crate::state::{Ground, the_only_dir};
use crate::status;
use crate::testnet::{self, Spec, Testnet};
use crate::web::{self, Web};

/// Networks of real blosm nodes on one machine: a namespace, a shaped link and a private engine for each, or many plain
/// processes.
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
    CheckDashboards(CheckDashboards),
    /// Drive cars past the nodes of a testnet that runs
    Drive {
        #[command(flatten)]
        drive: Drive,
        #[command(flatten)]
        testnet: At,
    },
    /// Run a scenario: cars, faults on a timeline, and an oracle outside the nodes
    Run(scenario::Run),
    /// Write down what service instances tell at a socket
    #[command(hide = true)]
    Oracle {
        /// Where to listen
        socket: PathBuf,
        /// The file to write to
        records: PathBuf,
    },
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
    /// Pass Prometheus' questions on into the hosts' network
    #[command(hide = true)]
    MonitorBridge {
        /// The port of loopback to listen on
        port: u16,
        /// The monitor's folder
        dir: PathBuf,
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
    /// The testnet's folder [default: the only one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl At {
    fn attach(&self) -> Result<Testnet> {
        match &self.dir {
            Some(dir) => Testnet::attach(dir),
            None => Testnet::attach(&the_only_dir()?),
        }
    }
}

/// More nodes than these are not listed when they are up.
const SHOWN: usize = 10;

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
    /// How many nodes: at most 250 with sim, 10 with docker
    #[arg(long, default_value_t = 3, value_name = "N")]
    peers: usize,
    /// What runs the containers
    #[arg(long, default_value = "sim")]
    runtime: Runtime,
    /// An empty or absent folder [default: one below the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The capacity of each host's link, both ways (docker) [default: 40mbit]
    #[arg(long)]
    rate: Option<Rate>,
    /// Return when all nodes are ready and have one head, and leave them running
    #[arg(long)]
    detach: bool,
    /// Where the live page is served, until Ctrl-C
    #[arg(long, default_value = web::LISTEN, value_name = "ADDR:PORT", conflicts_with_all = ["detach", "no_nodes"])]
    web: SocketAddr,
    /// Hosts, engines and the base image only (docker)
    #[arg(long)]
    no_nodes: bool,
    /// Also start the system's Prometheus, and Grafana where there is one, with the project's dashboards
    #[arg(long, conflicts_with = "no_nodes")]
    monitor: bool,
    #[command(flatten)]
    offers: Offers,
}

impl Up {
    /// What is to be brought up.
    ///
    /// # Errors
    /// The options do not fit together.
    fn spec(&self) -> Result<Spec, clap::Error> {
        let (runtime, most, hint) = match self.runtime {
            Runtime::Docker => {
                let sim = testnet::most(Ground::Loopback, Runtime::Sim);
                let hint = format!("; --runtime sim takes up to {sim}");
                ("docker", testnet::most(Ground::Road, Runtime::Docker), hint)
            }
            Runtime::Sim => (
                "sim",
                testnet::most(Ground::Loopback, Runtime::Sim),
                String::new(),
            ),
        };
        if !(1..=most).contains(&self.peers) {
            let why = format!("--peers lies between 1 and {most} with --runtime {runtime}{hint}");
            return Err(misuse("up", ErrorKind::ValueValidation, why));
        }
        let elsewhere = match self.runtime {
            Runtime::Docker => self.offers.given().map(|option| {
                format!("{option} is for --runtime sim: with docker a node offers what the machine has")
            }),
            Runtime::Sim if self.rate.is_some() => {
                Some("--rate is for --runtime docker: with sim nodes share this machine's network and have no links".to_owned())
            }
            Runtime::Sim if self.no_nodes => {
                Some("--no-nodes is for --runtime docker: with sim a testnet is its nodes".to_owned())
            }
            Runtime::Sim => None,
        };
        if let Some(why) = elsewhere {
            return Err(misuse("up", ErrorKind::ArgumentConflict, why));
        }
        let made = match self.runtime {
            Runtime::Docker => Spec::hosts(self.peers),
            Runtime::Sim => self.offers.spec(self.peers),
        };
        Ok(Spec {
            dir: self.dir.clone(),
            rate: self.rate.unwrap_or(made.rate),
            nodes: !self.no_nodes,
            ..made
        })
    }
}

/// What is said of options that only together are wrong, as of those that are wrong by themselves.
fn misuse(command: &str, kind: ErrorKind, why: String) -> clap::Error {
    let mut whole = Cli::command();
    // So that it names its place in the whole.
    whole.build();
    match whole.find_subcommand_mut(command) {
        Some(command) => command.error(kind, why),
        None => whole.error(kind, why),
    }
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
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,libp2p_gossipsub=error"));
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
    // It says itself how it ended, and that may be in the middle of something which then failed.
    cleanup::leave_to_signal();
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    match error.downcast::<clap::Error>() {
        Ok(misuse) => misuse.exit(),
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
        Command::Up(options) => Box::pin(up(options)).await,
        Command::Drive { drive, testnet } => drive::run(drive, &testnet.attach()?).await,
        Command::Run(options) => scenario::run(options).await,
        Command::Oracle { socket, records } => oracle::serve(&socket, &records),
        Command::CheckDashboards(options) => Box::pin(dashboards::run(options)).await,
        Command::MonitorBridge { port, dir } => monitor::run_bridge(port, &dir),
        Command::Status { testnet, json } => status::print(&testnet.attach()?, json).await,
        Command::Kill { what, testnet } => kill(what, testnet.attach()?),
        Command::Restart { what, testnet } => restart(what, testnet.attach()?).await,
        Command::Cut { host, testnet } => testnet.attach()?.cut(host),
        Command::Heal { host, testnet } => testnet.attach()?.heal(host),
        Command::Link(options) => link(&options),
        Command::LinkRelay { host, control } => hosts::relay::run(host, control),
        Command::Exec { testnet, host, words } => exec(&testnet.attach()?, &host, &words),
        Command::Down { testnet } => cleanup::teardown(testnet.attach()?.state().dir.as_path()),
    }
}

async fn up(options: Up) -> Result<()> {
    let spec = options.spec()?;
    if options.monitor {
        monitor::prometheus()?;
    }
    let mut testnet = Testnet::up(&spec, &|line| println!("{line}")).await?;
    if options.peers <= SHOWN {
        status::print(&testnet, false).await?;
    }
    if options.monitor {
        let wish = monitor::Wish {
            with_grafana: true,
            ..monitor::Wish::default()
        };
        println!("\n{}", monitor::start(&mut testnet, &wish).await?);
    }
    let dir = testnet.state().dir.clone();
    let commands = match options.runtime {
        Runtime::Docker => "status|drive|kill|restart|cut|heal|link|exec|down",
        Runtime::Sim => "status|drive|kill|restart|exec|down",
    };
    println!("\nblosm-testnet {commands} --dir {}", dir.display());
    if options.detach {
        testnet.detach();
        return Ok(());
    }
    let _web = if options.no_nodes {
        None
    } else {
        Web::offer(options.web, testnet.state(), |line| println!("{line}")).await
    };
    println!("Ctrl-C removes it");
    // The signal's thread ends this process; another command may take the testnet down before that.
    while dir.exists() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    testnet.detach();
    Ok(())
}

fn link(options: &Link) -> Result<()> {
    let mut testnet = options.testnet.attach()?;
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

fn kill(what: Target, mut testnet: Testnet) -> Result<()> {
    match what {
        Target::Node(number) => testnet.kill_node(number),
        Target::Engine(number) => testnet.kill_engine(number),
    }
}

async fn restart(what: Target, mut testnet: Testnet) -> Result<()> {
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

fn exec(testnet: &Testnet, host: &str, words: &[String]) -> Result<()> {
    let state = testnet.state();
    let number = match host {
        "cars" => None,
        host => Some(
            host.trim_start_matches("host")
                .trim_start_matches("node")
                .parse()
                .with_context(|| format!("{host:?} is no host"))?,
        ),
    };
    let seat = match number {
        Some(number) => state.seat(number),
        None => state.cars(),
    };
    let (first, rest) = words.split_first().context("a program to run")?;
    let program = match first.as_str() {
        "blosm" => node::binary()?,
        program => PathBuf::from(program),
    };
    let mut command = seat.command(&program)?;
    command.args(rest);
    if let Some(number) = number {
        state.host(number)?;
        command.env("BLOSM_DATA_DIR", state.data_dir(number));
        if state.runtime == Runtime::Docker {
            command.env("DOCKER_HOST", Engine::of(state, number).url());
        }
    }
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        bail!("{} ended with {status}", words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_consistent() {
        Cli::command().debug_assert();
    }

    fn up(arguments: &str) -> Result<Spec, clap::Error> {
        let words = ["blosm-testnet", "up"]
            .into_iter()
            .chain(arguments.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Up(up) => up.spec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hundred_nodes_need_no_word_about_what_runs_their_containers() {
        let spec = up("--peers 100").unwrap();
        assert_eq!(
            (spec.hosts.len(), spec.runtime, spec.ground),
            (100, Runtime::Sim, Ground::Loopback)
        );
        let high = spec.hosts.iter().filter(|host| host.class == Some("high"));
        assert_eq!(high.count(), 50);
        let spec = up("--runtime docker --rate 5mbit --no-nodes").unwrap();
        assert_eq!(
            (spec.hosts.len(), spec.rate, spec.nodes),
            (3, Rate::mbit(5), false)
        );
        assert_eq!(up("--runtime docker").unwrap().rate, Rate::mbit(40));
        assert!(up("--detach").is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_bad_usage() {
        for (arguments, why) in [
            (
                "--peers 11 --runtime docker",
                "--peers lies between 1 and 10 with --runtime docker; --runtime sim takes up to 250",
            ),
            ("--peers 251", "--peers lies between 1 and 250 with --runtime sim"),
            ("--peers 0", "--peers lies between 1 and 250 with --runtime sim"),
            ("--rate 5mbit", "--rate is for --runtime docker"),
            ("--no-nodes", "--no-nodes is for --runtime docker"),
            ("--runtime docker --high 1GiB,2", "--high is for --runtime sim"),
            ("--runtime docker --low 1GiB,2", "--low is for --runtime sim"),
            (
                "--runtime docker --high-share 1",
                "--high-share is for --runtime sim",
            ),
            ("--detach --web 127.0.0.1:0", "cannot be used with"),
            (
                "--runtime docker --no-nodes --web 127.0.0.1:0",
                "cannot be used with",
            ),
        ] {
            let error = up(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments}");
            let said = error.to_string();
            assert!(said.contains(why), "{arguments}: {said}");
            assert!(said.contains("Usage: blosm-testnet up"), "{arguments}: {said}");
        }
    }

    #[test]
    fn nobody_drives_is_bad_usage() {
        for cars in ["0", "501", "x"] {
            let error = Cli::try_parse_from(["blosm-testnet", "drive", "--cars", cars]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{cars}");
        }
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
