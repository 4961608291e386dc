//! A container is the same at both ends but for what names it and where it is.

use std::collections::BTreeMap;

use blosm_testnet::Spec;
use serde_json::Value;

use crate::moves::{all_answered, counter};
use crate::scenario::{Scenario, still, up};
use crate::tools;

/// The program that a container may wait in before it becomes what was declared.
const GATE: &str = "/.blosm";
/// Everything that a declaration can say of a container.
const KEYS: &str = r#"
    env = { COLOUR = "red", ROAD = "a b=c" }
    resources = { memory = "24MiB", memory_limit = "96MiB", cpu = 0.2, cpu_limit = 0.8, pids = 77 }
    stop = { signal = "SIGINT" }
"#;
/// What may differ: ids, names, times, addresses, paths on the engine's disk, the process itself.
const MAY_DIFFER: [&str; 14] = [
    "/Id",
    "/Name",
    "/Created",
    "/State",
    "/Image",
    "/Config/Image",
    "/GraphDriver/Data",
    "/NetworkSettings",
    "/ResolvConfPath",
    "/HostnamePath",
    "/HostsPath",
    "/LogPath",
    "/HostConfig/RestartPolicy",
    "/SizeRw",
];

/// All leaves by their path, without what may differ and without the gate.
fn fields(inspect: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    flatten("", &without_gate(inspect), &mut found);
    found.retain(|path, value| {
        !value.is_null()
            && !MAY_DIFFER.iter().any(|known| {
                path.strip_prefix(known)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    });
    found
}

fn flatten(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .for_each(|(key, value)| flatten(&format!("{path}/{key}"), value, found)),
        value => {
            found.insert(path.to_owned(), value.clone());
        }
    }
}

/// As it would be without a gate: the command line is one list, and the gate neither in it nor mounted.
fn without_gate(inspect: &Value) -> Value {
    let mut inspect = inspect.clone();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_gate = |word: &Value| word.to_string().contains(GATE);
    let config = inspect["Config"].take();
    let line = [list(&config["Entrypoint"]), list(&config["Cmd"])].concat();
    let line: Vec<Value> = line.into_iter().filter(|word| !is_gate(word)).collect();
    inspect["Config"] = config;
    for key in ["Entrypoint", "Cmd"] {
        inspect["Config"][key] = line.clone().into();
    }
    let path = std::mem::take(&mut inspect["Path"]);
    let line = [vec![path], list(&inspect["Args"])].concat();
    inspect["Args"] = line.into_iter().filter(|word| !is_gate(word)).collect();
    for pointer in ["/Mounts", "/HostConfig/Binds", "/HostConfig/Mounts"] {
        if let Some(mounts) = inspect.pointer_mut(pointer) {
            let others: Vec<Value> = list(mounts).into_iter().filter(|mount| !is_gate(mount)).collect();
            // No mount at all may be written as nothing, as null or as an empty list.
            *mounts = if others.is_empty() {
                Value::Null
            } else {
                others.into()
            };
        }
    }
    inspect
}

#[tokio::test]
async fn a_container_is_recreated_field_by_field() {
    let spec = Spec {
        nodes: false,
        ..still(2)
    };
    let mut testnet = up(spec.clone()).await;
    let image = tools::place(&testnet).await;
    testnet
        .add_nodes(&spec, &[counter(&image, KEYS)], &|line| eprintln!("{line}"))
        .await
        .unwrap();
    let scenario = Scenario::drive(testnet, 1).await;
    let inspect = async |host: usize| {
        let running = scenario.containers(host).await;
        let running = running.iter().find(|container| container.running).unwrap();
        let client = scenario.testnet.engine(host).client().unwrap();
        serde_json::to_value(client.inspect_container(&running.id, None).await.unwrap()).unwrap()
    };
    let first = inspect(1).await;
    let declared = [
        ("/Config/User", "1000:1000".into()),
        ("/Config/WorkingDir", "/data".into()),
        ("/Config/StopSignal", "SIGINT".into()),
        ("/HostConfig/Memory", (96 << 20).into()),
        ("/HostConfig/MemoryReservation", (24 << 20).into()),
        ("/HostConfig/NanoCpus", 800_000_000.into()),
        ("/HostConfig/PidsLimit", 77.into()),
    ];
    for (pointer, value) in declared {
        assert_eq!(first.pointer(pointer), Some::<&Value>(&value), "{pointer}");
    }
    let env = first["Config"]["Env"].as_array().unwrap();
    assert!(
        env.contains(&"COLOUR=red".into()) && env.contains(&"ROAD=a b=c".into()),
        "{env:?}"
    );
    let mut before = fields(&first);
    // There, and back: one of a move, the other of a move of what has moved.
    for (from, to) in [(1, 2), (2, 1)] {
        scenario.moved(from, to).await;
        let after = fields(&inspect(to).await);
        let paths = before
            .keys()
            .chain(after.keys())
            .filter(|path| before.get(*path) != after.get(*path));
        let different: BTreeMap<_, _> = paths
            .map(|path| (path, (before.get(path), after.get(path))))
            .collect();
        assert!(different.is_empty(), "host{from} to host{to}: {different:#?}");
        before = after;
    }
    all_answered(&scenario.end(1).await);
}
