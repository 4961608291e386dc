//! The cars of a run: one whose container moves, and one beside it whose requests cross the same link.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::figures;
use super::site::Site;
use crate::car::{Car, CarPlan, Record, Roadside};
use crate::client::ask;
use crate::config::GATEWAY_PORT;
use crate::hosts::Namespace;
use crate::road::{location, stand};

/// Requests a second of each car.
const RATE: u32 = 100;
/// A disk that is busy with gigabytes makes a container wait for its first write.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
/// The tree that the service writes to: 50 MB, and 1 MB a second.
const WORK: &str = "work?files=20000&bytes=50000000&large=20000000&rate=1000000";

/// A car and its service.
pub(super) struct Ride {
    car: Car,
    /// The service as it is reached beside the car's own requests.
    pub(super) contact: Contact,
}

/// How a car's service is reached at both hosts.
#[derive(Clone)]
pub(super) struct Contact {
    /// At the source and at the destination: `http://ADDRESS:PORT/PATH/`.
    urls: [String; 2],
    token: Option<String>,
    cars: Namespace,
}

/// What a car has seen.
pub(super) struct Seen {
    /// Its requests.
    pub(super) records: Vec<Record>,
    /// The wall clock at the records' zero, in milliseconds since 1970.
    origin_unix_ms: f64,
}

impl Ride {
    /// A car at the gateway of `from`, with a session of its own there.
    ///
    /// # Errors
    /// No session was opened.
    pub(super) async fn through_gateways(site: &Site, service: &str, from: usize, to: usize) -> Result<Ride> {
        let path = format!("/{service}/");
        let contact = Contact::of(site, &path, [from, to], GATEWAY_PORT)?;
        let ride = Ride::start(site, contact, [from, to], &path, GATEWAY_PORT)?;
        ride.until("opening its session", || ride.car.token().is_some())
            .await
            .with_context(|| format!("service {service} on host{from}"))?;
        let token = ride.car.token();
        Ok(Ride {
            contact: Contact {
                token,
                ..ride.contact
            },
            ..ride
        })
    }

    /// A car at a port of `from`, and nothing between it and the service.
    ///
    /// # Errors
    /// The service does not answer there.
    pub(super) async fn straight(site: &Site, port: u16, from: usize, to: usize) -> Result<Ride> {
        let contact = Contact::of(site, "/", [from, to], port)?;
        contact.until_healthy().await?;
        Ride::start(site, contact, [from, to], "/", port)
    }

    fn start(site: &Site, contact: Contact, hosts: [usize; 2], path: &str, port: u16) -> Result<Ride> {
        let state = site.testnet.state();
        let mut nodes = Vec::new();
        for host in hosts {
            let address = state.host(host)?.address;
            nodes.push(Roadside {
                location: location(stand(host)),
                gateway: SocketAddr::from((address, port)),
            });
        }
        let plan = CarPlan {
            stateless: port != GATEWAY_PORT,
            rate: RATE,
            start: stand(hosts[0]),
            ..CarPlan::at(path, nodes)
        };
        let car = Car::start(contact.cars.clone(), plan)?;
        Ok(Ride { car, contact })
    }

    /// From now on it asks the destination.
    pub(super) fn leave_source(&self) {
        self.car.avoid(Some(0));
    }

    /// Waits until the destination answers it.
    ///
    /// # Errors
    /// It does not, in two minutes.
    pub(super) async fn until_answered_there(&self) -> Result<()> {
        self.until("an answer of the destination", || self.car.answered_by(1))
            .await
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            if !self.car.running() || Instant::now() > deadline {
                let records = self.car.records();
                let why = records.iter().rev().find_map(|record| record.error.clone());
                bail!("{what}: {}", why.unwrap_or_else(|| "no answer".to_owned()));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// What it has seen, once everything that is under way is answered.
    ///
    /// # Errors
    /// Its thread ended with an error.
    pub(super) async fn finish(self) -> Result<Seen> {
        let origin_unix_ms = self.car.origin_unix_ms;
        Ok(Seen {
            records: self.car.finish().await?,
            origin_unix_ms,
        })
    }
}

impl Contact {
    fn of(site: &Site, path: &str, hosts: [usize; 2], port: u16) -> Result<Contact> {
        let state = site.testnet.state();
        let url = |host| Ok::<_, anyhow::Error>(format!("http://{}:{port}{path}", state.host(host)?.address));
        Ok(Contact {
            urls: [url(hosts[0])?, url(hosts[1])?],
            token: None,
            cars: state.road().cars(),
        })
    }

    /// Makes the service write.
    ///
    /// # Errors
    /// It refuses.
    pub(super) async fn put_to_work(&self) -> Result<()> {
        self.ask(Method::POST, 0, WORK).await.map(drop)
    }

    /// The service's log, by way of the destination.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn log(&self) -> Result<String> {
        self.ask(Method::GET, 1, "log").await
    }

    /// Waits until the service at the source answers.
    ///
    /// # Errors
    /// It does not, in two minutes.
    pub(super) async fn until_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(Method::GET, 0, "healthz").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// The session's id.
    ///
    /// # Errors
    /// The source's gateway does not know it.
    pub(super) async fn session(&self) -> Result<String> {
        let answer: Value = serde_json::from_str(&self.reserved(Method::GET, 0).await?)?;
        let session = answer["session"].as_str();
        Ok(session.context("the gateway names the session")?.to_owned())
    }

    /// Ends the session, by way of that host.
    ///
    /// # Errors
    /// The gateway refuses.
    pub(super) async fn close(&self, there: bool) -> Result<()> {
        self.reserved(Method::DELETE, usize::from(there)).await.map(drop)
    }

    async fn ask(&self, method: Method, at: usize, what: &str) -> Result<String> {
        let url = format!("{}{what}", self.urls[at]);
        ask(&self.cars, method, &url, self.token.as_deref()).await
    }

    async fn reserved(&self, method: Method, at: usize) -> Result<String> {
        let (host, _) = self.urls[at]["http://".len()..]
            .split_once('/')
            .unwrap_or_default();
        let url = format!("http://{host}/.blosm/session");
        ask(&self.cars, method, &url, self.token.as_deref()).await
    }
}

impl Seen {
    /// Of a car that started at that time of the wall clock.
    #[cfg(test)]
    pub(super) fn at(origin_unix_ms: f64, records: Vec<Record>) -> Seen {
        Seen {
            records,
            origin_unix_ms,
        }
    }

    /// A time of its own clock on the wall clock.
    pub(super) fn unix_ms(&self, own_ms: f64) -> f64 {
        self.origin_unix_ms + own_ms
    }

    /// The 99th percentile of its latencies between two times of the wall clock.
    pub(super) fn p99_ms(&self, begin: f64, end: f64) -> Option<f64> {
        figures::p99_ms(
            &self.records,
            begin - self.origin_unix_ms,
            end - self.origin_unix_ms,
        )
    }

    /// The longest latency of successes that were to be sent between two times of the wall clock.
    pub(super) fn slowest_ms(&self, begin: f64, end: f64) -> f64 {
        let within = begin - self.origin_unix_ms..end - self.origin_unix_ms;
        self.records
            .iter()
            .filter(|r| r.ok() && within.contains(&r.intended_ms))
            .filter_map(Record::latency_ms)
            .fold(0.0, f64::max)
    }

    /// The longest latency of successes that were under way between two times of the wall clock.
    pub(super) fn longest_ms(&self, begin: f64, end: f64) -> f64 {
        let (begin, end) = (begin - self.origin_unix_ms, end - self.origin_unix_ms);
        self.records
            .iter()
            .filter(|r| r.ok() && r.intended_ms <= end && r.done_ms.is_some_and(|done| done >= begin))
            .filter_map(Record::latency_ms)
            .fold(0.0, f64::max)
    }

    /// The numbers of requests that were answered with a success, and of those that failed.
    pub(super) fn numbers(&self) -> (Vec<u64>, Vec<u64>) {
        let (ok, failed): (Vec<&Record>, Vec<&Record>) = self.records.iter().partition(|record| record.ok());
        let numbers = |records: Vec<&Record>| records.iter().map(|record| record.number).collect();
        (numbers(ok), numbers(failed))
    }
}
