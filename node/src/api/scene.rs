//! What the live page draws: the road, who has which container, what moves, the last blocks, how long requests waited.
//! One JSON document, whole each time, so that a page that was away draws the present and nothing else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use blosm_ledger::{Location, PublicKey};
use blosm_net::peer_of_key;
use futures::stream::{self, Stream};
use serde_json::{Value, json};

use super::ApiState;
use crate::chain::{BlockId, FULL_MESH};
use crate::sessions::{MigrationOutcome, unix_ms};

/// How often the page is told.
const BEAT: Duration = Duration::from_millis(500);
/// Requests that are as old are not drawn any more.
const WINDOW_MS: u64 = 30_000;
/// Blocks that are drawn.
const BLOCKS: u64 = 6;
/// Migrations that have ended and are listed.
const ENDED: usize = 6;

/// The scene as it is now.
pub(super) async fn get(State(state): State<ApiState>) -> Json<Value> {
    Json(scene(&state, &mut Blocks::default()).await)
}

/// One reader's scenes.
pub(super) fn scenes(state: ApiState) -> impl Stream<Item = Result<Event, Infallible>> {
    let beat = tokio::time::interval(BEAT);
    stream::unfold(
        (state, beat, Blocks::default()),
        |(state, mut beat, mut blocks)| async move {
            beat.tick().await;
            let scene = scene(&state, &mut blocks).await;
            let event = Event::default()
                .event("scene")
                .json_data(&scene)
                .unwrap_or_else(|error| Event::default().comment(error.to_string()));
            Some((Ok(event), (state, beat, blocks)))
        },
    )
}

/// What is known of the last blocks; one that everybody holds is not looked up again.
#[derive(Debug, Default)]
struct Blocks(HashMap<u64, Value>);

async fn scene(state: &ApiState, blocks: &mut Blocks) -> Value {
    let (view, now) = (state.chain.snapshot(), unix_ms());
    let me = state.config.public_key();
    // In a large network nobody is connected to everybody: of the others it is not known whether they are up.
    let all = view.state.members().len() <= FULL_MESH + 1;
    let up = |key: &PublicKey| match *key == me || state.net.is_connected(&peer_of_key(&key.0)) {
        false if !all => Value::Null,
        known => known.into(),
    };
    let nodes = view.state.members().iter().map(|(key, member)| {
        let [lat, lon] = degrees(member.location);
        json!({
            "node": key, "label": member.label, "lat": lat, "lon": lon, "radius_m": member.radius_m,
            "authority": state.config.network.genesis.is_authority(key), "mine": *key == me,
            "up": up(key),
        })
    });
    let nodes: Vec<Value> = nodes.collect();
    let sessions = state.sessions.list().await;
    let sessions = sessions.iter().filter(|session| session.status == "open");
    let sessions = sessions.map(|session| {
        json!({"session": session.session, "service": session.service, "owner": session.owner, "phase": session.phase})
    });
    let reports = state.sessions.migrations().await;
    let running = reports
        .iter()
        .filter(|report| report.outcome == MigrationOutcome::Running);
    let migrations = running.map(|report| {
        let (phase, progress) = state.sessions.reached(&report.id).unwrap_or_default();
        json!({
            "id": report.id, "session": report.session, "source": report.source, "destination": report.destination,
            "method": report.method, "phase": phase, "bytes": progress.bytes, "total_bytes": progress.total_bytes,
            "rate_bytes_s": progress.rate_bytes_s,
        })
    });
    let ended = reports
        .iter()
        .rev()
        .filter(|report| report.outcome != MigrationOutcome::Running);
    let ended = ended.take(ENDED).map(|report| {
        json!({
            "id": report.id, "session": report.session, "source": report.source, "destination": report.destination,
            "method": report.method, "outcome": report.outcome, "downtime_ms": report.downtime_ms,
            "wire_bytes": report.wire_bytes, "total_ms": report.total_ms, "unix_ms": report.started_unix_ms as f64 + report.total_ms,
        })
    });
    let cars = state
        .recent
        .cars(Instant::now())
        .into_iter()
        .map(|(id, position, age)| {
            json!({"id": id, "lat": position.latitude(), "lon": position.longitude(), "age_ms": age.as_millis() as u64})
        });
    let requests = state.recent.requests(now.saturating_sub(WINDOW_MS));
    let latency = requests
        .iter()
        .map(|request| json!([request.unix_ms, request.took_ms, request.ok]));
    json!({
        "network": state.config.network.genesis.name,
        "node": me,
        "unix_ms": now,
        "height": view.height,
        "confirmed_height": view.confirmed_height,
        "nodes": nodes,
        "sessions": sessions.collect::<Vec<_>>(),
        "migrations": migrations.collect::<Vec<_>>(),
        "ended": ended.collect::<Vec<_>>(),
        "cars": cars.collect::<Vec<_>>(),
        "latency": latency.collect::<Vec<_>>(),
        "blocks": blocks.last(state, view.height).await,
    })
}

impl Blocks {
    /// The last blocks, newest first.
    async fn last(&mut self, state: &ApiState, head: u64) -> Vec<Value> {
        let oldest = head.saturating_sub(BLOCKS - 1).max(1);
        self.0.retain(|height, _| *height >= oldest);
        let mut last = Vec::new();
        for height in (oldest..=head).rev() {
            let known = self.0.get(&height);
            let whole = |block: &&Value| block["acked"] == block["members"];
            if let Some(block) = known.filter(whole) {
                last.push(block.clone());
                continue;
            }
            let Some(sealed) = state.chain.block(BlockId::Height(height)).await else {
                continue;
            };
            let kinds = sealed.block.transactions.iter().map(|tx| tx.payload.kind());
            // Without asking the proposer: many look on, several times a second. Of the newest it may not have spoken yet.
            let known = state.chain.known(height).await;
            let acked = known.map(|known| known.acked).filter(|acked| *acked > 0);
            let block = json!({
                "height": height, "hash": sealed.hash(), "kinds": kinds.collect::<Vec<_>>(),
                "acked": acked, "members": sealed.block.header.member_count,
            });
            self.0.insert(height, block.clone());
            last.push(block);
        }
        last
    }
}

fn degrees(location: Location) -> [f64; 2] {
    [location.lat_e7, location.lon_e7].map(|e7| f64::from(e7) / 1e7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_degrees() {
        let location = Location {
            lat_e7: 374_500_000,
            lon_e7: -1_266_500_000,
        };
        assert_eq!(degrees(location), [37.45, -126.65]);
    }
}
