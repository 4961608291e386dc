//! libp2p's metrics as a page that Prometheus reads.

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

/// The registry in Prometheus' text format, so that it can stand beside metrics of another library on one page.
///
/// What libp2p counts with writes OpenMetrics: there a counter's samples end in `_total` and its name does not, and there
/// are lines for units.
pub(crate) fn render(registry: &Registry) -> String {
    let mut open = String::new();
    // Writing to a String cannot fail.
    let _ = encode_registry(&mut open, registry);
    plain(&open)
}

fn plain(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") {
            continue;
        }
        let described = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        match described {
            Some((name, help)) => {
                let typed = lines.next_if(|next| next.starts_with("# TYPE "));
                let kind = typed
                    .and_then(|typed| typed.rsplit(' ').next())
                    .unwrap_or("untyped");
                let ending = if kind == "counter" { "_total" } else { "" };
                text.push_str(&format!(
                    "# HELP {name}{ending} {help}\n# TYPE {name}{ending} {kind}\n"
                ));
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn counters_and_gauges_read_as_prometheus_writes_them() {
        let mut registry = Registry::default();
        let (sent, peers) = (Counter::<u64>::default(), Gauge::<i64>::default());
        sent.inc_by(7);
        peers.set(3);
        registry.register_with_unit("sent", "Bytes sent", Unit::Bytes, sent);
        registry.register("peers", "Peers", peers);
        assert_eq!(
            render(&registry),
            "# HELP sent_bytes_total Bytes sent.\n# TYPE sent_bytes_total counter\nsent_bytes_total 7\n\
             # HELP peers Peers.\n# TYPE peers gauge\npeers 3\n"
        );
    }
}
