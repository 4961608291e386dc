//! Moves by an operator's order, and questions to the service that moves.

use std::cell::RefCell;

use blosm_testnet::car::Record;
use blosm_testnet::client;
use blosm_testnet::config::{self, GATEWAY_PORT};
use blosm_testnet::engine::ContainerLine;
use blosm_testnet::node::Node;
use blosm_testnet::reports;
use reqwest::Method;
use serde_json::{Value, json};
use toml::Table;

use crate::scenario::{Scenario, eventually};

/// The demo's service with other keys in its declaration.
pub(crate) fn counter(image: &str, keys: &str) -> Table {
    let mut table = config::counter(image);
    config::overlay(&mut table, &keys.parse().unwrap());
    table
}

impl Scenario {
    /// Orders a move and gives its report when it is over, however it ended.
    pub(crate) async fn order(&self, from: usize, to: usize) -> Value {
        let id = self.begin(from, to).await;
        self.over(&id).await
    }

    /// Orders a move that has to complete; gives its report.
    pub(crate) async fn moved(&self, from: usize, to: usize) -> Value {
        let report = self.order(from, to).await;
        assert_eq!(report["outcome"], "completed", "{report:#}\n{}", self.story());
        report
    }

    /// Orders a move and gives its id. An owner that has only just become one may still say no.
    pub(crate) async fn begin(&self, from: usize, to: usize) -> String {
        let client = self.testnet.client(from).unwrap();
        let body = json!({"session": self.session, "to": format!("host{to}")});
        let (id, no) = (RefCell::new(None), RefCell::new(String::new()));
        eventually("the order is taken", || async {
            match client.post("/v1/migrations", &body).await {
                Ok(answer) => drop(id.replace(answer["id"].as_str().map(str::to_owned))),
                // It does something else with the session still. What has gone elsewhere does not come back by waiting.
                Err(error)
                    if format!("{error:#}").contains("status 409")
                        && !format!("{error:#}").contains("belongs to") =>
                {
                    let why = format!("host{from}: {error:#}");
                    if no.replace(why.clone()) != why {
                        eprintln!("{why}");
                    }
                }
                Err(error) => panic!(
                    "host{from} does not move the session: {error:#}\n{}",
                    self.story()
                ),
            }
            id.borrow().is_some()
        })
        .await;
        id.into_inner().unwrap()
    }

    /// The report of a migration that has begun, once it is over.
    pub(crate) async fn over(&self, id: &str) -> Value {
        let found = RefCell::new(Value::Null);
        eventually("the migration is over", || async {
            let mut all = reports::all(&self.testnet).await;
            let report = all.remove(id).unwrap_or_default();
            let over = report["outcome"]
                .as_str()
                .is_some_and(|outcome| outcome != "running");
            found.replace(report);
            over
        })
        .await;
        found.into_inner()
    }

    /// `blosm migrate` on a host, to its end; gives the report that it prints.
    pub(crate) fn command(&self, from: usize, to: usize, options: &[&str]) -> Value {
        let node = Node::of(self.testnet.state(), from).unwrap();
        let (to, data) = (format!("host{to}"), self.testnet.state().data_dir(from));
        let mut words = vec!["migrate", &self.session, "--to", &to, "--json", "--data-dir"];
        let data = data.display().to_string();
        words.push(&data);
        words.extend(options);
        serde_json::from_str(&node.command(&words).unwrap()).unwrap()
    }

    /// Sends a request of the car's session to a host's gateway; gives the answer's body.
    pub(crate) async fn ask(&self, method: Method, host: usize, path: &str) -> String {
        let (token, state) = (self.car.token().unwrap(), self.testnet.state());
        let url = format!(
            "http://{}:{GATEWAY_PORT}{path}",
            state.host(host).unwrap().address
        );
        client::ask(&state.road().cars(), method, &url, Some(&token))
            .await
            .unwrap()
    }

    /// Numbers that were answered with a success so far.
    pub(crate) fn answered(&self) -> Vec<u64> {
        let records = self.car.records();
        records.iter().filter(|r| r.ok()).map(|r| r.number).collect()
    }

    /// The session's containers on a host's engine, running or not.
    pub(crate) async fn containers(&self, host: usize) -> Vec<ContainerLine> {
        let all = self.testnet.engine(host).containers().await.unwrap();
        all.into_iter()
            .filter(|container| container.session.as_deref() == Some(&self.session))
            .collect()
    }
}

/// Every request of the car has to have been answered with a success.
#[track_caller]
pub(crate) fn all_answered(records: &[Record]) {
    let failed: Vec<&Record> = records.iter().filter(|record| !record.ok()).take(5).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
