//! Anonymous volumes beside a real engine: they are read and written as what the container sees of them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use blosm_migrate::docker::Image;
use blosm_migrate::helper::{HelperError, Refusal, SourceLayer};
use blosm_migrate::recreate::copied_volumes;
use blosm_migrate::service::StopSignal;
use blosm_migrate::{ContainerSpec, Service};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptions;

use crate::engine::Engine;
use crate::helper::{gated, helper, inside, refusal, wait_readable};
use crate::service::{SCRIPT, contiguous, launch, layer_with, load_image, service, spec, wait_for};

/// What the image has where its volumes will be.
const FILES: [(&str, &str); 4] = [
    ("data/seed", "of the image"),
    ("data/kept", "of the image"),
    ("data/folder/seed", "of the image"),
    ("srv/x/seed", "of the image"),
];

struct Setting {
    engine: Engine,
    base: Image,
    service: Service,
}

async fn setting() -> Setting {
    let engine = Engine::start().await;
    let config = serde_json::json!({
        "Env": ["PATH=/bin"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": [SCRIPT.replace("/log", "/data/log")],
        "Volumes": {"/srv/x/": {}, "/data": {}},
    });
    let base = load_image(&engine, &layer_with(&FILES), config).await;
    let service = service(base.identity.config_digest, r#","volumes":"copy""#);
    Setting {
        engine,
        base,
        service,
    }
}

impl Setting {
    fn spec(&self, epoch: u64) -> ContainerSpec {
        spec(&self.service, &self.base, &self.base.id, epoch)
    }

    fn paths(&self) -> Vec<String> {
        copied_volumes(&self.service, &self.base.base().config)
    }

    /// Where the engine keeps the container's volumes, by path.
    async fn folders(&self, id: &str) -> BTreeMap<String, PathBuf> {
        let container = self.engine.docker.inspect(id).await.unwrap().unwrap();
        let volumes = container.volumes.into_iter();
        volumes
            .map(|volume| (volume.destination, volume.source))
            .collect()
    }
}

/// Files and links by their path, with what is in them.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap();
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_owned();
            let content = if kind.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(name, content);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_move_with_the_layer_while_the_container_runs() {
    let at = setting().await;
    let (docker, helper) = (&at.engine.docker, helper(&at.engine, Some("test")));
    assert_eq!(at.paths(), ["/data", "/srv/x"]);
    let (source_id, pid) = launch(docker, &at.spec(0)).await;
    let log = inside(pid, "data/log");
    wait_for("a log in the volume", || log.exists().then_some(())).await;
    let outside = at.folders(&source_id).await;
    assert!(outside["/data"].join("seed").exists(), "the engine put it there");

    let source = helper.source(&source_id).await.unwrap();
    let (spec, gate) = gated(&at.engine, at.spec(1));
    let (id, gate_pid) = launch(docker, &spec).await;
    let root = helper.gated(&id).await.unwrap();
    source.take_volumes(&at.paths()).await.unwrap();
    root.take_volumes(&at.paths()).await.unwrap();
    assert!(inside(gate_pid, "data/seed").exists() && inside(gate_pid, "srv/x/seed").exists());

    std::fs::remove_file(inside(pid, "data/seed")).unwrap();
    std::fs::remove_dir_all(inside(pid, "data/folder")).unwrap();
    std::fs::write(inside(pid, "srv/x/large"), vec![7; 300_000]).unwrap();
    std::fs::write(inside(pid, "own"), "of the layer").unwrap();
    root.apply(source.round().await.unwrap().stream.into())
        .await
        .unwrap();
    root.sync().await.unwrap();
    std::fs::remove_file(inside(pid, "data/kept")).unwrap();
    std::fs::remove_file(inside(pid, "srv/x/seed")).unwrap();
    std::os::unix::fs::symlink("/etc", inside(pid, "data/link")).unwrap();
    root.apply(source.round().await.unwrap().stream.into())
        .await
        .unwrap();

    let exit = source.exit().await.unwrap();
    source.signal(StopSignal::SigTerm).await.unwrap();
    wait_readable(&exit);
    root.apply(source.last().await.unwrap().stream.into())
        .await
        .unwrap();
    root.sync().await.unwrap();
    drop(root);

    let now = at.folders(&id).await;
    assert_ne!(outside["/data"], now["/data"]);
    for path in ["/data", "/srv/x"] {
        assert_eq!(files(&outside[path]), files(&now[path]), "{path}");
    }
    for gone in ["data/seed", "data/folder", "data/kept", "srv/x/seed"] {
        assert!(!inside(gate_pid, gone).exists(), "{gone}");
    }
    assert_eq!(std::fs::read(inside(gate_pid, "own")).unwrap(), b"of the layer");
    // It goes on from there.
    let before = std::fs::read_to_string(inside(gate_pid, "data/log")).unwrap();
    gate.open().unwrap();
    let log = inside(gate_pid, "data/log");
    let after = wait_for("further numbers", || {
        let text = std::fs::read_to_string(&log).unwrap();
        (text.lines().count() > before.lines().count() + 2).then_some(text)
    })
    .await;
    let numbers: Vec<u64> = after.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(contiguous(&numbers) && after.starts_with(&before), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_container_s_own_declared_volumes_are_taken_up() {
    let at = setting().await;
    let (docker, helper) = (&at.engine.docker, helper(&at.engine, None));
    let (source_id, pid) = launch(docker, &at.spec(0)).await;
    let log = inside(pid, "data/log");
    wait_for("a log in the volume", || log.exists().then_some(())).await;
    let source = helper.source(&source_id).await.unwrap();
    let empty = source.weigh_volumes().await.unwrap();
    std::fs::write(inside(pid, "srv/x/large"), vec![7; 1 << 20]).unwrap();
    assert!(source.weigh_volumes().await.unwrap() >= empty + (1 << 20));

    // Other ones than those that are there.
    let others = vec!["/data".to_owned()];
    match source.take_volumes(&others).await {
        Err(HelperError::OtherVolumes { theirs, ours }) => assert_eq!((theirs, ours), (at.paths(), others)),
        other => panic!("{other:?}"),
    }
    // Twice, and when something was read already.
    assert_eq!(
        refusal(source.take_volumes(&at.paths()).await),
        Refusal::OutOfPlace
    );
    let late = helper.source(&source_id).await.unwrap();
    late.round().await.unwrap();
    assert_eq!(refusal(late.take_volumes(&at.paths()).await), Refusal::OutOfPlace);

    // Without being asked for them a stream does not reach the volumes.
    let (spec, _gate) = gated(&at.engine, at.spec(1));
    let (id, gate_pid) = launch(docker, &spec).await;
    let root = helper.gated(&id).await.unwrap();
    let stream = source.round().await.unwrap().stream;
    let refused = refusal(root.apply(stream.into()).await);
    assert!(matches!(refused, Refusal::Stream(_)), "{refused}");
    assert!(inside(gate_pid, "data/seed").exists());

    // A volume that others may use, too, and a folder of this machine in a volume's place.
    let folder = at.engine.spool("elsewhere");
    for (bind, part) in [
        ("shared:/data".to_owned(), "a name of its own"),
        (format!("{}:/data", folder.display()), "no volume is mounted"),
    ] {
        let source = started_with(&at, &helper, &bind).await;
        let refused = refusal(source.take_volumes(&at.paths()).await).to_string();
        assert!(refused.contains("/data") && refused.contains(part), "{refused}");
    }
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        1,
        "the service's own log"
    );
}

/// A container that carries a session's labels and has something of its maker's at a declared path.
async fn started_with(at: &Setting, helper: &blosm_migrate::helper::Helper, bind: &str) -> SourceLayer {
    let raw =
        bollard::Docker::connect_with_unix(&at.engine.socket(), 60, bollard::API_DEFAULT_VERSION).unwrap();
    let body = ContainerCreateBody {
        image: Some(at.base.id.clone()),
        labels: Some(at.spec(9).labels.into_iter().collect::<HashMap<_, _>>()),
        host_config: Some(HostConfig {
            binds: Some(vec![bind.to_owned()]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let created = raw.create_container(None::<CreateContainerOptions>, body).await;
    let id = created.unwrap().id;
    let pid = at.engine.docker.start(&id).await.unwrap().pid;
    let log = inside(pid, "data/log");
    wait_for("a log", || log.exists().then_some(())).await;
    helper.source(&id).await.unwrap()
}
