//! Who may do what: changes need the token, and so does reading from another machine.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{ApiError, ApiState};

/// Lets a request through that may be answered.
pub(super) async fn require(
    State(state): State<ApiState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let token = bearer(request.headers());
    let known = token.is_some_and(|token| state.config.api.token.matches(token));
    if known || open(request.method(), peer.ip()) {
        return next.run(request).await;
    }
    match token {
        Some(_) => ApiError::WrongToken.into_response(),
        None => ApiError::NoToken.into_response(),
    }
}

/// What needs no token: reading, on this machine.
fn open(method: &Method, peer: IpAddr) -> bool {
    method.is_safe() && peer.to_canonical().is_loopback()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Refuses requests that a web page has sent here under a name of its own (DNS rebinding): this machine's
/// user would read what the page may not.
pub(super) async fn known_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or(""));
    match host {
        Some(host) if !is_own_name(host) => ApiError::ForeignHost.into_response(),
        _ => next.run(request).await,
    }
}

fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reading_on_this_machine_is_open() {
        let local = [
            IpAddr::from([127, 0, 0, 1]),
            "::1".parse().unwrap(),
            "::ffff:127.0.0.1".parse().unwrap(),
        ];
        for ip in local {
            assert!(open(&Method::GET, ip));
            assert!(!open(&Method::POST, ip));
            assert!(!open(&Method::DELETE, ip));
        }
        assert!(!open(&Method::GET, IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn the_token_is_the_bearers() {
        let headers = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&headers("abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_cannot_name_this_node() {
        for host in [
            "127.0.0.1:4480",
            "localhost",
            "LOCALHOST:1",
            "[::1]:4480",
            "10.0.0.1",
        ] {
            assert!(is_own_name(host), "{host}");
        }
        for host in ["example.com", "example.com:4480", "localhost.example.com", ""] {
            assert!(!is_own_name(host), "{host}");
        }
    }
}
