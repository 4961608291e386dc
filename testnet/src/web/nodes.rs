//! Asks all nodes for their scenes while somebody looks at the page, once for all who look.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::lock;
use super::scene::{Own, merge};
use crate::api::NodeClient;
use crate::car::CarView;

/// How often the page is told.
const BEAT: Duration = Duration::from_millis(500);
/// So long a beat waits for the nodes' answers; what comes later is in the next one.
const PATIENCE: Duration = Duration::from_millis(300);
/// A node that has said nothing for so long is shown as one that is down.
const SILENT: Duration = Duration::from_secs(2);
/// What the page draws of the cars' requests, milliseconds.
const WINDOW_MS: f64 = 30_000.0;

/// What is known of the testnet.
pub(super) struct Watch {
    nodes: Vec<Watched>,
    cars: Arc<Mutex<Vec<CarView>>>,
    asked: JoinSet<(usize, Option<Value>)>,
}

struct Watched {
    client: NodeClient,
    /// A slow node is asked again when it has answered.
    under_way: bool,
    said: Option<(Instant, Value)>,
}

impl Watch {
    pub(super) fn new(clients: Vec<NodeClient>, cars: Arc<Mutex<Vec<CarView>>>) -> Watch {
        let nodes = clients.into_iter().map(|client| Watched {
            client,
            under_way: false,
            said: None,
        });
        Watch {
            nodes: nodes.collect(),
            cars,
            asked: JoinSet::new(),
        }
    }

    /// Tells `scenes` what there is, for as long as this is polled. Nobody is asked while nobody reads.
    pub(super) async fn run(mut self, scenes: watch::Sender<Value>) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if scenes.receiver_count() > 0 {
                self.ask().await;
                scenes.send_replace(self.scene());
            }
        }
    }

    async fn ask(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if std::mem::replace(&mut node.under_way, true) {
                continue;
            }
            let client = node.client.clone();
            self.asked.spawn(async move {
                let scene = client.get("/v1/scene").await;
                // A node that is down says nothing, which is what the page shows.
                let scene = scene.inspect_err(|error| tracing::debug!(%error, "a node shows no scene"));
                (at, scene.ok())
            });
        }
        let end = tokio::time::Instant::now() + PATIENCE;
        while let Ok(Some(answer)) = tokio::time::timeout_at(end, self.asked.join_next()).await {
            let Ok((at, scene)) = answer else { continue };
            self.nodes[at].under_way = false;
            self.nodes[at].said = scene.map(|scene| (Instant::now(), scene));
        }
    }

    fn scene(&self) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = now.as_secs_f64() * 1000.0;
        let cars = lock(&self.cars).clone();
        let own = (!cars.is_empty()).then(|| Own {
            cars: cars
                .iter()
                .enumerate()
                .map(|(n, car)| {
                    let (lat, lon) = car.location();
                    json!({"id": format!("car {}", n + 1), "lat": lat, "lon": lon})
                })
                .collect(),
            latency: cars
                .iter()
                .flat_map(|car| car.since(now_ms - WINDOW_MS))
                .map(|(unix_ms, took_ms, ok)| json!([unix_ms, took_ms, ok]))
                .collect(),
        });
        let heard = self.nodes.iter().map(|node| match &node.said {
            Some((at, scene)) if at.elapsed() < SILENT => Some(scene.clone()),
            _ => None,
        });
        merge(&heard.collect::<Vec<_>>(), own, now_ms)
    }
}
