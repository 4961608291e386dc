//! The gateway's HTTP side: reads a client's request whole, and writes the answer with what the client should know.

use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use blosm_ledger::Token;
use blosm_migrate::placement::{Position, distance_m};
use blosm_migrate::service::Sharing;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::recent::Answered;
use super::relay::{MAX_RELAYED_BODY, Relayed};
use super::request::{
    Answer, Denied, NEAREST_HEADER, NODE_HEADER, POSITION_HEADER, SERVICE_HEADER, SESSION_HEADER,
    ServiceRequest, TIMING_HEADER, Target, Timing, end_to_end, session_token, without_session_cookie,
};
use super::reserved;
use super::serve::Gateway;
use crate::parts::{Parts, position_of};
use crate::sessions::unix_ms;

/// Serves cars until `stop`, and lets the answers under way be given.
pub(crate) async fn serve_http(
    listener: TcpListener,
    gateway: Gateway,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/.blosm/nodes", get(reserved::nodes))
        .route("/.blosm/session", get(reserved::session).delete(reserved::close))
        .route("/.blosm/healthz", get(|| async { "ok\n" }))
        .route(
            "/.blosm/{*rest}",
            any(|| async { (StatusCode::NOT_FOUND, "no such reserved path\n") }),
        )
        .fallback(handle)
        .with_state(gateway);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn handle(State(gateway): State<Gateway>, request: Request) -> Response {
    let (begin, unix_ms) = (Instant::now(), unix_ms());
    // What is no position is refused where the request is read.
    let position = position(request.headers()).ok().flatten();
    if let Some(position) = position
        && let Some(car) = car(request.headers())
    {
        gateway.parts.recent.seen(&car, position, begin);
    }
    let response = answer(&gateway, request, position, begin).await;
    gateway.parts.recent.answered(Answered {
        unix_ms,
        took_ms: begin.elapsed().as_secs_f64() * 1000.0,
        ok: !response.status().is_server_error(),
    });
    response
}

/// What tells a client apart from the others: the beginning of its session's id, which is a hash.
fn car(headers: &HeaderMap) -> Option<String> {
    let token = Token::parse(session_token(headers)?).ok()?;
    Some(token.session().short(8))
}

async fn answer(gateway: &Gateway, request: Request, position: Option<Position>, begin: Instant) -> Response {
    let by_path = !request.headers().contains_key(SERVICE_HEADER);
    match read(gateway, request).await {
        Err(denied) => {
            let metrics = &gateway.parts.metrics;
            metrics.answered("", "none", denied.status().0.as_u16(), begin.elapsed());
            metrics.denied(denied.word());
            denied.response()
        }
        Ok(read) => {
            let (service, opened) = (read.service.clone(), matches!(read.target, Target::Open { .. }));
            match gateway.serve(read).await {
                Ok(Relayed::Answer(answer)) => {
                    let cookie_path = if by_path {
                        format!("/{service}")
                    } else {
                        "/".to_owned()
                    };
                    response(
                        &gateway.parts,
                        answer,
                        begin,
                        position,
                        opened.then_some(cookie_path),
                    )
                }
                // Only a node that relays is told this.
                Ok(Relayed::Moved { .. }) => Denied::OwnerUnreachable.response(),
                Err(denied) => {
                    let mut response = denied.response();
                    response
                        .headers_mut()
                        .insert(NODE_HEADER, label(&gateway.parts, &gateway.parts.me));
                    response
                }
            }
        }
    }
}

fn position(headers: &HeaderMap) -> Result<Option<Position>, Denied> {
    match headers.get(POSITION_HEADER) {
        None => Ok(None),
        Some(value) => {
            let text = value.to_str().map_err(|_| Denied::BadPosition)?;
            text.parse().map(Some).map_err(|_| Denied::BadPosition)
        }
    }
}

/// Route: `X-Blosm-Service`, else the first path segment (`docs/protocol.md`, "Gateway").
async fn read(gateway: &Gateway, request: Request) -> Result<ServiceRequest, Denied> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let (service, path) = match head.headers.get(SERVICE_HEADER) {
        Some(name) => (
            name.to_str().map_err(|_| Denied::UnknownService)?.to_owned(),
            path.to_owned(),
        ),
        None => split(path).ok_or(Denied::UnknownService)?,
    };
    let declared = gateway.parts.config.services.get(&service).cloned();
    let target = match (session_token(&head.headers), &declared) {
        (_, Some(declared)) if declared.sharing == Sharing::Node => Target::Shared { ticket: None },
        (Some(token), _) => Target::Session(Token::parse(token).map_err(|_| Denied::BadToken)?),
        (None, Some(_)) => Target::Open { ticket: None },
        (None, None) => return Err(Denied::UnknownService),
    };
    let limit = declared.as_ref().map_or(MAX_RELAYED_BODY, |declared| {
        declared.request.max_body.min(MAX_RELAYED_BODY)
    });
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let position = position(&head.headers)?;
    let mut headers = end_to_end(&head.headers);
    without_session_cookie(&mut headers);
    let body = to_bytes(Body::new(body), limit)
        .await
        .map_err(|_| Denied::TooLarge)?;
    Ok(ServiceRequest {
        service,
        declared,
        target,
        method: head.method,
        path,
        headers,
        body,
        position,
        hops: 0,
        via: None,
    })
}

/// `/counter/a?b` is `/a?b` of the service `counter`.
fn split(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix('/')?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (service, inner) = rest.split_at(end);
    let inner = if inner.starts_with('/') {
        inner.to_owned()
    } else {
        format!("/{inner}")
    };
    blosm_ledger::is_service_name(service).then(|| (service.to_owned(), inner))
}

fn response(
    parts: &Parts,
    answer: Answer,
    begin: Instant,
    position: Option<Position>,
    cookie_path: Option<String>,
) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let headers = response.headers_mut();
    headers.insert(NODE_HEADER, label(parts, &answer.node));
    headers.append(TIMING_HEADER, timing(answer.timing, begin));
    if let (Some(token), Some(path)) = (&answer.token, cookie_path)
        && let (Ok(token_value), Ok(cookie)) = (
            HeaderValue::from_str(token),
            HeaderValue::from_str(&format!(
                "X-Blosm-Session={token}; Path={path}; HttpOnly; SameSite=Lax"
            )),
        )
    {
        headers.insert(SESSION_HEADER, token_value);
        headers.append(header::SET_COOKIE, cookie);
    }
    if let Some(nearer) = position.and_then(|position| nearer_gateway(parts, position))
        && let Ok(value) = HeaderValue::from_str(&nearer)
    {
        headers.insert(NEAREST_HEADER, value);
    }
    response
}

/// The label of a member, else its key.
fn label(parts: &Parts, node: &blosm_ledger::PublicKey) -> HeaderValue {
    let view = parts.chain.snapshot();
    let label = view.state.members().get(node).map(|member| member.label.clone());
    let text = label.unwrap_or_else(|| node.short(16));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("node"))
}

/// `Server-Timing` in milliseconds; what is not accounted for elsewhere was spent in this node.
fn timing(timing: Timing, begin: Instant) -> HeaderValue {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let total = begin.elapsed().as_secs_f64() * 1000.0;
    let text = format!(
        "queue;dur={:.3}, relay;dur={:.3}, service;dur={:.3}, total;dur={total:.3}",
        ms(timing.queue),
        ms(timing.relay),
        ms(timing.service),
    );
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("total"))
}

/// The gateway of the member nearest to the client, when that is not this node.
fn nearer_gateway(parts: &Parts, client: Position) -> Option<String> {
    let view = parts.chain.snapshot();
    let own = distance_m(client, parts.position());
    view.state
        .members()
        .iter()
        .filter(|(key, _)| **key != parts.me)
        .map(|(_, member)| (distance_m(client, position_of(member.location)), member))
        .filter(|(distance, _)| *distance < own)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, member)| member.gateway.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_segment_names_the_service_and_the_rest_is_its_path() {
        let split = |path: &str| split(path).map(|(service, inner)| format!("{service} {inner}"));
        assert_eq!(split("/counter/a/b?c=d").as_deref(), Some("counter /a/b?c=d"));
        assert_eq!(split("/counter").as_deref(), Some("counter /"));
        assert_eq!(split("/counter?c=d").as_deref(), Some("counter /?c=d"));
        assert_eq!(split("/").as_deref(), None);
        assert_eq!(split("/Nope/x").as_deref(), None);
    }
}
