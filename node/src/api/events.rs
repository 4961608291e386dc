//! `/v1/events`: phases of migrations, and how far each is, as server-sent events, as they happen.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use super::ApiState;

pub(super) async fn stream(
    State(state): State<ApiState>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
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
    // Else an open stream would hold up the node's stop.
    Sse::new(events.take_until(state.stopping.cancelled_owned())).keep_alive(KeepAlive::default())
}

fn comment(error: &axum::Error) -> Event {
    Event::default().comment(error.to_string())
}
