//! `/v1/events`: phases of migrations, and how far each is, as server-sent events, as they happen; and for the live page
//! (`?scene=true`) twice a second all that it draws.

use std::convert::Infallible;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::{ApiState, scene};

/// What a reader wants to hear.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Scenes as well.
    #[serde(default)]
    scene: bool,
}

type Events = BoxStream<'static, Result<Event, Infallible>>;

pub(super) async fn stream(State(state): State<ApiState>, Query(wanted): Query<Wanted>) -> impl IntoResponse {
    let stopping = state.stopping.clone();
    let events = stream::unfold(state.sessions.events(), |mut receiver| async move {
        let event = match receiver.recv().await {
            Ok(event) => Event::default()
                .json_data(&event)
                .unwrap_or_else(|error| comment(&error)),
            // A reader that is slower than the node loses events and is told how many.
            Err(RecvError::Lagged(lost)) => Event::default().event("lost").data(lost.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), receiver))
    });
    let events: Events = if wanted.scene {
        stream::select(events, scene::scenes(state)).boxed()
    } else {
        events.boxed()
    };
    // Else an open stream would hold up the node's stop.
    let events: Events = events.take_until(stopping.cancelled_owned()).boxed();
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn comment(error: &axum::Error) -> Event {
    Event::default().comment(error.to_string())
}
