//! What goes wrong by chance, and by plan.

use std::rc::Rc;
use std::time::Duration;

use blosm_ledger::{Admit, Evict, Hash, Location, Payload, SessionId, State, Transaction};
use blosm_migrate::session::{Pending, Record, Standing, journal_bytes};
use rand::RngExt;

use crate::engine::{Phase, exit};
use crate::ledger;
use crate::node::boot;
use crate::plan::Unsealed;
use crate::task::Command;
use crate::world::{Sim, WORLD};

pub(crate) async fn run(sim: Rc<Sim>) {
    if sim.plan.lost {
        sim.exec.spawn(WORLD, lose(sim.clone()));
    }
    if sim.plan.evicts.is_some() {
        sim.exec.spawn(WORLD, evict_one(sim.clone()));
    }
    let evictions = if sim.plan.evicts.is_some() { 6 } else { 0 };
    while sim.trouble.get() {
        let pause = sim.plan.pause.as_micros() as u64;
        sim.sleep(sim.between(pause / 5, 2 * pause)).await;
        if !sim.trouble.get() {
            return;
        }
        let node = sim.pick(sim.plan.nodes);
        match sim.pick(100) {
            0..12 => kill(&sim, node),
            12..22 => power_cut(&sim, node),
            22..30 => isolate(&sim, node),
            30..42 => part(&sim, node, sim.pick(sim.nodes.len())),
            42..47 => bad_network(&sim),
            47..54 => end_a_container(&sim, node),
            54..62 => {
                let until = sim.exec.now() + sim.between(300_000, 4_000_000);
                sim.trace(node, || "== its engine does not answer".to_owned());
                sim.nodes[node].engine.silent_until.set(until);
            }
            62..68 => {
                let until = sim.exec.now() + sim.between(1_000_000, 8_000_000);
                sim.trace(node, || "== nothing becomes healthy".to_owned());
                sim.nodes[node].engine.sick_until.set(until);
            }
            at if at >= 100 - evictions => evict(&sim, node),
            _ => migrate(&sim, node),
        }
    }
}

/// Everything works again.
pub(crate) fn mend(sim: &Rc<Sim>) {
    sim.trace(usize::MAX, || "== everything works again".to_owned());
    sim.links.borrow_mut().mend();
    for node in 0..sim.nodes.len() {
        let engine = &sim.nodes[node].engine;
        engine.silent_until.set(Duration::ZERO);
        engine.sick_until.set(Duration::ZERO);
        boot(sim, node);
    }
}

/// SIGKILL; whatever watches over the daemon starts it again.
pub(crate) fn kill(sim: &Rc<Sim>, node: usize) {
    if !end(sim, node) {
        return;
    }
    sim.checks.borrow_mut().figures.kills += 1;
    sim.trace(node, || "== killed".to_owned());
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        sim.sleep(sim.between(500, 20_000)).await;
        sim.reset(node);
        let away = if sim.chance(100) { 20_000_000 } else { 4_000_000 };
        sim.sleep(sim.between(20_000, away)).await;
        boot(&sim, node);
    });
}

/// Killed, and when it has just started again, the machine loses its power.
pub(crate) fn kill_twice(sim: &Rc<Sim>, node: usize) {
    if !end(sim, node) {
        return;
    }
    sim.checks.borrow_mut().figures.kills += 1;
    sim.trace(node, || "== killed".to_owned());
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        sim.reset(node);
        sim.sleep(sim.between(1_000, 100_000)).await;
        boot(&sim, node);
        let daemon = sim.daemon(node);
        while daemon.as_ref().is_some_and(|daemon| daemon.slots().is_empty()) {
            sim.sleep(Duration::from_millis(1)).await;
            if sim.exec.now() > sim.plan.trouble {
                return;
            }
        }
        sim.sleep(sim.between(0, 60_000)).await;
        power_cut(&sim, node);
    });
}

/// The machine is off: nothing is said, and what was not synced is gone.
pub(crate) fn power_cut(sim: &Rc<Sim>, node: usize) {
    if sim.nodes[node].lost.get() || !off(sim, node) {
        return;
    }
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        sim.sleep(sim.between(500_000, 10_000_000)).await;
        sim.reset(node);
        boot(&sim, node);
    });
}

fn off(sim: &Rc<Sim>, node: usize) -> bool {
    // A daemon that is down already has left something on the disk all the same.
    end(sim, node);
    sim.checks.borrow_mut().figures.power_cuts += 1;
    sim.trace(node, || "== loses its power".to_owned());
    sim.nodes[node].engine.power_cut(sim, node);
    sim.rng(|rng| sim.nodes[node].disk.borrow_mut().power_cut(rng));
    true
}

fn end(sim: &Rc<Sim>, node: usize) -> bool {
    let Some(daemon) = sim.nodes[node].daemon.borrow_mut().take() else {
        return false;
    };
    sim.exec.kill(daemon.life);
    true
}

pub(crate) fn isolate(sim: &Rc<Sim>, node: usize) {
    sim.trace(node, || "== is alone".to_owned());
    let others: Vec<usize> = (0..sim.nodes.len()).filter(|other| *other != node).collect();
    let ways = others.iter().flat_map(|other| [(node, *other), (*other, node)]);
    cut(sim, ways.collect());
}

/// Both ways, or one.
pub(crate) fn part(sim: &Rc<Sim>, node: usize, other: usize) {
    if node == other {
        return;
    }
    let ways = match sim.pick(4) {
        0 => vec![(node, other)],
        1 => vec![(other, node)],
        _ => vec![(node, other), (other, node)],
    };
    sim.trace(node, || format!("== cut: {ways:?}"));
    cut(sim, ways);
}

fn cut(sim: &Rc<Sim>, ways: Vec<(usize, usize)>) {
    sim.checks.borrow_mut().figures.cuts += 1;
    for (from, to) in &ways {
        sim.links.borrow_mut().cut(*from, *to);
    }
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        let time = if sim.chance(300) { 30_000_000 } else { 6_000_000 };
        sim.sleep(sim.between(200_000, time)).await;
        sim.trace(usize::MAX, || format!("== heals: {ways:?}"));
        for (from, to) in ways {
            sim.links.borrow_mut().heal(from, to);
        }
    });
}

fn bad_network(sim: &Rc<Sim>) {
    sim.trace(usize::MAX, || "== the network is bad".to_owned());
    sim.links.borrow_mut().set_bad(true);
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        sim.sleep(sim.between(500_000, 5_000_000)).await;
        sim.links.borrow_mut().set_bad(false);
    });
}

fn end_a_container(sim: &Rc<Sim>, node: usize) {
    let running: Vec<String> = {
        let containers = sim.nodes[node].engine.containers.borrow();
        let running = containers
            .iter()
            .filter(|(_, container)| matches!(container.phase, Phase::Running(_)));
        running.map(|(name, _)| name.clone()).collect()
    };
    if !running.is_empty() {
        sim.trace(node, || "== a container fails".to_owned());
        exit(sim, node, &running[sim.pick(running.len())]);
    }
}

/// The operator moves a session.
fn migrate(sim: &Rc<Sim>, node: usize) {
    let Some(daemon) = sim.daemon(node) else { return };
    let owned: Vec<_> = daemon
        .slots()
        .into_iter()
        .filter(|slot| daemon.record(&slot.id).may_run())
        .collect();
    let to = sim.pick(sim.plan.nodes);
    if owned.is_empty() || to == node {
        return;
    }
    let slot = &owned[sim.pick(owned.len())];
    sim.trace(node, || {
        format!("== is told to move {} to node{to}", slot.id.short(6))
    });
    let _ = slot.commands.try_send(Command::Migrate { to });
}

/// An end of a move is evicted. The one that stays may not reach the authority meanwhile, so that what it signs is not
/// sealed, and the one that goes may hear of it from nobody.
pub(crate) fn evict_an_end(sim: &Rc<Sim>, node: usize, other: Option<usize>) {
    let (goes, stays) = match other {
        Some(other) if sim.chance(700) => (other, Some(node)),
        other => (node, other),
    };
    if let Some(stays) = stays.filter(|stays| *stays != 0 && sim.chance(600)) {
        sim.trace(stays, || "== does not reach the authority".to_owned());
        cut(sim, vec![(stays, 0)]);
    }
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        sim.sleep(sim.between(0, 1_500_000)).await;
        if sim.trouble.get() {
            if sim.chance(500) {
                isolate(&sim, goes);
            }
            evict(&sim, goes);
        }
    });
}

/// A member is evicted that has to do with what is not sealed yet.
async fn evict_one(sim: Rc<Sim>) {
    let Some(of) = sim.plan.evicts else { return };
    let trouble = sim.plan.trouble.as_micros() as u64;
    sim.sleep(sim.between(trouble / 8, trouble / 2)).await;
    let node = unsealed(&sim, of).await;
    if sim.trouble.get() {
        if sim.chance(700) {
            isolate(&sim, node);
        }
        evict(&sim, node);
    }
}

/// A member is evicted while it runs, and admitted again after a while.
fn evict(sim: &Rc<Sim>, node: usize) {
    if node == 0 || node >= sim.plan.nodes || sim.nodes[node].leaves.replace(true) {
        return;
    }
    sim.checks.borrow_mut().figures.evictions += 1;
    let sim = sim.clone();
    sim.clone().exec.spawn(WORLD, async move {
        let key = sim.nodes[node].me;
        let evict = Payload::Evict(Evict {
            key,
            reason: "no longer wanted".into(),
            lost: false,
        });
        order(&sim, evict, |state| state.members().evicted(&key).is_some()).await;
        sim.trace(node, || "== is evicted".to_owned());
        let back = sim.exec.now() + sim.between(500_000, 15_000_000);
        while sim.exec.now() < back && sim.trouble.get() {
            sim.sleep(Duration::from_millis(250)).await;
        }
        let admit = Payload::Admit(Admit {
            key,
            admission: Hash(sim.bytes()),
            addresses: Vec::new(),
            gateway: String::new(),
            metrics: None,
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 300,
            label: key.short(8),
        });
        order(&sim, admit, |state| state.members().contains(&key)).await;
        sim.trace(node, || "== is a member again".to_owned());
        sim.nodes[node].leaves.set(false);
    });
}

/// The authority's operator has something sealed. If the authority dies meanwhile it is said again.
async fn order(sim: &Rc<Sim>, payload: Payload, done: impl Fn(&State) -> bool) {
    let bytes = sim.sign(0, payload).encode();
    while !done(&sim.state(0)) {
        if let Some(daemon) = sim.daemon(0) {
            let (submitting, bytes) = ((sim.clone(), daemon.clone()), bytes.clone());
            let submitted = async move { ledger::on_submit(&submitting.0, &submitting.1, &bytes).await };
            sim.within(Duration::from_secs(2), submitted).await;
        }
        if !done(&sim.state(0)) {
            sim.sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A machine is off for good, and its operator says so to the authority.
async fn lose(sim: Rc<Sim>) {
    let trouble = sim.plan.trouble.as_micros() as u64;
    sim.sleep(sim.between(trouble / 5, trouble * 4 / 5)).await;
    let node = unsealed(&sim, sim.plan.lost_in).await;
    while sim.nodes[node].leaves.replace(true) {
        sim.sleep(Duration::from_millis(250)).await;
    }
    off(&sim, node);
    sim.nodes[node].lost.set(true);
    sim.trace(node, || "== is off for good".to_owned());
    let bytes = sim.nodes[node].disk.borrow().read();
    if let Ok(replay) = journal_bytes::replay(&bytes) {
        for record in replay.records.values() {
            // The epoch whose state was there, and who else has it.
            let gave = record.gave.as_ref().filter(|_| record.standing == Standing::Gave);
            let Some(epoch) = record.owned_epoch().or(gave.map(|gave| gave.epoch - 1)) else {
                continue;
            };
            let owns_later = |other: &usize| {
                let record = journaled(&sim, *other, &record.session);
                record.and_then(|record| record.owned_epoch()) > Some(epoch)
            };
            let heard = gave.is_some_and(|gave| gave.acknowledged);
            let mut others = (0..sim.plan.nodes).filter(|other| *other != node);
            if !heard && !others.any(|other| owns_later(&other)) {
                sim.checks.borrow_mut().lost(record.session);
            }
        }
    }
    sim.sleep(sim.between(500_000, 10_000_000)).await;
    let key = sim.nodes[node].me;
    let evict = Payload::Evict(Evict {
        key,
        reason: "off".into(),
        lost: true,
    });
    let is_done = |state: &State| state.members().evicted(&key).is_some_and(|evicted| evicted.lost);
    order(&sim, evict, is_done).await;
    sim.trace(node, || "== is evicted, and lost".to_owned());
    // What was sealed as its own waits for it, for ever (rule 8), unless it has given it on.
    let state = sim.state(0);
    for (session, sealed) in state.sessions().filter(|(_, sealed)| sealed.owner == key) {
        let owns_later = |other: usize| {
            let record = journaled(&sim, other, session);
            record.and_then(|record| record.owned_epoch()) > Some(sealed.epoch)
        };
        if sealed.is_open() && !(0..sim.plan.nodes).any(|other| other != node && owns_later(other)) {
            sim.checks.borrow_mut().lost(*session);
        }
    }
}

/// Nobody reaches the authority until a machine is in what is wanted; sessions are moved so that it happens. It may not
/// come to that: then it is any machine but the authority's.
async fn unsealed(sim: &Rc<Sim>, of: Unsealed) -> usize {
    let any = sim.rng(|rng| rng.random_range(1..sim.plan.nodes));
    if of == Unsealed::Anything {
        return any;
    }
    sim.trace(0, || "== the authority hears nobody".to_owned());
    cut(sim, (1..sim.nodes.len()).map(|other| (other, 0)).collect());
    let until = sim.exec.now() + Duration::from_secs(8);
    let mut moves = sim.exec.now();
    while sim.exec.now() < until && sim.trouble.get() {
        if sim.exec.now() >= moves {
            moves += Duration::from_millis(700);
            for node in 1..sim.plan.nodes {
                migrate(sim, node);
            }
        }
        if let Some(node) = (1..sim.plan.nodes).find(|node| is_in(sim, *node, of)) {
            return node;
        }
        sim.sleep(Duration::from_millis(10)).await;
    }
    any
}

fn is_in(sim: &Sim, node: usize, of: Unsealed) -> bool {
    let Some(daemon) = sim.daemon(node) else {
        return false;
    };
    let is_handover = |pending: &&Pending| {
        let transaction = Transaction::decode(&pending.bytes);
        transaction.is_ok_and(|transaction| matches!(transaction.payload, Payload::HandOver(_)))
    };
    daemon.records.borrow().values().any(|record| {
        let handovers = record.pending.iter().filter(is_handover).count();
        let gave = record.gave.as_ref().is_some_and(|gave| gave.acknowledged);
        match of {
            Unsealed::Anything => true,
            Unsealed::Taken => record.may_run() && handovers > 0,
            Unsealed::GivenOn => gave && handovers > 1,
        }
    })
}

/// What a node's journal says of a session, as far as it survives whatever comes.
fn journaled(sim: &Sim, node: usize, session: &SessionId) -> Option<Record> {
    if let Some(daemon) = sim.daemon(node) {
        return Some((*daemon.record(session)).clone());
    }
    let disk = sim.nodes[node].disk.borrow();
    let mut replay = journal_bytes::replay(disk.durable()).ok()?;
    replay.records.remove(session)
}
