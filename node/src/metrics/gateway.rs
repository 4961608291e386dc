//! The gateway's metrics: requests of clients, how they were answered, and what waits.

use std::collections::BTreeSet;
use std::time::Duration;

use prometheus::{Error, Gauge, HistogramVec, IntCounterVec};

use super::register::Register;

/// Label of services that this node does not declare.
const OTHER_SERVICE: &str = "other";
/// Why a request was not answered whose client did not wait for that, and the code that stands for the answer it never got.
pub(super) const CLIENT_GONE: (&str, u16) = ("client_gone", 499);
/// From an answer of a container beside the gateway to the longest hold, in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

#[derive(Debug)]
pub(super) struct GatewayMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    denied: IntCounterVec,
    under_way: Gauge,
    held: Gauge,
    services: BTreeSet<String>,
}

impl GatewayMetrics {
    pub(super) fn register(register: Register<'_>, services: BTreeSet<String>) -> Result<Self, Error> {
        Ok(Self {
            requests: register.counters(
                "blosm_gateway_requests_total",
                "Requests of clients that this node's gateway answered, or let fall since their client had gone",
                &["service", "route", "code"],
            )?,
            seconds: register.histograms(
                "blosm_gateway_request_seconds",
                "Time from a client's whole request to its answer, with holds and relays",
                &["service", "route"],
                &SECONDS,
            )?,
            denied: register.counters(
                "blosm_gateway_denied_total",
                "Requests of clients that no container answered",
                &["reason"],
            )?,
            under_way: register.gauge(
                "blosm_gateway_requests",
                "Requests of clients that are being answered",
            )?,
            held: register.gauge(
                "blosm_gateway_held_requests",
                "Requests that wait for a session's container here",
            )?,
            services,
        })
    }

    /// The ways in which a request can be denied, each with its reason and status. What there is a series of from the
    /// start shows its first step: a rate of a series that begins with 1 is 0.
    pub(super) fn may_be_denied(&self, ways: &[(&'static str, u16)]) {
        for (reason, code) in ways.iter().chain([&CLIENT_GONE]) {
            self.denied.with_label_values(&[reason]);
            for service in self.all_services() {
                self.requests
                    .with_label_values(&[service, "none", &code.to_string()]);
            }
        }
    }

    pub(super) fn begun(&self) {
        self.under_way.inc();
    }

    pub(super) fn ended(&self) {
        self.under_way.dec();
    }

    pub(super) fn answered(&self, service: &str, route: &'static str, code: u16, took: Duration) {
        let service = self.service(service);
        // At most 500 codes: a container may answer with any number.
        let code = if (100..600).contains(&code) { code } else { 0 };
        self.requests
            .with_label_values(&[service, route, &code.to_string()])
            .inc();
        self.seconds
            .with_label_values(&[service, route])
            .observe(took.as_secs_f64());
    }

    pub(super) fn denied(&self, reason: &'static str) {
        self.denied.with_label_values(&[reason]).inc();
    }

    pub(super) fn held(&self, requests: usize) {
        self.held.set(requests as f64);
    }

    /// The label of a service: a client cannot make labels.
    pub(super) fn service<'a>(&self, name: &'a str) -> &'a str {
        if self.services.contains(name) {
            name
        } else {
            OTHER_SERVICE
        }
    }

    /// The declared services.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    /// The label's values: the declared services, and all others together.
    pub(super) fn all_services(&self) -> impl Iterator<Item = &str> {
        self.services().chain([OTHER_SERVICE])
    }
}
