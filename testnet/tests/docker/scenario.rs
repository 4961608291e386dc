//! Steps and checks that the fault scenarios are made of.

use std::time::Duration;

use blosm_testnet::car::{Car, CarPlan, Record, SESSION};
use blosm_testnet::config::GATEWAY_PORT;
use blosm_testnet::events::Follow;
use blosm_testnet::instances::Instance;
use blosm_testnet::node::Node;
use blosm_testnet::road::stand;
use blosm_testnet::service_log::ServiceLog;
use blosm_testnet::witness::Witness;
use blosm_testnet::{Spec, Testnet, cleanup, client, reports};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

/// A generous limit: a machine with two busy cores, not a measure of anything.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

/// Waits until something holds.
pub(crate) async fn eventually<F, Fut>(what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// How containers move, unless a test is about another way.
pub(crate) const METHOD: &str = "live";

/// That many hosts whose sessions may move soon after they came, and whose former containers go soon.
pub(crate) fn spec(hosts: usize) -> Spec {
    staying(hosts, "1s", METHOD)
}

/// The same, with containers that go as images.
pub(crate) fn by_image(hosts: usize) -> Spec {
    staying(hosts, "1s", "image")
}

/// That many hosts whose sessions move only when they are told to.
pub(crate) fn still(hosts: usize) -> Spec {
    staying(hosts, "1h", METHOD)
}

fn staying(hosts: usize, min_stay: &str, method: &str) -> Spec {
    let extra =
        format!("[migration]\nkeep_source = \"5s\"\nmin_stay = \"{min_stay}\"\nmethod = \"{method}\"");
    Spec {
        extra: extra.parse().unwrap(),
        ..Spec::hosts(hosts)
    }
}

/// Brings a testnet up.
pub(crate) async fn up(spec: Spec) -> Testnet {
    Testnet::up(&spec, &|line| eprintln!("{line}")).await.unwrap()
}

/// A testnet, a car, and a witness who counts containers all the time.
pub(crate) struct Scenario {
    pub(crate) testnet: Testnet,
    pub(crate) car: Car,
    pub(crate) session: String,
    witness: Witness,
}

impl Scenario {
    /// That many hosts, a car at the first, its session open.
    pub(crate) async fn start(hosts: usize) -> Scenario {
        Scenario::drive(up(spec(hosts)).await, 1).await
    }

    /// A car at that host of a testnet, its session open.
    pub(crate) async fn drive(testnet: Testnet, at: usize) -> Scenario {
        let plan = CarPlan {
            start: stand(at),
            ..CarPlan::past(testnet.state(), 20, 80.0)
        };
        Scenario::ride(testnet, at, plan).await
    }

    /// A car with a plan of its own at that host, its session open.
    pub(crate) async fn ride(testnet: Testnet, at: usize, plan: CarPlan) -> Scenario {
        let witness = Witness::start(testnet.state().clone()).unwrap();
        let car = Car::start(testnet.state().road().cars(), plan).unwrap();
        eventually("the session is open", || async {
            car.token().is_some() || !car.running()
        })
        .await;
        let Some(_) = car.token() else {
            panic!("no session: {:?}", car.records())
        };
        let url = format!(
            "http://{}:{GATEWAY_PORT}/.blosm/session",
            testnet.state().host(at).unwrap().address
        );
        let (cars, token) = (testnet.state().road().cars(), car.token());
        let shown = client::ask(&cars, Method::GET, &url, token.as_deref())
            .await
            .unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let session = shown["session"].as_str().unwrap().to_owned();
        Scenario {
            testnet,
            car,
            session,
            witness,
        }
    }

    /// How many of the session's transactions that host's node still wants sealed.
    pub(crate) async fn unsealed(&self, host: usize) -> u64 {
        let client = self.testnet.client(host).unwrap();
        let sessions = client.get("/v1/sessions").await.unwrap();
        let mine = sessions
            .as_array()
            .and_then(|list| list.iter().find(|s| s["session"] == self.session.as_str()));
        mine.and_then(|session| session["unsealed"].as_u64()).unwrap()
    }

    /// Waits until that host's node has nothing of the session left to seal.
    pub(crate) async fn all_sealed(&self, host: usize) {
        eventually("everything is sealed", || async {
            self.unsealed(host).await == 0
        })
        .await;
    }

    /// Makes the container's own layer heavy, so that its transfer takes seconds.
    pub(crate) async fn fill(&self, host: usize, bytes: u64) {
        let (token, cars) = (self.car.token().unwrap(), self.testnet.state().road().cars());
        let address = self.testnet.state().host(host).unwrap().address;
        let url = format!("http://{address}:{GATEWAY_PORT}/counter/fill?bytes={bytes}");
        let job = move || async move {
            let client = reqwest::Client::builder().no_proxy().build()?;
            client
                .post(url)
                .header(SESSION, token)
                .send()
                .await?
                .error_for_status()
                .map(drop)
        };
        cars.run(job).await.unwrap().unwrap();
    }

    /// Sends the car to a host, without waiting for anything.
    pub(crate) fn drive_to(&self, host: usize) {
        self.car.drive_to(stand(host));
    }

    /// Waits until that host's node logs that phase of a migration of the session, from `since` on. It looks often:
    /// what a test does next is to hit exactly this moment.
    pub(crate) async fn phase(&self, host: usize, phase: &str, since: &mut Follow) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let steps = since.steps().unwrap();
            if steps
                .iter()
                .any(|step| step.phase == phase && self.session.starts_with(&step.session))
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "host{host} did not come to phase {phase}: {}",
                self.story()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The log of a host's node, from now on.
    pub(crate) fn follow(&self, host: usize) -> Follow {
        Follow::from_end(Node::of(self.testnet.state(), host).unwrap().log())
    }

    /// Waits until requests sent from now on are answered, and those of the last second by that host.
    pub(crate) async fn served_by(&self, host: usize) {
        let label = self.testnet.state().host(host).unwrap().label.clone();
        let from = self.car.tally().sent;
        let served = || async {
            let records = self.car.records();
            let recent: Vec<&Record> = records
                .iter()
                .filter(|r| r.number > from && r.ok())
                .rev()
                .take(20)
                .collect();
            recent.len() == 20 && recent.iter().all(|r| r.node.as_deref() == Some(&label))
        };
        let deadline = Instant::now() + PATIENCE;
        while !served().await {
            assert!(
                Instant::now() < deadline,
                "{label} does not serve: {}",
                self.story()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reports of the session's completed migrations.
    pub(crate) async fn completed(&self) -> Vec<Value> {
        let all = reports::all(&self.testnet).await;
        all.into_values()
            .filter(|r| r["session"] == self.session.as_str() && r["outcome"] == "completed")
            .collect()
    }

    /// The container of the session whose program runs, by the process list.
    pub(crate) fn running(&self) -> Vec<Instance> {
        let all = self.testnet.live_instances();
        all.into_iter()
            .filter(|instance| instance.session.as_deref() == Some(&self.session))
            .collect()
    }

    /// What a failed assertion should show.
    pub(crate) fn story(&self) -> String {
        let hosts = self.testnet.state().hosts.iter().map(|host| {
            let log = self.testnet.state().host_dir(host.number).join("blosm.log");
            format!("\n--- {}\n{}", host.label, blosm_testnet::process::tail(&log, 30))
        });
        let failed: Vec<Record> = self
            .car
            .records()
            .into_iter()
            .filter(Record::failed)
            .take(5)
            .collect();
        format!(
            "{:?}, first failures {failed:?}{}",
            self.car.tally(),
            hosts.collect::<String>()
        )
    }

    /// Ends the drive and checks what must hold after every scenario: one container at a time, by the process list
    /// and by the service's own log, every answered number in it once, and nothing left on the machine. Gives what
    /// the car saw.
    pub(crate) async fn end(self, owner: usize) -> Vec<Record> {
        let (testnet, records) = self.leave(owner).await;
        finish(testnet);
        records
    }

    /// As [`Scenario::end`], and leaves the testnet as it is.
    pub(crate) async fn leave(self, owner: usize) -> (Testnet, Vec<Record>) {
        let (token, cars) = (self.car.token().unwrap(), self.testnet.state().road().cars());
        let records = self.car.finish().await.unwrap();
        let url = format!(
            "http://{}:{GATEWAY_PORT}/counter/log",
            self.testnet.state().host(owner).unwrap().address
        );
        let job = move || async move {
            let client = reqwest::Client::builder().no_proxy().build()?;
            client
                .get(url)
                .header(SESSION, token)
                .send()
                .await?
                .error_for_status()?
                .text()
                .await
        };
        let log = ServiceLog::parse(&cars.run(job).await.unwrap().unwrap()).unwrap();
        let answered: Vec<u64> = records
            .iter()
            .filter(|record| record.ok())
            .map(|record| record.number)
            .collect();
        let found = log.check(&answered);
        let failed: Vec<u64> = records
            .iter()
            .filter(|record| record.failed())
            .map(|record| record.number)
            .collect();
        assert!(
            found.holds_but_for(&failed),
            "{found:?} although only {failed:?} failed"
        );
        let worst = self.witness.stop().most;
        assert!(worst.len() <= 1, "two containers at a time: {worst:?}");
        (self.testnet, records)
    }
}

/// Takes a testnet down; nothing of it may be left.
pub(crate) fn finish(testnet: Testnet) {
    let state = testnet.state().clone();
    testnet.down().unwrap();
    cleanup::check_gone(&state.id, &state.dir).unwrap();
}
