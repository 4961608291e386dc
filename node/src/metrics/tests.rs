//! Every metric moves when it is told to, and nobody outside can make labels.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use blosm_ledger::{PublicKey, SessionId};
use blosm_net::{Direction, Found, peer_of_key};

use super::*;
use crate::sessions::{MigrationOutcome, MoveReason, RequestFigures};

fn metrics() -> Metrics {
    Metrics::register(BTreeSet::from(["counter".to_owned()])).unwrap()
}

#[track_caller]
fn holds(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.render().unwrap();
    for line in lines {
        assert!(
            text.lines().any(|found| found == *line),
            "{line} is not in\n{text}"
        );
    }
}

fn report(outcome: MigrationOutcome) -> MigrationReport {
    let key = PublicKey([1; 32]);
    let mut report = MigrationReport::begin(&[7; 16], SessionId([2; 32]), key, key, MoveReason::Mobility);
    report.outcome = outcome;
    report.service = "counter".to_owned();
    report.downtime_ms = 300.0;
    report.service_down_ms = 200.0;
    report.total_ms = 4_000.0;
    report.phases_ms.precopy = 3_000.0;
    report.chunks_sent = 5;
    report.chunks_reused = 11;
    report.image_bytes = 1_000;
    report.writable_bytes = 100;
    report.requests = RequestFigures {
        sent: 9,
        held: 3,
        failed: 2,
        interrupted: 1,
        max_stall_ms: 300.0,
    };
    report
}

#[test]
fn moves_are_counted_with_what_they_cost() {
    let metrics = metrics();
    metrics.migrations_may_fail(&["verdict_false", "pull"]);
    metrics.migration(Method::Live, None, &report(MigrationOutcome::Completed), None);
    metrics.migration(
        Method::Live,
        None,
        &report(MigrationOutcome::Aborted),
        Some("no_answer"),
    );
    let relayed = report(MigrationOutcome::Relayed);
    metrics.migration(Method::Image, Some(Method::Live), &relayed, Some("verdict_false"));
    // A peer cannot make labels, and what failed before it had said which service it is has one too.
    for name in ["no-such-service", ""] {
        let mut strange = report(MigrationOutcome::Aborted);
        strange.service = name.to_owned();
        metrics.migration(Method::Live, None, &strange, Some("no_answer"));
    }
    metrics.fetched(10);
    metrics.given(20);
    metrics.session_left(Duration::from_secs(12));
    metrics.under_way(2, 1, 4);
    metrics.method_available("live", true);
    metrics.helper_ended(2);
    metrics.helper_ended(3);
    holds(
        &metrics,
        &[
            "blosm_migrate_total{method=\"live\",outcome=\"completed\",reason=\"mobility\",service=\"counter\"} 1",
            "blosm_migrate_total{method=\"live\",outcome=\"aborted\",reason=\"mobility\",service=\"counter\"} 1",
            "blosm_migrate_total{method=\"live\",outcome=\"aborted\",reason=\"mobility\",service=\"other\"} 2",
            "blosm_migrate_failed_total{why=\"no_answer\"} 3",
            "blosm_migrate_failed_total{why=\"verdict_false\"} 1",
            "blosm_migrate_failed_total{why=\"pull\"} 0",
            "blosm_migrate_total{method=\"stateless\",outcome=\"relayed\",reason=\"drain\",service=\"other\"} 0",
            "blosm_migrate_downtime_seconds_count{method=\"stateless\",service=\"counter\"} 0",
            "blosm_migrate_fallbacks_total{method=\"image\",wanted=\"live\"} 1",
            "blosm_migrate_fallbacks_total{method=\"stateless\",wanted=\"image\"} 0",
            "blosm_migrate_phase_seconds_count{method=\"stateless\",phase=\"stage\"} 0",
            "blosm_migrate_downtime_seconds_sum{method=\"live\",service=\"counter\"} 0.3",
            "blosm_migrate_downtime_seconds_count{method=\"live\",service=\"counter\"} 1",
            "blosm_migrate_service_down_seconds_sum{method=\"live\"} 0.2",
            "blosm_migrate_duration_seconds_sum{method=\"live\"} 4",
            "blosm_migrate_phase_seconds_sum{method=\"live\",phase=\"precopy\"} 3",
            "blosm_migrate_phase_seconds_count{method=\"live\",phase=\"ledger_wait\"} 1",
            // Of all five: what was fetched was fetched, whatever came of it.
            "blosm_migrate_chunks_total{source=\"fetched\"} 25",
            "blosm_migrate_chunks_total{source=\"held\"} 55",
            "blosm_migrate_container_bytes_total{part=\"image\",service=\"counter\"} 1000",
            "blosm_migrate_container_bytes_total{part=\"layer\",service=\"counter\"} 100",
            "blosm_migrate_requests_total{fate=\"all\"} 9",
            "blosm_migrate_requests_total{fate=\"interrupted\"} 1",
            "blosm_migrate_transfer_bytes_total{direction=\"in\"} 10",
            "blosm_migrate_transfer_bytes_total{direction=\"out\"} 20",
            "blosm_migrate_stay_seconds_bucket{le=\"10\"} 0",
            "blosm_migrate_stay_seconds_bucket{le=\"15\"} 1",
            "blosm_migrate_under_way{direction=\"out\"} 2",
            "blosm_migrate_method_available{method=\"live\"} 1",
            "blosm_gateway_held_requests 4",
            "blosm_helper_ended_total 3",
        ],
    );
}

#[test]
fn requests_are_counted_and_a_client_cannot_make_labels() {
    let metrics = metrics();
    let took = Duration::from_millis(30);
    metrics.answered("counter", "local", 200, took);
    for name in ["a", "b", "c"] {
        metrics.answered(name, "local", 404, took);
        metrics.session_opened(name);
    }
    metrics.answered("counter", "local", 999, took);
    metrics.requests_may_be_denied(&[("held", 503), ("gone", 410)]);
    metrics.denied("held");
    let (first, second, third) = (
        metrics.request("counter"),
        metrics.request("counter"),
        metrics.request("d"),
    );
    first.answered("relay", 204);
    third.denied("gone", 410);
    metrics.sessions(&BTreeMap::from([("counter".to_owned(), 3)]), 2);
    holds(
        &metrics,
        &[
            "blosm_gateway_requests_total{code=\"200\",route=\"local\",service=\"counter\"} 1",
            "blosm_gateway_requests_total{code=\"404\",route=\"local\",service=\"other\"} 3",
            "blosm_gateway_requests_total{code=\"0\",route=\"local\",service=\"counter\"} 1",
            "blosm_gateway_request_seconds_sum{route=\"local\",service=\"other\"} 0.09",
            "blosm_gateway_denied_total{reason=\"held\"} 1",
            // What has not happened yet is seen to happen.
            "blosm_gateway_denied_total{reason=\"client_gone\"} 0",
            "blosm_gateway_denied_total{reason=\"gone\"} 1",
            "blosm_gateway_requests_total{code=\"204\",route=\"relay\",service=\"counter\"} 1",
            "blosm_gateway_requests_total{code=\"503\",route=\"none\",service=\"counter\"} 0",
            "blosm_gateway_requests_total{code=\"410\",route=\"none\",service=\"other\"} 1",
            "blosm_gateway_requests_total{code=\"499\",route=\"none\",service=\"counter\"} 0",
            "blosm_gateway_requests 1",
            "blosm_session_opened_total{service=\"other\"} 3",
            "blosm_session_owned{service=\"counter\"} 3",
            "blosm_session_unsealed_transactions 2",
        ],
    );
    drop(second);
    metrics.sessions(&BTreeMap::new(), 0);
    holds(
        &metrics,
        &[
            "blosm_gateway_requests 0",
            // It was let fall unanswered.
            "blosm_gateway_denied_total{reason=\"client_gone\"} 1",
            "blosm_gateway_requests_total{code=\"499\",route=\"none\",service=\"counter\"} 1",
            "blosm_session_owned{service=\"counter\"} 0",
        ],
    );
}

#[test]
fn the_swarm_is_read_as_often_as_one_likes_and_counted_once() {
    let metrics = metrics();
    holds(&metrics, &["blosm_net_clock_offset_seconds NaN"]);
    let peer = |n: u8, score| PeerInfo {
        peer: peer_of_key(&[n; 32]),
        address: "/ip4/192.0.2.1/tcp/1".parse().unwrap(),
        direction: Direction::Inbound,
        found: Found::Inbound,
        since: SystemTime::UNIX_EPOCH,
        rtt: None,
        agent: String::new(),
        protocols: Vec::new(),
        majors: BTreeMap::new(),
        score,
    };
    let mut counted = Counters::default();
    counted.requests_sent = 4;
    counted.peers_kept_out = 1;
    for _ in 0..2 {
        metrics.net(&[peer(1, 0), peer(2, -12)], Some(false), &counted);
    }
    metrics.clock_offset(Some(-1.5));
    holds(
        &metrics,
        &[
            "blosm_net_peers 2",
            "blosm_net_scored_down_peers 1",
            "blosm_net_lowest_score -12",
            "blosm_net_clock_offset_seconds -1.5",
            "blosm_net_reachable{verdict=\"no\"} 1",
            "blosm_net_reachable{verdict=\"yes\"} 0",
            "blosm_net_events_total{event=\"requests_sent\"} 4",
            "blosm_net_events_total{event=\"peers_kept_out\"} 1",
            "blosm_net_refused_total{reason=\"stranger\"} 0",
            "blosm_net_limited_total{kind=\"join\"} 0",
            "blosm_net_misdeeds_total{kind=\"message\"} 0",
        ],
    );
    // A swarm that was started anew begins at 0 again; a counter never falls.
    metrics.net(&[], None, &Counters::default());
    holds(
        &metrics,
        &[
            "blosm_net_lowest_score 0",
            "blosm_net_events_total{event=\"requests_sent\"} 4",
        ],
    );
}

#[test]
fn ledger_machine_and_node_show_what_they_are_told() {
    let metrics = metrics();
    metrics.store(&StoreFigures {
        table_bytes: vec![("tx", 77)],
        memtable_bytes: 5,
        background_errors: 1,
        writes_stopped: true,
        ..StoreFigures::default()
    });
    let amount = |total| Amount {
        total,
        reserved: 500,
        free: 1500,
    };
    metrics.offered(amount(4000), amount(2000), amount(2));
    metrics.machine(&Machine {
        memory_total: 9,
        memory_used: 4,
        cpu_busy: Duration::from_millis(2500),
        disk_total: 8,
        disk_free: 6,
        gpus: vec![
            blosm_migrate::resources::Gpu {
                name: "a".to_owned(),
                memory_total: 100,
                memory_free: 30,
                free_milli: 250,
            };
            2
        ],
    });
    metrics.readiness(true, false);
    metrics.engine_up(true);
    holds(
        &metrics,
        &[
            "blosm_ledger_store_table_bytes{column=\"tx\"} 77",
            "blosm_ledger_store_memory_bytes{kind=\"memtables\"} 5",
            "blosm_ledger_store_errors_total 1",
            "blosm_ledger_store_stopped 1",
            "blosm_ledger_transactions_total{kind=\"hand_over\"} 0",
            "blosm_ledger_seal_seconds_count 0",
            "blosm_ledger_rejected_total{reason=\"ack_flood\"} 0",
            "blosm_resource_memory_bytes{kind=\"total\"} 4000",
            "blosm_resource_cpu_cores{kind=\"reserved\"} 0.5",
            "blosm_resource_gpu_ratio{kind=\"total\"} 2",
            "blosm_machine_memory_bytes{kind=\"used\"} 4",
            "blosm_machine_cpu_seconds_total 2.5",
            "blosm_machine_disk_bytes{kind=\"free\"} 6",
            "blosm_machine_gpu_ratio{kind=\"used\"} 1.5",
            "blosm_machine_gpu_memory_bytes{kind=\"used\"} 140",
            "blosm_node_ready 1",
            "blosm_node_drained 0",
            "blosm_engine_up 1",
        ],
    );
}
