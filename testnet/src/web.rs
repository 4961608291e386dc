//! The live page of a whole testnet: the nodes' own page, drawn from what all of them say and from the cars.
//!
//! ```text
//!   node 1 /v1/scene --+
//!   node 2 /v1/scene --+--> watch, merge --> /v1/events?scene=true --> the page (EventSource)
//!   cars: place, latency +
//! ```

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State as Shared;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, Redirect};
use axum::routing::get;
use futures::stream::{self, Stream};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::car::CarView;
use crate::node::Node;
use crate::state::State;

mod nodes;
mod scene;

use nodes::Watch;

/// Where the page is, unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:8600";
/// So many ports above the usual one are tried.
const NEXT_PORTS: u16 = 9;

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

/// The newest scene, for whoever looks.
type Scenes = watch::Sender<Value>;

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
        let cars = Arc::default();
        let watch = Watch::new(clients.collect::<Result<_>>()?, Arc::clone(&cars));
        let scenes = Scenes::default();
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
        let (address, stop) = (listener.local_addr()?, CancellationToken::new());
        let router = Router::new()
            .route("/", get(|| async { Redirect::temporary("/ui") }))
            .route(
                "/ui",
                get(|| async { Html(include_str!("../../node/src/api/page.html")) }),
            )
            .route("/v1/events", get(events))
            .with_state(scenes.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router);
            // Readers of the events never end by themselves.
            tokio::select! {
                served = serve => if let Err(error) = served { tracing::warn!(%error, "the live page ended") },
                () = watch.run(scenes) => {}
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

/// One reader's scenes.
async fn events(Shared(scenes): Shared<Scenes>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = stream::unfold(scenes.subscribe(), |mut scenes| async move {
        scenes.changed().await.ok()?;
        let event = Event::default()
            .event("scene")
            .json_data(&*scenes.borrow_and_update())
            .unwrap_or_else(|error| Event::default().comment(error.to_string()));
        Some((Ok(event), scenes))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
