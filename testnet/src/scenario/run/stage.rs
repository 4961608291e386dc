//! What a scenario needs on the machine: the testnet, its services, links and cars.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use toml::{Table, Value};

use crate::car::{CarPlan, OPENINGS, Roadside};
use crate::config::{self, Runtime, SIM_IMAGE};
use crate::fleet::Fleet;
use crate::node::Node;
use crate::oracle::Hears;
use crate::road::{location, stand};
use crate::scenario::file::Scenario;
use crate::scenario::plan::Plan;
use crate::state::State;
use crate::testnet::{HostSpec, Spec, Testnet};

/// The variable by which a simulated container learns of the oracle.
const ORACLE: &str = "ORACLE";

/// Where the nodes stand, in their order.
pub(super) fn places(scenario: &Scenario) -> Vec<(f64, f64)> {
    let nodes = scenario.nodes.iter().enumerate();
    nodes
        .map(|(index, node)| node.location.unwrap_or_else(|| location(stand(index + 1))))
        .collect()
}

/// Nodes with simulated containers, each in a network namespace of its own: so that a link can really be cut.
pub(super) fn spec(scenario: &Scenario, dir: Option<PathBuf>) -> Spec {
    let hosts = scenario.nodes.iter().map(|node| HostSpec {
        extra: node.settings.clone(),
        location: node.location,
        radius: node.radius,
        ..HostSpec::default()
    });
    Spec {
        dir,
        rate: scenario.rate,
        hosts: hosts.collect(),
        extra: scenario.settings.clone(),
        // They want to know of the oracle, which wants a folder.
        nodes: false,
        runtime: Runtime::Sim,
        ..Spec::hosts(0)
    }
}

/// The nodes' declarations. An instance that keeps a session's state tells the oracle what it does.
pub(super) fn services(scenario: &Scenario, oracle: &Path) -> Vec<Table> {
    let declared = scenario.services.iter().map(|service| {
        let mut table = config::service(&service.name, SIM_IMAGE, service.stateless);
        config::overlay(&mut table, &service.settings);
        if !service.stateless {
            let socket = Value::from(oracle.display().to_string());
            let env = Table::from_iter([(ORACLE.to_owned(), socket)]);
            let env = Table::from_iter([("env".to_owned(), Value::Table(env))]);
            config::overlay(&mut table, &env);
        }
        table
    });
    declared.collect()
}

/// Makes links as bad as the scenario says.
pub(super) fn links(scenario: &Scenario, testnet: &mut Testnet) -> Result<()> {
    for link in &scenario.links {
        if let Some(rate) = link.rate {
            testnet.reshape(link.node, rate)?;
        }
        if !link.quality.is_clear() {
            testnet.impair(link.node, link.quality)?;
        }
    }
    Ok(())
}

/// Sends the cars off.
pub(super) fn cars(scenario: &Scenario, plan: &Plan, state: &State, oracle: &Path) -> Result<Fleet> {
    let nodes = Roadside::all(state);
    let plans = plan.cars.iter().map(|car| {
        let kind = &scenario.cars[car.group];
        let plan = CarPlan {
            stateless: kind.stateless,
            rate: kind.rate,
            route: Some(car.route.clone()),
            openings: OPENINGS,
            state_bytes: kind.state_bytes,
            oracle: (!kind.stateless).then(|| Hears {
                socket: oracle.to_owned(),
                car: car.name.clone(),
            }),
            ..CarPlan::at(&format!("/{}/", kind.service), nodes.clone())
        };
        (car.name.clone(), plan)
    });
    Fleet::start(&state.cars(), plans.collect())
}

/// The nodes' logs outlive the testnet.
pub(super) fn keep_logs(state: &State, to: &Path) {
    if let Err(error) = fs::create_dir_all(to) {
        return tracing::warn!(%error, to = %to.display(), "no logs are kept");
    }
    for host in &state.hosts {
        let Ok(node) = Node::of(state, host.number) else {
            continue;
        };
        let older = node.log().with_extension("log.1");
        for (log, name) in [(node.log(), "log"), (older.as_path(), "log.1")] {
            // A node that was never started has none, and a short one has no older one.
            if log.exists()
                && let Err(error) = fs::copy(log, to.join(format!("{}.{name}", host.label)))
            {
                tracing::warn!(%error, log = %log.display(), "not kept");
            }
        }
    }
}
