//! One scene out of what several nodes see. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Migrations that have ended and are listed.
const ENDED: usize = 6;

/// What the commands over the testnet know of the cars that they drive.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) cars: Vec<Value>,
    pub(super) latency: Vec<Value>,
}

/// One scene of what several nodes see: the road as the node with the highest block has it, at best an authority, each
/// session where the newest of them knows it, each migration as its destination tells it. Without cars of our own, those
/// that the nodes see.
pub(super) fn merge(scenes: &[Option<Value>], own: Option<Own>, now_ms: f64) -> Value {
    let seen: Vec<&Value> = scenes.iter().flatten().collect();
    let Own { cars, latency } = own.unwrap_or_else(|| theirs(&seen));
    let Some(best) = seen
        .iter()
        .max_by_key(|scene| (scene["height"].as_u64(), is_authority(scene)))
    else {
        return json!({"network": "nothing answers", "unix_ms": now_ms, "height": 0, "confirmed_height": 0, "nodes": [],
            "sessions": [], "migrations": [], "ended": [], "cars": cars, "latency": latency, "blocks": []});
    };
    let mut scene = (*best).clone();
    let up: Vec<&Value> = seen.iter().map(|scene| &scene["node"]).collect();
    for node in scene["nodes"].as_array_mut().into_iter().flatten() {
        node["up"] = up.contains(&&node["node"]).into();
        node["mine"] = false.into();
    }
    // Whoever has a container knows best: its own word, before what the chain says elsewhere.
    let mut sessions: BTreeMap<String, Value> = BTreeMap::new();
    for (at, session) in seen
        .iter()
        .flat_map(|scene| each(scene, "sessions").map(move |s| (&scene["node"], s)))
    {
        let own = session["owner"] == *at;
        let id = session["session"].as_str().unwrap_or_default().to_owned();
        if own || !sessions.contains_key(&id) {
            sessions.insert(id, session.clone());
        }
    }
    let collect = |field: &str| {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        for (at, migration) in seen
            .iter()
            .flat_map(|scene| each(scene, field).map(move |m| (&scene["node"], m)))
        {
            let id = migration["id"].as_str().unwrap_or_default().to_owned();
            if migration["destination"] == *at || !all.contains_key(&id) {
                all.insert(id, migration.clone());
            }
        }
        all
    };
    let ended = collect("ended");
    let mut running = collect("migrations");
    running.retain(|id, _| !ended.contains_key(id));
    let mut ended: Vec<Value> = ended.into_values().collect();
    let when = |ended: &Value| ended["unix_ms"].as_f64().unwrap_or_default();
    ended.sort_by(|a, b| when(b).total_cmp(&when(a)));
    ended.truncate(ENDED);
    scene["sessions"] = sessions.into_values().collect();
    scene["migrations"] = running.into_values().collect();
    scene["ended"] = ended.into();
    scene["cars"] = cars.into();
    scene["latency"] = latency.into();
    scene["unix_ms"] = now_ms.into();
    scene
}

/// Whether it is the view of an authority, which knows first who holds a block.
fn is_authority(scene: &Value) -> bool {
    each(scene, "nodes").any(|node| node["node"] == scene["node"] && node["authority"] == true)
}

/// The cars and their requests as the nodes see them. A car stands where it was seen last.
fn theirs(seen: &[&Value]) -> Own {
    let mut cars: BTreeMap<&str, &Value> = BTreeMap::new();
    for car in seen.iter().flat_map(|scene| each(scene, "cars")) {
        let id = car["id"].as_str().unwrap_or_default();
        let newest = cars.entry(id).or_insert(car);
        if car["age_ms"].as_u64() < newest["age_ms"].as_u64() {
            *newest = car;
        }
    }
    Own {
        cars: cars.into_values().cloned().collect(),
        latency: seen
            .iter()
            .flat_map(|scene| each(scene, "latency"))
            .cloned()
            .collect(),
    }
}

fn each<'a>(scene: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    scene[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, height: u64, sessions: Value, migrations: Value, ended: Value) -> Option<Value> {
        Some(
            json!({"network": "road", "node": key, "height": height, "confirmed_height": 1,
            "nodes": [{"node": "a", "up": true}, {"node": "b", "up": true}, {"node": "c", "up": true}],
            "sessions": sessions, "migrations": migrations, "ended": ended, "blocks": []}),
        )
    }

    #[test]
    fn who_has_a_container_and_who_takes_one_is_believed_first() {
        let session = |owner: &str| json!([{"session": "s", "owner": owner}]);
        let running = |bytes: u64| json!([{"id": "m", "destination": "b", "bytes": bytes}]);
        let scenes = [
            node("a", 5, session("a"), running(1), json!([])),
            node("b", 7, session("b"), running(9), json!([])),
            None,
        ];
        let scene = merge(&scenes, None, 1.0);
        assert_eq!(scene["height"], 7);
        assert_eq!(scene["sessions"], json!([{"session": "s", "owner": "b"}]));
        assert_eq!(scene["migrations"][0]["bytes"], 9);
        let up: Vec<&Value> = scene["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| &n["up"])
            .collect();
        assert_eq!(up, [&json!(true), &json!(true), &json!(false)], "c says nothing");
        // The source still calls it running when the destination has ended it.
        let done = json!([{"id": "m", "destination": "b", "unix_ms": 3.0}]);
        let scenes = [
            node("a", 5, json!([]), running(1), json!([])),
            node("b", 7, json!([]), json!([]), done),
        ];
        let scene = merge(&scenes, None, 1.0);
        assert_eq!(
            (
                scene["migrations"].as_array().unwrap().len(),
                &scene["ended"][0]["id"]
            ),
            (0, &json!("m"))
        );
    }

    #[test]
    fn without_any_node_the_page_says_so() {
        assert_eq!(merge(&[None], None, 1.0)["network"], "nothing answers");
    }

    #[test]
    fn cars_stand_where_they_were_seen_last_unless_they_are_our_own() {
        let with = |key: &str, cars: Value, latency: Value| {
            let mut scene = node(key, 1, json!([]), json!([]), json!([])).unwrap();
            scene["cars"] = cars;
            scene["latency"] = latency;
            Some(scene)
        };
        let car = |lat: f64, age_ms: u64| json!({"id": "x", "lat": lat, "age_ms": age_ms});
        let scenes = [
            with("a", json!([car(1.0, 900)]), json!([[1, 2.0, true]])),
            with("b", json!([car(2.0, 100)]), json!([[3, 4.0, true]])),
            with("c", json!([car(3.0, 4000)]), json!([])),
        ];
        let scene = merge(&scenes, None, 1.0);
        assert_eq!(scene["cars"], json!([car(2.0, 100)]));
        assert_eq!(scene["latency"], json!([[1, 2.0, true], [3, 4.0, true]]));
        let own = Own {
            cars: vec![json!({"id": "car 1"})],
            latency: vec![],
        };
        let scene = merge(&scenes, Some(own), 1.0);
        assert_eq!(
            (&scene["cars"], &scene["latency"]),
            (&json!([{"id": "car 1"}]), &json!([]))
        );
    }
}
