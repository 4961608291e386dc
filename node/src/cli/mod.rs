//! The `blosm` command line.
//!
//! ```text
//! network new, init        files only: keys, network.toml, blosm.toml
//! join                     the same files, and a conversation with the authority (crate::admission)
//! run                      the node itself (crate::run)
//! layer-helper             the root process beside it (blosm_migrate::helper)
//! everything else          Client ──HTTP──> the running node's local API (crate::api)
//! ```
//!
//! Exit status: 0 done, 1 it failed (one line on stderr), 2 bad usage. With `--json` stdout holds one
//! JSON document and nothing else. Used by the binary only; `anyhow` stays within this module.

mod admit;
mod chain;
mod client;
mod daemon;
mod datadir;
mod drain;
mod evict;
mod helper;
mod init;
mod invite;
mod join;
mod links;
mod log;
mod members;
mod migrate;
mod network;
mod progress;
mod show;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::admission::SOFTWARE;
use crate::config::{self, CONFIG_FILE};
use client::Client;

/// Containers that follow cars along a road of edge nodes, over a shared ledger.
#[derive(Debug, Parser)]
#[command(name = "blosm", version = SOFTWARE, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a network: its genesis, the authority's key, the recovery key
    #[command(subcommand)]
    Network(network::Command),
    /// Make a node's data directory: key, API token, blosm.toml
    Init(init::Init),
    /// Admit a node to the network (on an authority)
    Admit(admit::Admit),
    /// Make a string that lets nodes join (on an authority)
    Invite(invite::Invite),
    /// Look at invites, or take one back (on an authority)
    #[command(subcommand)]
    Invites(invite::Invites),
    /// Join a network by an invite: makes a data directory and has its node admitted
    Join(join::Join),
    /// End a node's membership (on an authority)
    Evict(evict::Evict),
    /// Move this node's sessions away and end its membership
    Leave(evict::Leave),
    /// Run the node of a data directory
    Run(daemon::Run),
    /// Run the root process that reads and writes containers' layers for a node
    LayerHelper(helper::LayerHelper),
    /// What this node is and how it is
    Status(show::Show),
    /// The peers that this node is connected to
    Peers(show::Show),
    /// The network's members
    Members(members::Members),
    /// The sessions that this node's chain and journal know
    Sessions(show::Show),
    /// The migrations that this node took part in
    Migrations(show::Show),
    /// Move a session's container to another node
    Migrate(migrate::Migrate),
    /// The round trip to a member and how far its chain is, or how fast a message reaches all of them
    Ping(links::Ping),
    /// What the link from another member carries
    Bandwidth(links::Bandwidth),
    /// Take no sessions any more and move those that this node has
    Drain(drain::Drain),
    /// Take sessions again
    Undrain(drain::Undrain),
    /// Look at the ledger
    #[command(subcommand)]
    Chain(chain::Command),
}

/// Which node a command talks to.
#[derive(Debug, Args)]
struct Target {
    /// Data directory of the running node
    #[arg(long, env = "BLOSM_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where its local API listens, if not where its blosm.toml says
    #[arg(long, env = "BLOSM_API_LISTEN", value_name = "ADDR:PORT")]
    api_listen: Option<SocketAddr>,
}

impl Target {
    fn client(&self) -> anyhow::Result<Client> {
        let listen = match self.api_listen {
            Some(listen) => listen,
            None => config::api_listen(&self.data_dir.join(CONFIG_FILE))?,
        };
        Client::new(listen, &self.data_dir)
    }
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Prints `value` as JSON, or what `text` makes of it for people.
    fn print(self, value: &serde_json::Value, text: impl FnOnce() -> String) {
        use std::io::Write;
        let out = if self.json { format!("{value:#}\n") } else { text() };
        // A reader that has gone away (`| head`) is no failure of the command.
        let _ = std::io::stdout().write_all(out.as_bytes());
    }
}

/// Parses the command line, does it, and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blosm: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Network(command) => network::run(command),
        Command::Init(init) => init::run(init),
        Command::Run(run) => daemon::run(run),
        Command::LayerHelper(command) => helper::run(command),
        Command::Admit(admit) => client::block_on(admit::run(admit)),
        Command::Invite(invite) => client::block_on(invite::invite(invite)),
        Command::Invites(command) => client::block_on(invite::invites(command)),
        Command::Join(join) => client::block_on(join::run(join)),
        Command::Evict(evict) => client::block_on(evict::evict(evict)),
        Command::Leave(leave) => client::block_on(evict::leave(leave)),
        Command::Status(show) => client::block_on(show::status(show)),
        Command::Peers(show) => client::block_on(show::peers(show)),
        Command::Members(show) => client::block_on(members::run(show)),
        Command::Sessions(show) => client::block_on(show::sessions(show)),
        Command::Migrations(show) => client::block_on(show::migrations(show)),
        Command::Migrate(migrate) => client::block_on(migrate::run(migrate)),
        Command::Ping(ping) => client::block_on(links::ping(ping)),
        Command::Bandwidth(bandwidth) => client::block_on(links::bandwidth(bandwidth)),
        Command::Drain(drain) => client::block_on(drain::drain(drain)),
        Command::Undrain(undrain) => client::block_on(drain::undrain(undrain)),
        Command::Chain(command) => client::block_on(chain::run(command)),
    }
}

/// The error and its causes on one line, leaving out a cause that the line already says.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    #[test]
    fn commands_are_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_said_once() {
        let inner = Err::<(), _>(anyhow::anyhow!("no room\non the disk"));
        let error = inner
            .context("cannot write: no room on the disk")
            .context("init")
            .unwrap_err();
        assert_eq!(super::one_line(&error), "init: cannot write: no room on the disk");
    }
}
