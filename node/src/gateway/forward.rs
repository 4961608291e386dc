//! One request to a container on this node.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};

use super::request::{Denied, ServiceRequest, end_to_end};

/// The largest answer of a container that is passed on.
const MAX_ANSWER: usize = 15 << 20;

/// What a container answered.
pub(crate) struct Forwarded {
    pub(crate) status: axum::http::StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The client for containers on the engine's bridge.
///
/// It keeps no connection: an idle one would be reset when its container stops, and a request sent into it would be lost
/// without anybody knowing whether it took effect.
pub(crate) fn container_client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client without TLS needs nothing of the system")
    });
    CLIENT.clone()
}

/// Why the container did not answer.
pub(crate) enum Failed {
    /// It could not be connected to: no byte of the request has reached it.
    NotSent,
    /// It may have acted on the request.
    Denied(Denied),
}

/// Sends the request to the container at `address` and reads its whole answer.
pub(crate) async fn forward(
    address: SocketAddr,
    request: &ServiceRequest,
    limit: Duration,
) -> Result<Forwarded, Failed> {
    let url = format!("http://{address}{}", request.path);
    let send = container_client()
        .request(request.method.clone(), url)
        .headers(request.headers.clone())
        .body(request.body.clone())
        .timeout(limit)
        .send();
    let mut response = send.await.map_err(classify)?;
    let (status, headers) = (response.status(), end_to_end(response.headers()));
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(classify)? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(Failed::Denied(Denied::BadAnswer));
        }
        body.extend_from_slice(&part);
    }
    Ok(Forwarded {
        status,
        headers,
        body: body.freeze(),
    })
}

fn classify(error: reqwest::Error) -> Failed {
    if error.is_connect() || error.is_builder() {
        Failed::NotSent
    } else if error.is_timeout() {
        Failed::Denied(Denied::TimedOut)
    } else {
        Failed::Denied(Denied::Interrupted)
    }
}
