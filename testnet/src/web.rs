//! The live page of a whole testnet: the nodes' own page, drawn from what all of them say and from the cars.
//!
//! ```text
//!   node 1 /v1/scene --+
//!   node 2 /v1/scene --+--> merge --> /v1/events?scene=true --> the page (EventSource)
//!   cars: place, latency +
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State as Shared;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, Redirect};
use axum::routing::get;
use futures::future::join_all;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::NodeClient;
use crate::car::CarView;
use crate::node::Node;
use crate::state::State;

/// Where the page is, unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:8600";
/// So many ports above the usual one are tried.
const NEXT_PORTS: u16 = 9;
/// How often the page is told.
const BEAT: Duration = Duration::from_millis(500);
/// What it draws of the cars' requests, milliseconds.
const WINDOW_MS: f64 = 30_000.0;
/// Migrations that have ended and are listed.
const ENDED: usize = 6;

fn is_usual(listen: SocketAddr) -> bool {
    LISTEN.parse() == Ok(listen)
}

/// The page's server; gone when this value is.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    cars: Arc<Mutex<Vec<CarView>>>,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Source {
    clients: Arc<Vec<NodeClient>>,
    cars: Arc<Mutex<Vec<CarView>>>,
}

impl Web {
    /// Serves the page of a testnet and says where; without it what runs goes on, and it is said why.
    pub async fn offer(listen: SocketAddr, state: &State, say: impl Fn(&str)) -> Option<Web> {
        match Web::serve(listen, state).await {
            Ok(web) => {
                say(&format!("watch it live: {}", web.url()));
                Some(web)
            }
            Err(error) => {
                say(&format!("no live page: {error:#}"));
                None
            }
        }
    }

    /// Serves the page of a testnet. Where the usual port is taken, by another command over the same testnet, the next free
    /// one serves.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn serve(listen: SocketAddr, state: &State) -> Result<Web> {
        let clients = state
            .hosts
            .iter()
            .map(|host| Ok(Node::of(state, host.number)?.client()));
        let source = Source {
            clients: Arc::new(clients.collect::<Result<_>>()?),
            cars: Arc::default(),
        };
        let mut listener = TcpListener::bind(listen).await;
        for further in 1..=NEXT_PORTS {
            match &listener {
                Err(error) if is_usual(listen) && error.kind() == io::ErrorKind::AddrInUse => {
                    listener = TcpListener::bind((listen.ip(), listen.port() + further)).await;
                }
                _ => break,
            }
        }
        let listener = listener
            .with_context(|| format!("the live page cannot be served at {listen}; choose another --web"))?;
        let (address, cars, stop) = (
            listener.local_addr()?,
            source.cars.clone(),
            CancellationToken::new(),
        );
        let router = Router::new()
            .route("/", get(|| async { Redirect::temporary("/ui") }))
            .route(
                "/ui",
                get(|| async { Html(include_str!("../../node/src/api/page.html")) }),
            )
            .route("/v1/events", get(events))
            .with_state(source);
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router);
            // Readers of the events never end by themselves.
            tokio::select! {
                served = serve => if let Err(error) = served { tracing::warn!(%error, "the live page ended") },
                () = stopped.cancelled() => {}
            }
        });
        Ok(Web {
            address,
            cars,
            _stop: stop.drop_guard(),
        })
    }

    /// Where to look.
    pub fn url(&self) -> String {
        format!("http://{}/ui", self.address)
    }

    /// Shows a car from now on.
    pub fn show(&self, car: CarView) {
        lock(&self.cars).push(car);
    }
}

async fn events(Shared(source): Shared<Source>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let beat = tokio::time::interval(BEAT);
    let scenes = stream::unfold((source, beat), |(source, mut beat)| async move {
        beat.tick().await;
        let event = Event::default()
            .event("scene")
            .json_data(source.scene().await)
            .unwrap_or_else(|error| Event::default().comment(error.to_string()));
        Some((Ok(event), (source, beat)))
    });
    Sse::new(scenes).keep_alive(KeepAlive::default())
}

impl Source {
    async fn scene(&self) -> Value {
        // A node that is down says nothing, which is what the page shows.
        let scenes = join_all(self.clients.iter().map(|client| client.get("/v1/scene"))).await;
        let heard = |scene: Result<Value>| {
            scene
                .map_err(|error| tracing::debug!(%error, "a node shows no scene"))
                .ok()
        };
        let scenes: Vec<Option<Value>> = scenes.into_iter().map(heard).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = now.as_secs_f64() * 1000.0;
        let cars = lock(&self.cars).clone();
        let places = cars.iter().enumerate().map(|(n, car)| {
            let (lat, lon) = car.location();
            json!({"id": format!("car {}", n + 1), "lat": lat, "lon": lon})
        });
        let latency: Vec<Value> = cars
            .iter()
            .flat_map(|car| car.since(now_ms - WINDOW_MS))
            .map(|(unix_ms, took_ms, ok)| json!([unix_ms, took_ms, ok]))
            .collect();
        merge(&scenes, &places.collect::<Vec<_>>(), &latency, now_ms)
    }
}

/// One scene of what several nodes see: the road as the node with the highest block has it, each session where the
/// newest of them knows it, each migration as its destination tells it.
fn merge(scenes: &[Option<Value>], cars: &[Value], latency: &[Value], now_ms: f64) -> Value {
    let seen: Vec<&Value> = scenes.iter().flatten().collect();
    let Some(best) = seen.iter().max_by_key(|scene| scene["height"].as_u64()) else {
        return json!({"network": "nothing answers", "unix_ms": now_ms, "height": 0, "confirmed_height": 0, "nodes": [],
            "sessions": [], "migrations": [], "ended": [], "cars": cars, "latency": latency, "blocks": []});
    };
    let mut scene = (*best).clone();
    let up: Vec<&Value> = seen.iter().map(|scene| &scene["node"]).collect();
    for node in scene["nodes"].as_array_mut().into_iter().flatten() {
        node["up"] = up.contains(&&node["node"]).into();
        node["mine"] = false.into();
    }
    // Whoever has a container knows best: its own word, before what the chain says elsewhere.
    let mut sessions: BTreeMap<String, Value> = BTreeMap::new();
    for (at, session) in seen
        .iter()
        .flat_map(|scene| each(scene, "sessions").map(move |s| (&scene["node"], s)))
    {
        let own = session["owner"] == *at;
        let id = session["session"].as_str().unwrap_or_default().to_owned();
        if own || !sessions.contains_key(&id) {
            sessions.insert(id, session.clone());
        }
    }
    let collect = |field: &str| {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for (at, migration) in seen
            .iter()
            .flat_map(|scene| each(scene, field).map(move |m| (&scene["node"], m)))
        {
            let id = migration["id"].as_str().unwrap_or_default().to_owned();
            if migration["destination"] == *at || !all.contains_key(&id) {
                all.insert(id, migration.clone());
            }
        }
        all
    };
    let ended = collect("ended");
    let mut running = collect("migrations");
    running.retain(|id, _| !ended.contains_key(id));
    let mut ended: Vec<Value> = ended.into_values().collect();
    let when = |ended: &Value| ended["unix_ms"].as_f64().unwrap_or_default();
    ended.sort_by(|a, b| when(b).total_cmp(&when(a)));
    ended.truncate(ENDED);
    scene["sessions"] = sessions.into_values().collect();
    scene["migrations"] = running.into_values().collect();
    scene["ended"] = ended.into();
    scene["cars"] = cars.into();
    scene["latency"] = latency.into();
    scene["unix_ms"] = now_ms.into();
    scene
}

fn each<'a>(scene: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    scene[field].as_array().into_iter().flatten()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, height: u64, sessions: Value, migrations: Value, ended: Value) -> Option<Value> {
        Some(
            json!({"network": "road", "node": key, "height": height, "confirmed_height": 1,
            "nodes": [{"node": "a", "up": true}, {"node": "b", "up": true}, {"node": "c", "up": true}],
            "sessions": sessions, "migrations": migrations, "ended": ended, "blocks": []}),
        )
    }

    #[test]
    fn who_has_a_container_and_who_takes_one_is_believed_first() {
        let session = |owner: &str| json!([{"session": "s", "owner": owner}]);
        let running = |bytes: u64| json!([{"id": "m", "destination": "b", "bytes": bytes}]);
        let scenes = [
            node("a", 5, session("a"), running(1), json!([])),
            node("b", 7, session("b"), running(9), json!([])),
            None,
        ];
        let scene = merge(&scenes, &[], &[], 1.0);
        assert_eq!(scene["height"], 7);
        assert_eq!(scene["sessions"], json!([{"session": "s", "owner": "b"}]));
        assert_eq!(scene["migrations"][0]["bytes"], 9);
        let up: Vec<&Value> = scene["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| &n["up"])
            .collect();
        assert_eq!(up, [&json!(true), &json!(true), &json!(false)], "c says nothing");
        // The source still calls it running when the destination has ended it.
        let done = json!([{"id": "m", "destination": "b", "unix_ms": 3.0}]);
        let scenes = [
            node("a", 5, json!([]), running(1), json!([])),
            node("b", 7, json!([]), json!([]), done),
        ];
        let scene = merge(&scenes, &[], &[], 1.0);
        assert_eq!(
            (
                scene["migrations"].as_array().unwrap().len(),
                &scene["ended"][0]["id"]
            ),
            (0, &json!("m"))
        );
    }

    #[test]
    fn without_any_node_the_page_says_so() {
        assert_eq!(merge(&[None], &[], &[], 1.0)["network"], "nothing answers");
    }
}
