//! `blosm join`: a new box becomes a member by an invite, with a line for each thing that was looked at on the way.
//!
//! ```text
//! invite -> data directory -> authority answers -> Hello: genesis, clock -> files -> ports, engine, disk
//!        -> Admit, until it is on the chain -> Reach: does the authority connect back?
//! ```
//! Everything may be repeated, after any interruption: files that are there are kept, the same key uses the invite once.
//! A failure before the admission is asked for leaves nothing behind.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use blosm_ledger::SecretKey;
use blosm_net::{Multiaddr, peer_of_key};
use clap::Args;
use libp2p::multiaddr::Protocol;
use serde_json::json;

use super::Output;
use super::client::Client;
use super::datadir::DataDir;
use super::network::network_toml;
use super::table::text;
use crate::admission::{
    Application, Found, Hello, Invite, JoinRequest, JoinResponse, Line, LineError, OLDEST_PROTOCOL, PROTOCOL,
    SOFTWARE, Said, Welcome, find,
};
use crate::config::{self, CONFIG_FILE, Config, NetworkFile, Overrides};
use crate::run::RunError;
use crate::sessions::unix_ms;

mod checks;

use checks::{Check, Report};

/// How often an admission is asked for that is not sealed yet; each time the authority waits for some seconds.
const ADMIT_TRIES: u32 = 8;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Join {
    /// What `blosm invite` printed on the authority; `-` reads it from stdin
    #[arg(value_name = "INVITE", required_unless_present = "invite_file")]
    invite: Option<String>,
    /// A file that holds it
    #[arg(long, value_name = "FILE", conflicts_with = "invite")]
    invite_file: Option<PathBuf>,
    /// The data directory to make
    #[arg(long, env = "BLOSM_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    set: Overrides,
    #[command(flatten)]
    output: Output,
}

impl Join {
    fn invite(&self) -> anyhow::Result<Invite> {
        // Longer than any invite, and no whole disk.
        const MOST: u64 = 64 * 1024;
        let mut text = String::new();
        match (&self.invite_file, self.invite.as_deref()) {
            (Some(file), _) => std::fs::File::open(file)
                .and_then(|file| file.take(MOST).read_to_string(&mut text))
                .with_context(|| format!("cannot read {}", file.display()))
                .map(drop)?,
            (None, Some("-")) => std::io::stdin()
                .take(MOST)
                .read_to_string(&mut text)
                .context("cannot read the invite from stdin")
                .map(drop)?,
            (None, invite) => invite.unwrap_or_default().clone_into(&mut text),
        }
        Ok(text.parse()?)
    }
}

pub(super) async fn run(join: Join) -> anyhow::Result<()> {
    let mut report = Report::new(join.output);
    let invite = join.invite()?;
    let fresh = !join.data_dir.join(CONFIG_FILE).exists();
    ensure!(
        !fresh || join.set.location.is_some(),
        "give --location LAT,LON in degrees: where this node stands"
    );
    report.say(checks::invite(&invite, unix_ms()));
    let mut data = DataDir::open(&join.data_dir)?;
    if let Some(there) = data.network()? {
        ensure!(
            there.chain_id() == invite.chain_id,
            "{} belongs to another network, {} ({}), and the invite is of {}; take a new data directory",
            join.data_dir.display(),
            there.genesis.name,
            there.chain_id().short(8),
            invite.chain_id.short(8)
        );
    }
    let lock = match data.lock() {
        Ok(lock) => lock,
        Err(RunError::Locked(_)) => return already_runs(&join, report).await,
        Err(error) => return Err(error.into()),
    };

    let found = find(&invite).await?;
    report.say(checks::authority(&found));
    let key = data.place_key(None)?;
    let welcome = hello(&join, &invite, &found, &key, &mut report).await?;
    let config = files(&join, &invite, &found, &welcome, &mut data)?;
    report.say(Check::ok(
        "files",
        format!("{}: {}", join.data_dir.display(), data.written()),
    ));
    checks::ports(&config).await?;
    for check in checks::machine(&config).await {
        report.say(check);
    }

    let listen = &config.net.listen;
    let line = Line::open(&key, invite.chain_id, invite.authority, &found.address, listen)?;
    // From here on this key may be a member: it is not thrown away any more.
    data.keep();
    let height = admit(&line, &invite, &config, &mut report).await;
    let reached = match &height {
        Ok(_) => line.ask(&JoinRequest::Reach).await.map(|said| said.answer),
        Err(_) => Ok(JoinResponse::Reached(Vec::new())),
    };
    let height = height?;
    report.say(match reached {
        Ok(JoinResponse::Reached(reached)) => checks::reached(&config, &reached),
        // It is a member all the same.
        Ok(_) => checks::not_reached(&LineError::Malformed),
        Err(error) => checks::not_reached(&error),
    });
    drop(lock);
    finish(&join, report, &config, height);
    Ok(())
}

/// What the authority says of its network, checked against the invite.
async fn hello(
    join: &Join,
    invite: &Invite,
    found: &Found,
    key: &SecretKey,
    report: &mut Report,
) -> anyhow::Result<Welcome> {
    let line = Line::open(key, invite.chain_id, invite.authority, &found.address, &[])?;
    let said = line.ask(&JoinRequest::Hello(greeting(invite))).await?;
    let JoinResponse::Welcome(welcome) = said.answer else {
        bail!(LineError::Malformed);
    };
    welcome.genesis.validate()?;
    ensure!(
        welcome.genesis.chain_id() == invite.chain_id && welcome.genesis.is_authority(&invite.authority),
        "the authority's genesis is not the one of the invite; ask for a new invite"
    );
    ensure!(
        welcome.protocol >= OLDEST_PROTOCOL,
        "the authority's blosm ({}, protocol {}) is too old for this one ({SOFTWARE}), which needs protocol \
         {OLDEST_PROTOCOL}; upgrade the authority, or install its version here",
        welcome.software,
        welcome.protocol
    );
    report.say(Check::ok(
        "network",
        format!(
            "{} ({}), its authority runs blosm {}",
            welcome.genesis.name,
            invite.chain_id.short(8),
            welcome.software
        ),
    ));
    report.say(checks::clock(said.at_unix_ms, said.rtt, welcome.clock_unix_ms));
    if let Some(height) = welcome.member_since {
        report.say(Check::ok(
            "member",
            format!(
                "the key in {} is a member since block {height}",
                join.data_dir.display()
            ),
        ));
    }
    Ok(*welcome)
}

fn greeting(invite: &Invite) -> Hello {
    Hello {
        secret: invite.secret,
        protocol: PROTOCOL,
        software: SOFTWARE.to_owned(),
        clock_unix_ms: unix_ms(),
    }
}

/// Everything that `blosm run` needs, and the configuration that comes of it.
fn files(
    join: &Join,
    invite: &Invite,
    found: &Found,
    welcome: &Welcome,
    data: &mut DataDir,
) -> anyhow::Result<Config> {
    let peer = peer_of_key(&invite.authority.0);
    let network = NetworkFile {
        bootstrap: invite
            .addresses
            .iter()
            .map(|address| address.clone().with(Protocol::P2p(peer)))
            .collect(),
        genesis: welcome.genesis.clone(),
    };
    data.place_network(&network, &network_toml(&network)?)?;
    data.place_token()?;
    let fresh = data.place_config(&with_advertised(&join.set, found))?;
    let config = Config::load(&data.path(CONFIG_FILE))?;
    if !fresh {
        data.check_settings(&config, &join.set)?;
    }
    Ok(config)
}

/// The settings, with the addresses that others dial where the operator named none: those listened on, and for a wildcard
/// the one by which this machine talks to the authority.
fn with_advertised(set: &Overrides, found: &Found) -> Overrides {
    let mut set = set.clone();
    if set.advertise.is_empty() {
        let default = [config::default_listen()];
        let listen: &[Multiaddr] = match set.listen.is_empty() {
            true => &default,
            false => &set.listen,
        };
        set.advertise = listen
            .iter()
            .map(|address| advertised(address, found.local))
            .filter(|address| config::check_advertised(address).is_ok())
            .collect();
    }
    set
}

fn advertised(listen: &Multiaddr, local: std::net::IpAddr) -> Multiaddr {
    listen
        .iter()
        .map(|part| match part {
            Protocol::Ip4(ip) if ip.is_unspecified() => local.into(),
            Protocol::Ip6(ip) if ip.is_unspecified() => local.into(),
            part => part,
        })
        .collect()
}

/// Asks for the admission until it is on the chain. Gives the height since which the node is a member.
async fn admit(line: &Line, invite: &Invite, config: &Config, report: &mut Report) -> Result<u64, LineError> {
    let application = Application {
        hello: greeting(invite),
        addresses: config.net.advertise.iter().map(ToString::to_string).collect(),
        gateway: config.gateway.url.clone(),
        metrics: config.metrics.url.clone(),
        location: config.node.location.into(),
        radius_m: config.node.radius_m,
        label: config.node.label.clone(),
    };
    let request = JoinRequest::Admit(Box::new(application));
    let mut tries = 0;
    loop {
        tries += 1;
        match line.ask(&request).await {
            Ok(Said {
                answer: JoinResponse::Admitted { height, as_sent },
                ..
            }) => {
                report.say(checks::admitted(config, height, as_sent));
                return Ok(height);
            }
            Ok(_) => return Err(LineError::Malformed),
            Err(LineError::Denied(denial)) if denial.may_pass() && tries < ADMIT_TRIES => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The node of this data directory runs: it says itself whether it is a member.
async fn already_runs(join: &Join, mut report: Report) -> anyhow::Result<()> {
    let path = join.data_dir.join(CONFIG_FILE);
    let config = Config::load(&path)?;
    let status = Client::new(config.api.listen, &join.data_dir)?
        .get("/v1/status")
        .await?;
    ensure!(
        status["member"] == true,
        "the node of {} runs and is no member; stop it, then run this command again",
        join.data_dir.display()
    );
    let height = status["member_since"].as_u64().unwrap_or(0);
    report.say(Check::ok(
        "admitted",
        format!(
            "since block {height} as {}; the node runs already",
            text(&status, "label")
        ),
    ));
    finish(join, report, &config, height);
    Ok(())
}

fn finish(join: &Join, report: Report, config: &Config, height: u64) {
    let next = format!("blosm run --data-dir {}", join.data_dir.display());
    let value = json!({
        "node": config.public_key(), "peer_id": config.peer_id().to_string(), "label": config.node.label,
        "network": config.network.genesis.name, "chain_id": config.network.chain_id,
        "height": height, "data_dir": config.data_dir, "next": next,
    });
    report.finish(value, &next);
}
