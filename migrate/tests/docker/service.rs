//! The service that the tests run: a shell that counts into a file of its own container.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use blosm_migrate::docker::Image;
use blosm_migrate::image::{LayerFile, SparseImage, load};
use blosm_migrate::recreate::{container_name, session_labels, short_id};
use blosm_migrate::{ContainerSpec, Declaration, Digest, Docker, Service};

use crate::engine::Engine;

pub(crate) const NAME: &str = "blosm-test/counter:1";
pub(crate) const SESSION: [u8; 32] = [0xab; 32];

/// Counts on from the last number in the log; ends at once on SIGTERM unless STUBBORN is set.
pub(crate) const SCRIPT: &str = "[ -n \"$STUBBORN\" ] && trap '' TERM || trap 'exit 0' TERM; \
    n=$(wc -l < /log 2>/dev/null || echo 0); \
    while :; do n=$((n+1)); echo $n >> /log; sleep 0.02; done";

/// The base's one layer, the same bytes each time.
pub(crate) fn layer() -> Vec<u8> {
    layer_with(&[])
}

/// The same, with small files in it.
pub(crate) fn layer_with(files: &[(&str, &str)]) -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is needed");
    let mut tar = tar::Builder::new(Vec::new());
    let header = |size: usize, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        header
    };
    tar.append_data(
        &mut header(busybox.len(), 0o755),
        "bin/busybox",
        busybox.as_slice(),
    )
    .unwrap();
    for applet in ["sh", "wc", "sleep", "echo"] {
        let mut link = header(0, 0o777);
        link.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    for (path, text) in files {
        tar.append_data(&mut header(text.len(), 0o644), path, text.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// Puts the base on an engine. The same bytes give the same identity on each.
pub(crate) async fn load_base(engine: &Engine) -> Image {
    let config = serde_json::json!({
        "Env": ["PATH=/bin", "MODE=base"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": [SCRIPT],
        "WorkingDir": "/",
        "Labels": {"maker": "tests"},
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "/bin/false"]},
    });
    load_image(engine, &layer(), config).await
}

/// Puts an image of one layer on an engine, under the service's name.
pub(crate) async fn load_image(engine: &Engine, layer: &[u8], config: serde_json::Value) -> Image {
    let diff_id = Digest::of(layer);
    let path = engine.spool("base").join("layer.tar");
    std::fs::write(&path, layer).unwrap();
    let config = serde_json::json!({
        "architecture": engine.docker.info().architecture,
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": "2024-01-01T00:00:00Z"}],
    });
    let files = BTreeMap::from([(
        diff_id,
        LayerFile {
            path,
            size: layer.len() as u64,
        },
    )]);
    let image = SparseImage::new(NAME, config.to_string().into_bytes(), &[diff_id], &files);
    load(&engine.docker, image).await.unwrap()
}

pub(crate) fn service(base: Digest, extra: &str) -> Service {
    let json = format!(
        r#"{{"name":"counter","image":"{NAME}@{base}","port":80,
            "resources":{{"memory":"8MiB","memory_limit":"64MiB","pids":32}}{extra}}}"#
    );
    serde_json::from_str::<Declaration>(&json)
        .unwrap()
        .validate()
        .unwrap()
}

/// The container of the session on this engine, from that image.
pub(crate) fn spec(service: &Service, base: &Image, image: &str, epoch: u64) -> ContainerSpec {
    let labels = session_labels("test", &SESSION, &service.name);
    let name = container_name(&SESSION, epoch, &[7; 16]);
    ContainerSpec::build(service, &base.base(), image, labels, name, short_id(&SESSION)).unwrap()
}

/// The numbers in the container's log, read through its first process.
pub(crate) async fn wait_for_numbers(pid: u32, least: usize) -> Vec<u64> {
    let path = format!("/proc/{pid}/root/log");
    wait_for("numbers in the log", || {
        let numbers = numbers(Path::new(&path));
        (numbers.len() >= least).then_some(numbers)
    })
    .await
}

fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Each number once, in order, none missing.
pub(crate) fn contiguous(numbers: &[u64]) -> bool {
    numbers.iter().zip(1..).all(|(number, expect)| *number == expect)
}

pub(crate) async fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Creates and starts it.
pub(crate) async fn launch(docker: &Docker, spec: &ContainerSpec) -> (String, u32) {
    let id = docker.create(spec).await.unwrap();
    let started = docker.start(&id).await.unwrap();
    (id, started.pid)
}
