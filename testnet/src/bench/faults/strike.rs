//! The fault itself: waiting for the moment, striking, and healing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::time::Instant;

use super::plan::{AUTHORITY, Cell, Component, DESTINATION, SOURCE};
use crate::events::{Follow, Step};
use crate::node::Node;
use crate::testnet::Testnet;

/// A phase that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at the logs: what follows has to hit a phase of a few milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// How far into a long phase its middle is.
const INTO: Duration = Duration::from_millis(500);

/// The logs of both ends, from a migration's begin on.
pub(super) struct Watch {
    source: Follow,
    destination: Follow,
    session: String,
    /// Each step of the session with the host that logged it.
    steps: Vec<(usize, String)>,
    lines: Vec<String>,
}

impl Watch {
    pub(super) fn begin(testnet: &Testnet, session: &str) -> Result<Watch> {
        let follow = |host| Ok::<_, anyhow::Error>(Follow::from_end(Node::of(testnet.state(), host)?.log()));
        Ok(Watch {
            source: follow(SOURCE)?,
            destination: follow(DESTINATION)?,
            session: session.to_owned(),
            steps: Vec::new(),
            lines: Vec::new(),
        })
    }

    /// Reads on, and gives the steps so far.
    pub(super) fn look(&mut self) -> Result<&[(usize, String)]> {
        for (host, follow) in [(SOURCE, &mut self.source), (DESTINATION, &mut self.destination)] {
            for line in follow.lines()? {
                if let Some(step) = Step::parse(&line)
                    && self.session.starts_with(&step.session)
                {
                    self.steps.push((host, step.phase));
                }
                self.lines.push(format!("host{host} {line}"));
            }
        }
        Ok(&self.steps)
    }

    /// Waits for the moment to strike.
    pub(super) async fn moment(&mut self, cell: &Cell) -> Result<()> {
        let wanted = (cell.told_by(), cell.phase.to_string());
        let deadline = Instant::now() + PATIENCE;
        while !self.look()?.contains(&wanted) {
            if Instant::now() > deadline {
                bail!("the phase {} did not come within {PATIENCE:?}", cell.phase);
            }
            tokio::time::sleep(LOOK).await;
        }
        if cell.is_long() {
            tokio::time::sleep(INTO).await;
        }
        Ok(())
    }

    /// What both nodes have logged, oldest first.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        // The log of a node that is gone is there still; what can't be read is left out.
        let _ = self.look();
        // Each line begins with its host and its time.
        let time = |line: &String| line.split_once(' ').map(|(_, rest)| rest.to_owned());
        self.lines.sort_by_key(time);
        self.lines
    }
}

/// The host of a part, unless it is the link.
fn host(component: Component) -> Option<usize> {
    match component {
        Component::Source | Component::SourceEngine => Some(SOURCE),
        Component::Destination | Component::DestinationEngine => Some(DESTINATION),
        Component::Authority => Some(AUTHORITY),
        Component::Link => None,
    }
}

/// Strikes at once: SIGKILL without waiting for its effect, or silence on the link.
pub(super) fn strike(testnet: &Testnet, component: Component) -> Result<()> {
    let state = testnet.state();
    let Some(host) = host(component) else {
        return state.road().part(SOURCE, DESTINATION);
    };
    let host = state.host(host)?;
    let process = match component {
        Component::SourceEngine | Component::DestinationEngine => host.engine.dockerd,
        _ => host.node,
    };
    process
        .with_context(|| format!("{component} was never started"))?
        .signal(Signal::KILL);
    Ok(())
}

/// Mends it. When this returns the node is ready, the engine's API answers, the link is up.
pub(super) async fn heal(testnet: &mut Testnet, component: Component) -> Result<()> {
    let Some(host) = host(component) else {
        return testnet.state().road().rejoin(SOURCE, DESTINATION);
    };
    match component {
        Component::SourceEngine | Component::DestinationEngine => {
            testnet.kill_engine(host)?;
            testnet.start_engine(host).await
        }
        _ => {
            testnet.kill_node(host)?;
            testnet.start_node(host).await
        }
    }
}
