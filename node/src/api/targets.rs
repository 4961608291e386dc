//! `/v1/prometheus/targets`: the network's members as Prometheus' `http_sd_configs` takes them.

use axum::Json;
use axum::extract::State;
use blosm_ledger::{Member, PublicKey};
use serde_json::{Value, json};

use super::ApiState;

/// Where a URL says nothing else.
const PATH: &str = "/metrics";

/// Every member whose admission names a URL of its metrics.
pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    let genesis = &state.config.network.genesis;
    let view = state.chain.snapshot();
    let members = view.state.members().iter();
    Json(
        members
            .filter_map(|(key, member)| target(key, member, &genesis.name))
            .collect(),
    )
}

/// One group of one target. The labels are on every metric of that node.
fn target(key: &PublicKey, member: &Member, network: &str) -> Option<Value> {
    let (scheme, rest) = member.metrics.as_deref()?.split_once("://")?;
    let (host, path) = match rest.find('/') {
        Some(slash) if rest.len() > slash + 1 => rest.split_at(slash),
        Some(slash) => (&rest[..slash], PATH),
        None => (rest, PATH),
    };
    Some(json!({
        "targets": [host],
        "labels": {
            "__scheme__": scheme,
            "__metrics_path__": path,
            "network": network,
            "node": member.label,
            // For who wants it as a label: relabel it.
            "__meta_blosm_key": key.to_string(),
        },
    }))
}

#[cfg(test)]
mod tests {
    use blosm_ledger::{Hash, Location};

    use super::*;

    fn member(metrics: Option<&str>) -> Member {
        Member {
            admission: Hash([0; 32]),
            addresses: Vec::new(),
            gateway: "http://192.0.2.1:8080".to_owned(),
            metrics: metrics.map(str::to_owned),
            location: Location { lat_e7: 0, lon_e7: 0 },
            radius_m: 300,
            label: "host1".to_owned(),
            since_height: 1,
        }
    }

    #[test]
    fn a_url_becomes_a_target_and_its_path_a_label() {
        let of = |url| target(&PublicKey([1; 32]), &member(url), "road");
        for (url, host, path) in [
            ("http://192.0.2.1:9480/metrics", "192.0.2.1:9480", "/metrics"),
            ("http://192.0.2.1:9480", "192.0.2.1:9480", "/metrics"),
            ("http://192.0.2.1:9480/", "192.0.2.1:9480", "/metrics"),
            ("https://[2001:db8::1]:443/a/b", "[2001:db8::1]:443", "/a/b"),
        ] {
            let found = of(Some(url)).unwrap();
            assert_eq!(found["targets"], json!([host]), "{url}");
            assert_eq!(found["labels"]["__metrics_path__"], path, "{url}");
        }
        let found = of(Some("http://192.0.2.1:9480")).unwrap();
        assert_eq!(found["labels"]["node"], "host1");
        assert_eq!(found["labels"]["network"], "road");
        assert_eq!(of(None), None);
        assert_eq!(of(Some("nonsense")), None);
    }
}
