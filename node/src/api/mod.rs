//! The local HTTP API: JSON about this node, and the few changes that an operator may ask for.
//!
//! ```text
//! GET  /v1/status  /v1/peers  /v1/members  /v1/sessions  /v1/migrations[/{id}]     open on loopback
//! GET  /v1/chain/head  /v1/chain/blocks/{height|hash}  /v1/chain/transactions/{hash}  /v1/chain/acks  /v1/chain/evidence
//! GET  /v1/events                                       server-sent: phases of migrations
//! GET  /v1/drain                                        POST and DELETE with the token
//! POST /v1/members  /v1/migrations  /v1/net/probe        bearer token of D/api.token
//! POST /v1/peers/{node}/ping  /v1/peers/{node}/bandwidth    the same
//! GET  /v1/invites                                      POST, and DELETE of /v1/invites/{id}, with the token
//! POST /v1/evictions  /v1/leave                         bearer token
//! GET  /healthz  /readyz  /ui                           open; the live page
//!
//! a listener of its own ([metrics] listen):  /metrics  /healthz  /v1/prometheus/targets
//! ```
//!
//! It owns no state: every answer is a snapshot of a subsystem's handle. An error is
//! `{"error": what happened, "hint": what to change}` with a status by [`ApiError`]. Who reaches the API
//! from another machine needs the token for reading too.
//!
//! Called by `crate::run`: [`bind`] first, so that a taken port ends the start before anything runs, then [`serve`].

mod auth;
mod chain;
mod drain;
mod error;
mod events;
mod evictions;
mod health;
mod invites;
mod links;
mod members;
mod metrics;
mod migrations;
mod node_ref;
mod probe;
mod scene;
mod sessions;
mod status;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::{future, io};

use axum::extract::DefaultBodyLimit;
use axum::response::Html;
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use blosm_net::NetHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admission::Invites;
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::gateway::Recent;
use crate::metrics::Metrics;
use crate::sessions::SessionsHandle;

pub use error::ApiError;
pub use node_ref::{NodeRefError, resolve_node};

/// Largest request body; an admission takes less than 2 KiB.
const MAX_BODY: usize = 16 * 1024;

/// What the API's answers are made from.
#[derive(Clone)]
pub struct ApiState {
    /// The node's settings, its key and the API's token.
    pub config: Arc<Config>,
    /// The ledger.
    pub chain: ChainHandle,
    /// Sessions, migrations, resources and the engine.
    pub sessions: SessionsHandle,
    /// The swarm.
    pub net: NetHandle,
    /// The invites, on an authority.
    pub(crate) invites: Option<Arc<Invites>>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// What cars asked for lately.
    pub(crate) recent: Arc<Recent>,
    /// Ends event streams when the node stops.
    pub stopping: CancellationToken,
}

/// The API's sockets, open and not yet served.
#[derive(Debug)]
pub struct Listeners {
    api: TcpListener,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Where the API listens; with port 0 in the configuration this names the port taken.
    pub fn api_address(&self) -> io::Result<SocketAddr> {
        self.api.local_addr()
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; change [{table}] listen, or end what listens there")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The table of the configuration that names it.
    pub table: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Opens a listener; an error names the table of the configuration to change.
pub async fn listen(address: SocketAddr, table: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        address,
        table,
        source,
    })
}

/// Opens the API's listeners.
pub async fn bind(config: &Config) -> Result<Listeners, BindError> {
    let api = listen(config.api.listen, "api").await?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(listen(address, "metrics").await?),
        None => None,
    };
    Ok(Listeners { api, metrics })
}

/// Serves until `state.stopping` is cancelled and the answers under way are given.
pub async fn serve(listeners: Listeners, state: ApiState) -> io::Result<()> {
    let Listeners { api, metrics } = listeners;
    let stopping = state.stopping.clone();
    let api_stop = stopping.clone().cancelled_owned();
    let service = router(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let api = async { axum::serve(api, service).with_graceful_shutdown(api_stop).await };
    let metrics = async {
        match metrics {
            Some(listener) => {
                let stop = stopping.cancelled_owned();
                axum::serve(listener, metrics::router(state))
                    .with_graceful_shutdown(stop)
                    .await
            }
            None => future::ready(Ok(())).await,
        }
    };
    tokio::try_join!(api, metrics).map(|_| ())
}

/// The live page: one file, which fetches nothing but this node's events.
async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

fn router(state: ApiState) -> Router {
    let v1 = Router::new()
        .route("/status", get(status::get))
        .route("/peers", get(status::peers))
        .route("/peers/{node}/ping", post(links::ping))
        .route("/peers/{node}/bandwidth", post(links::bandwidth))
        .route("/members", get(members::list).post(members::admit))
        .route("/invites", get(invites::list).post(invites::make))
        .route("/invites/{id}", delete(invites::revoke))
        .route("/evictions", post(evictions::evict))
        .route("/leave", post(evictions::leave))
        .route("/sessions", get(sessions::list))
        .route("/migrations", get(migrations::list).post(migrations::start))
        .route("/migrations/{id}", get(migrations::one))
        .route("/chain/head", get(chain::head))
        .route("/chain/blocks/{id}", get(chain::block))
        .route("/chain/transactions/{hash}", get(chain::transaction))
        .route("/chain/acks", get(chain::acks))
        .route("/chain/evidence", get(chain::evidence))
        .route("/events", get(events::stream))
        .route("/net/probe", post(probe::send))
        .route("/scene", get(scene::get))
        .route("/drain", get(drain::get).post(drain::begin).delete(drain::end))
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), auth::require));
    Router::new()
        .nest("/v1", v1)
        .route("/ui", get(page))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(error::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(auth::known_host))
        .with_state(state)
}
