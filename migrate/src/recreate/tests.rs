use serde_json::{Value, json};

use super::*;
use crate::image::Digest;
use crate::service::Declaration;

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn service(extra: &str) -> Service {
    let json = format!(
        r#"{{"name":"counter","image":"c:1@{}","port":80{extra}}}"#,
        digest(9)
    );
    serde_json::from_str::<Declaration>(&json)
        .unwrap()
        .validate()
        .unwrap()
}

fn base() -> Base {
    Base {
        identity: Identity {
            config_digest: digest(9),
            diff_ids: vec![digest(1)],
        },
        architecture: "amd64".into(),
        os: "linux".into(),
        config: ImageConfig {
            entrypoint: vec!["/bin/counter".into()],
            cmd: vec!["--log".into()],
            env: vec!["PATH=/bin".into(), "MODE=base".into()],
            user: "65534".into(),
            working_dir: "/data".into(),
            labels: BTreeMap::from([("maker".into(), "us".into())]),
            exposed_ports: BTreeSet::from(["80/tcp".into()]),
            ..ImageConfig::default()
        },
    }
}

fn build(service: &Service, base: &Base) -> Result<ContainerSpec, SpecError> {
    let labels = session_labels("net", &[3; 32], &service.name);
    ContainerSpec::build(
        service,
        base,
        "sha256:x",
        labels,
        container_name(&[3; 32], 4, &[5; 16]),
        short_id(&[3; 32]),
    )
}

#[test]
fn a_container_is_built_from_base_and_declaration() {
    let service = service(
        r#","env":{"MODE":"ours","EXTRA":"1"},"resources":{"memory":"32MiB","memory_limit":"64MiB"}"#,
    );
    let spec = build(&service, &base()).unwrap();
    assert_eq!(spec.env, ["PATH=/bin", "EXTRA=1", "MODE=ours"]);
    assert_eq!((epoch_of(&spec.name), epoch_of("counter")), (Some(4), None));
    assert_eq!(
        (spec.entrypoint.as_slice(), spec.cmd.as_slice()),
        (&["/bin/counter".to_owned()][..], &["--log".to_owned()][..])
    );
    assert_eq!(
        (spec.user.as_str(), spec.working_dir.as_str()),
        ("65534", "/data")
    );
    assert_eq!(spec.name, "blosm-030303030303-4-05050505");
    assert_eq!(spec.hostname, "030303030303");
    assert_eq!(spec.labels["maker"], "us");
    assert_eq!(spec.labels[LABEL_SERVICE], "counter");
    assert_eq!(spec.stop_signal, StopSignal::SigTerm);
    assert_eq!(spec.memory_limit, Some(64 << 20));
}

#[test]
fn our_labels_win_over_the_base_s() {
    let mut base = base();
    base.config
        .labels
        .insert(LABEL_SESSION.into(), "someone else's".into());
    assert_eq!(
        build(&service(""), &base).unwrap().labels[LABEL_SESSION],
        hex::encode([3; 32])
    );
}

#[test]
fn a_base_that_cannot_run_or_move_is_refused() {
    let refused = |edit: fn(&mut Base)| {
        let mut base = base();
        edit(&mut base);
        build(&service(""), &base).unwrap_err()
    };
    let nothing = refused(|b| (b.config.entrypoint, b.config.cmd) = (vec![], vec![]));
    assert!(matches!(nothing, SpecError::NothingToRun { .. }));
    assert!(matches!(
        refused(|b| {
            b.config.volumes.insert("/v".into());
        }),
        SpecError::Volume { .. }
    ));
    let mut with_volume = base();
    with_volume.config.volumes.insert("/v".into());
    for policy in ["ignore", "copy"] {
        let service = service(&format!(r#","volumes":"{policy}""#));
        assert!(build(&service, &with_volume).is_ok(), "{policy}");
    }
    assert!(matches!(
        refused(|b| b.identity.diff_ids = vec![digest(1); 121]),
        SpecError::TooDeep { .. }
    ));
    assert!(matches!(
        refused(|b| b.config.stop_signal = Some("SIGRTMIN+3".into())),
        SpecError::StopSignal { .. }
    ));
    let mut odd = base();
    odd.config.stop_signal = Some("SIGRTMIN+3".into());
    let declared = service(r#","stop":{"signal":"SIGINT"}"#);
    assert_eq!(build(&declared, &odd).unwrap().stop_signal, StopSignal::SigInt);
}

#[test]
fn volumes_are_numbered_by_their_clean_paths_if_they_move() {
    let mut base = base();
    base.config.volumes = ["/var/lib/x/", "data", "/data", "/a/./b/../c", "/var/lib/x"]
        .map(str::to_owned)
        .into();
    let copied = |policy: &str| {
        let service = service(&format!(r#","volumes":"{policy}""#));
        copied_volumes(&service, &base.config)
    };
    assert_eq!(copied("copy"), ["/a/c", "/data", "/var/lib/x"]);
    assert!(copied("ignore").is_empty() && copied("refuse").is_empty());
}

/// What an engine commits of a container that was built from `base()` and a declaration with A=b.
fn committed() -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Hostname": "030303030303",
            "User": "65534",
            "Env": ["PATH=/bin", "MODE=base", "A=b"],
            "Cmd": ["--log"],
            "Entrypoint": ["/bin/counter"],
            "Healthcheck": {"Test": ["NONE"]},
            "Image": "sha256:x",
            "Volumes": null,
            "WorkingDir": "/data",
            "OnBuild": null,
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"maker": "us", "io.blosm.session": "ab", "io.blosm.service": "counter", "io.blosm.network": "n"},
            "StopSignal": "SIGTERM",
        },
        "container_config": {"Cmd": ["/bin/evil"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(1).to_string(), digest(2).to_string()]},
    })
}

fn check(config: &Value) -> Result<(), ConfigMismatch> {
    check_committed_config(
        config.to_string().as_bytes(),
        &service(r#","env":{"A":"b"}"#),
        &base(),
    )
}

#[test]
fn an_honest_commit_passes() {
    assert_eq!(check(&committed()), Ok(()));
    let mut bare = committed();
    let config = bare["config"].as_object_mut().unwrap();
    for key in ["Healthcheck", "StopSignal", "Labels", "Volumes", "OnBuild"] {
        config.remove(key);
    }
    assert_eq!(check(&bare), Ok(()));
}

#[test]
fn whatever_a_commit_adds_or_changes_is_refused() {
    let differs = ConfigMismatch::Differs;
    let rows = [
        ("/config/Entrypoint", json!(["/bin/sh"]), differs("entrypoint")),
        ("/config/Cmd", json!(null), differs("command")),
        (
            "/config/Env",
            json!(["PATH=/bin", "MODE=base", "A=b", "LD_PRELOAD=/evil.so"]),
            differs("environment"),
        ),
        (
            "/config/Env",
            json!(["PATH=/bin", "MODE=base"]),
            differs("environment"),
        ),
        (
            "/config/Env",
            json!(["PATH=/evil", "MODE=base", "A=b"]),
            differs("environment"),
        ),
        ("/config/User", json!("0"), differs("user")),
        ("/config/WorkingDir", json!("/"), differs("working directory")),
        ("/config/Volumes", json!({"/v": {}}), differs("set of volumes")),
        (
            "/config/ExposedPorts",
            json!({"80/tcp": {}, "22/tcp": {}}),
            differs("set of exposed ports"),
        ),
        (
            "/config/OnBuild",
            json!(["RUN x"]),
            differs("set of build triggers"),
        ),
        ("/config/Shell", json!(["/bin/evil"]), differs("shell")),
        (
            "/config/Healthcheck",
            json!({"Test": ["CMD", "/bin/evil"]}),
            differs("health check"),
        ),
        (
            "/config/Healthcheck",
            json!({"Test": ["CMD-SHELL"]}),
            differs("health check"),
        ),
        ("/config/StopSignal", json!("SIGKILL"), differs("stop signal")),
        ("/config/Labels", json!({"maker": "them"}), ConfigMismatch::Label),
        (
            "/config/Labels",
            json!({"com.example.privileged": "1"}),
            ConfigMismatch::Label,
        ),
        (
            "/config/Labels",
            json!({"io.blosm.other": "1"}),
            ConfigMismatch::Label,
        ),
        ("/architecture", json!("arm64"), differs("architecture")),
        ("/os", json!("windows"), differs("operating system")),
        (
            "/rootfs/diff_ids",
            json!([digest(2).to_string(), digest(1).to_string()]),
            ConfigMismatch::NotOnBase,
        ),
        ("/rootfs/diff_ids", json!([]), ConfigMismatch::NotOnBase),
        ("/rootfs/diff_ids", json!(["x"]), ConfigMismatch::Unreadable),
        (
            "/rootfs/diff_ids",
            json!(vec![digest(1).to_string(); 121]),
            ConfigMismatch::TooDeep,
        ),
    ];
    for (pointer, value, expect) in rows {
        let mut config = committed();
        // A key that the honest commit does not have is added.
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let object = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        object.insert(key.to_owned(), value.clone());
        assert_eq!(check(&config), Err(expect), "{pointer} = {value}");
    }
    assert_eq!(
        check_committed_config(b"[", &service(""), &base()),
        Err(ConfigMismatch::Unreadable)
    );
}
