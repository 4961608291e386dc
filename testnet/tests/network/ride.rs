//! A car whose session moves between nodes with simulated containers, by an operator's order.

use blosm_testnet::Testnet;
use blosm_testnet::car::{Car, CarPlan, Record};
use blosm_testnet::client;
use blosm_testnet::road::stand;
use blosm_testnet::service_log::ServiceLog;
use reqwest::Method;
use serde_json::{Value, json};

use crate::road::eventually;

/// Sessions move only when they are told to. Nothing but a report waits for confirmations longer than usual, so that a
/// busy machine counts them as well.
pub(crate) const STILL: &str = "[migration]\nmin_stay = \"1h\"\nconfirm_wait = \"10s\"";

pub(crate) struct Ride {
    car: Car,
    at: usize,
    session: String,
}

impl Ride {
    /// Opens a session at a host, whose gateway the car asks from now on, wherever the session is.
    pub(crate) async fn start(testnet: &Testnet, at: usize) -> Ride {
        let plan = CarPlan {
            start: stand(at),
            ..CarPlan::past(testnet.state(), 20, 0.0)
        };
        let car = Car::start(testnet.state().road().cars(), plan).unwrap();
        eventually("the session is open", async || {
            car.token().is_some() || !car.running()
        })
        .await;
        assert!(car.token().is_some(), "no session: {:?}", car.records());
        let sessions = testnet.client(at).unwrap().get("/v1/sessions").await.unwrap();
        let session = sessions[0]["session"].as_str().unwrap().to_owned();
        Ride { car, at, session }
    }

    /// Orders a move; gives the destination's report when it is over, however it ended.
    pub(crate) async fn order(&self, testnet: &Testnet, from: usize, to: usize) -> Value {
        let source = testnet.client(from).unwrap();
        let order = json!({"session": self.session, "to": format!("host{to}")});
        let mut id = None;
        // An owner that has only just become one, or does something else with the session still, says no at first.
        eventually("the order is taken", async || {
            match source.post("/v1/migrations", &order).await {
                Ok(answer) => id = answer["id"].as_str().map(str::to_owned),
                Err(error) => assert!(format!("{error:#}").contains("status 409"), "{error:#}"),
            }
            id.is_some()
        })
        .await;
        let (destination, id) = (testnet.client(to).unwrap(), id.unwrap());
        let mut report = Value::Null;
        eventually("the move is over", async || {
            let path = format!("/v1/migrations/{id}");
            report = destination.get(&path).await.unwrap_or_default();
            report["outcome"]
                .as_str()
                .is_some_and(|outcome| outcome != "running")
        })
        .await;
        report
    }

    /// Orders a move that has to complete; gives its report.
    pub(crate) async fn moved(&self, testnet: &Testnet, from: usize, to: usize) -> Value {
        let report = self.order(testnet, from, to).await;
        assert_eq!(report["outcome"], "completed", "{report:#}");
        self.served_by(to).await;
        report
    }

    /// Waits until requests that are sent from now on are answered by that host.
    pub(crate) async fn served_by(&self, host: usize) {
        let (label, from) = (format!("host{host}"), self.car.tally().sent);
        eventually(&format!("{label} serves"), async || {
            let records = self.car.records();
            let young = records
                .iter()
                .filter(|record| record.number > from && record.ok());
            let latest: Vec<&Record> = young.rev().take(10).collect();
            latest.len() == 10 && latest.iter().all(|record| record.node.as_deref() == Some(&label))
        })
        .await;
    }

    /// Ends it. Every request was answered, each number is in the service's own log once, and one run was over before the
    /// next began: so many runs there were.
    pub(crate) async fn end(self, testnet: &Testnet, runs: usize) {
        let token = self.car.token();
        let records = self.car.finish().await.unwrap();
        let unanswered: Vec<&Record> = records.iter().filter(|record| !record.ok()).take(5).collect();
        assert!(unanswered.is_empty(), "{unanswered:#?}");
        let host = testnet.state().host(self.at).unwrap();
        let url = format!("http://{}:{}/counter/log", host.address, host.ports.gateway);
        let cars = testnet.state().road().cars();
        let log = client::ask(&cars, Method::GET, &url, token.as_deref())
            .await
            .unwrap();
        let log = ServiceLog::parse(&log).unwrap();
        let answered: Vec<u64> = records.iter().map(|record| record.number).collect();
        let found = log.check(&answered);
        assert!(found.holds(), "{found:?}");
        assert_eq!(log.runs.len(), runs, "{:?}", log.runs);
    }
}
