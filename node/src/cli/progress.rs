//! How far a migration is, from the node's events: one line that changes on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::Value;

use super::client::Client;
use super::table::text;

/// Without a terminal a phase that takes long is told this often.
const SELDOM: Duration = Duration::from_secs(5);
/// Longest line of an event stream; a node's are far below.
const MAX_LINE: usize = 64 * 1024;

/// Shows the events of the migration `id` until it is dropped or the node ends the stream. That there are none is no
/// failure: the outcome is asked for elsewhere.
pub(super) async fn show(client: &Client, id: &str) {
    let Ok(mut stream) = client.stream("/v1/events").await else {
        return;
    };
    let mut screen = Screen::new(stderr().is_terminal());
    let mut lines = Lines::default();
    while let Ok(Some(bytes)) = stream.chunk().await {
        for event in lines.events(&bytes) {
            if event["migration"] == id {
                screen.show(&event, Instant::now());
            }
        }
    }
}

/// Where the lines go. A line that changes is ended when the screen goes.
#[derive(Debug)]
struct Screen {
    terminal: bool,
    phase: String,
    told: Option<Instant>,
}

impl Screen {
    fn new(terminal: bool) -> Self {
        Self {
            terminal,
            phase: String::new(),
            told: None,
        }
    }

    fn show(&mut self, event: &Value, now: Instant) {
        if !self.is_due(event, now) {
            return;
        }
        let line = line(event);
        let mut out = stderr().lock();
        // A terminal that has gone away is no failure of the command.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    /// On a terminal always; elsewhere for a new phase or round, and now and then.
    fn is_due(&mut self, event: &Value, now: Instant) -> bool {
        let phase = format!("{} {}", text(event, "phase"), text(event, "round"));
        let late = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= SELDOM);
        if !self.terminal && phase == self.phase && !late {
            return false;
        }
        self.phase = phase;
        self.told = Some(now);
        true
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal && self.told.is_some() {
            let _ = writeln!(stderr());
        }
    }
}

/// One event for people: `stage  round 2  1.5 MiB of 3.0 MiB  5.0 MiB/s  2 s left`.
fn line(event: &Value) -> String {
    let mut parts = vec![text(event, "phase")];
    let number = |key: &str| event[key].as_u64();
    if let Some(round) = number("round") {
        parts.push(format!("round {round}"));
    }
    match (number("bytes"), number("total_bytes")) {
        (Some(bytes), Some(total)) => parts.push(format!("{} of {}", ByteSize::b(bytes), ByteSize::b(total))),
        (Some(bytes), None) => parts.push(ByteSize::b(bytes).to_string()),
        (None, _) => {}
    }
    if let Some(rate) = number("rate_bytes_s") {
        parts.push(format!("{}/s", ByteSize::b(rate)));
    }
    if let Some(left) = number("eta_ms") {
        parts.push(format!("{} s left", left.div_ceil(1000)));
    }
    parts.join("  ")
}

/// Puts a stream of server-sent events together again.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The events that `bytes` complete.
    fn events(&mut self, bytes: &[u8]) -> Vec<Value> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            // Comments keep the stream alive; what has another name than data is not for us.
            if let Some(data) = line.strip_prefix(b"data:")
                && let Ok(event) = serde_json::from_slice(data)
            {
                events.push(event);
            }
        }
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_what_is_known() {
        assert_eq!(line(&json!({ "phase": "drain" })), "drain");
        let event = json!({
            "phase": "precopy", "round": 2, "bytes": 1_572_864, "total_bytes": 3_145_728,
            "rate_bytes_s": 1_048_576, "eta_ms": 1500,
        });
        assert_eq!(
            line(&event),
            "precopy  round 2  1.5 MiB of 3.0 MiB  1.0 MiB/s  2 s left"
        );
    }

    #[test]
    fn events_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        assert_eq!(
            lines.events(b": keep alive\n\ndata: {\"phase\":"),
            Vec::<Value>::new()
        );
        assert_eq!(
            lines.events(b"\"stage\"}\n\ndata: {\"phase\":\"stop\"}\n\n"),
            [json!({ "phase": "stage" }), json!({ "phase": "stop" })]
        );
        assert_eq!(lines.events(b"event: lost\ndata: 3\n\n"), [json!(3)]);
        lines.events(&vec![b'x'; MAX_LINE + 1]);
        assert!(lines.rest.is_empty());
    }

    #[test]
    fn without_a_terminal_a_long_phase_is_told_now_and_then() {
        let mut screen = Screen::new(false);
        let now = Instant::now();
        let stage = |bytes: u64| json!({ "phase": "stage", "bytes": bytes });
        assert!(screen.is_due(&stage(1), now));
        assert!(!screen.is_due(&stage(2), now));
        assert!(screen.is_due(&stage(3), now + SELDOM));
        assert!(screen.is_due(&json!({ "phase": "precopy", "round": 1 }), now));
        assert!(screen.is_due(&json!({ "phase": "precopy", "round": 2 }), now));
        let mut terminal = Screen::new(true);
        assert!(terminal.is_due(&stage(1), now) && terminal.is_due(&stage(2), now));
        terminal.told = None;
    }
}
