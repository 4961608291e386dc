//! What a car has seen: one record for each request, and counts over them.

use serde::Serialize;

/// One request. Times are milliseconds since the car started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Its number, from 1.
    pub number: u64,
    /// When it was to be sent.
    pub intended_ms: f64,
    /// When it was sent.
    pub sent_ms: f64,
    /// When its answer was complete, or it failed; none while it is under way.
    pub done_ms: Option<f64>,
    /// The index of the node that it went to.
    pub to: usize,
    /// The answer's status.
    pub status: Option<u16>,
    /// Who served it, in the answer's words.
    pub node: Option<String>,
    /// The body of an answer that is not a success, or why there was none.
    pub error: Option<String>,
}

impl Record {
    /// From the intended time to the end, in milliseconds.
    pub fn latency_ms(&self) -> Option<f64> {
        self.done_ms.map(|done| done - self.intended_ms)
    }

    /// Whether it was answered with a success.
    pub fn ok(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether it failed after it was sent, so that nobody can tell whether it took effect.
    pub fn interrupted(&self) -> bool {
        let error = self.error.as_deref().unwrap_or_default();
        self.failed()
            && match self.status {
                None => !error.contains("(Connect)"),
                Some(_) => error.contains("interrupted"),
            }
    }

    /// Why it failed, if it did, in words that do not name the request: the status and what was said of it, or what the
    /// network did.
    pub fn reason(&self) -> Option<String> {
        let said = self.error.as_deref().unwrap_or_default();
        self.failed().then(|| match self.status {
            Some(status) => format!("{status} {said}"),
            // The innermost cause stands last.
            None => said.rsplit(": ").next().unwrap_or_default().to_owned(),
        })
    }

    /// Whether it is over and was not answered with a success.
    pub fn failed(&self) -> bool {
        self.done_ms.is_some() && !self.ok()
    }
}

/// Counts over a car's records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Numbers given out.
    pub sent: u64,
    /// Answered with a success.
    pub ok: u64,
    /// Over, without a success.
    pub failed: u64,
    /// Under way.
    pub open: u64,
    /// The longest wait, in milliseconds.
    pub max_ms: f64,
    /// Half of the requests were answered within this, in milliseconds.
    pub median_ms: f64,
    /// Who served the latest of them.
    pub last_node: Option<String>,
}

impl Tally {
    /// The counts over these records.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Tally {
        let mut tally = Tally::default();
        let mut waits = Vec::new();
        let mut last = 0.0;
        for record in records {
            tally.sent += 1;
            tally.ok += u64::from(record.ok());
            tally.failed += u64::from(record.failed());
            tally.open += u64::from(record.done_ms.is_none());
            if let (Some(latency), Some(done)) = (record.latency_ms(), record.done_ms) {
                waits.push(latency);
                if record.ok() && done >= last {
                    last = done;
                    tally.last_node = record.node.clone();
                }
            }
        }
        waits.sort_by(f64::total_cmp);
        tally.max_ms = waits.last().copied().unwrap_or(0.0);
        tally.median_ms = waits.get(waits.len() / 2).copied().unwrap_or(0.0);
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, status: Option<u16>, done_ms: Option<f64>) -> Record {
        let intended_ms = number as f64 * 50.0;
        Record {
            number,
            intended_ms,
            sent_ms: intended_ms,
            done_ms,
            to: 0,
            status,
            node: None,
            error: None,
        }
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let mut late = record(2, Some(200), Some(180.0));
        late.sent_ms = 170.0;
        assert_eq!(late.latency_ms(), Some(80.0));
    }

    #[test]
    fn a_reason_does_not_name_the_request() {
        let mut refused = record(1, Some(503), Some(60.0));
        refused.error = Some("no room".to_owned());
        assert_eq!(refused.reason().as_deref(), Some("503 no room"));
        let mut unreachable = record(2, None, Some(60.0));
        unreachable.error =
            Some("error for url (http://10.77.0.1:8080/): tcp: Connection refused".to_owned());
        assert_eq!(unreachable.reason().as_deref(), Some("Connection refused"));
        assert_eq!(record(3, None, None).reason(), None);
        assert_eq!(record(4, Some(200), Some(60.0)).reason(), None);
    }

    #[test]
    fn tally_tells_open_from_failed() {
        let records = [
            record(1, Some(200), Some(60.0)),
            record(2, Some(503), Some(120.0)),
            record(3, None, None),
        ];
        let tally = Tally::of(records.iter());
        assert_eq!((tally.sent, tally.ok, tally.failed, tally.open), (3, 1, 1, 1));
        assert_eq!(tally.max_ms, 20.0);
    }
}
