use super::*;

const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn json(extra: &str) -> String {
    format!(r#"{{"name":"counter","image":"demo/counter:1@{DIGEST}","port":8080{extra}}}"#)
}

fn parse(extra: &str) -> Declaration {
    serde_json::from_str(&json(extra)).unwrap()
}

fn service(extra: &str) -> Service {
    parse(extra).validate().unwrap()
}

#[test]
fn a_short_declaration_has_defaults() {
    let service = service("");
    assert_eq!(service.image.reference, "demo/counter:1");
    assert_eq!(service.image.to_string(), format!("demo/counter:1@{DIGEST}"));
    assert_eq!(service.health.path, "/healthz");
    assert_eq!(service.resources.pids, DEFAULT_PIDS);
    assert_eq!(service.request.max_body, 1 << 20);
    assert_eq!(service.stop.signal, None);
    assert!(!service.stateless);
}

#[test]
fn human_units_become_base_units() {
    let service = service(
        r#","resources":{"memory":"32MiB","memory_limit":"64MiB","cpu":0.25,"cpu_limit":1.5,"gpu":1,"gpu_memory":"1GiB"},
           "stop":{"signal":"SIGINT","grace":"250ms","drain":"1s"},"idle_timeout":"10m","request":{"max_body":"2MiB"}"#,
    );
    let needs = service.resources;
    assert_eq!((needs.memory, needs.memory_limit), (32 << 20, Some(64 << 20)));
    assert_eq!((needs.cpu_milli, needs.cpu_limit_milli), (250, Some(1500)));
    assert_eq!((needs.gpu, needs.gpu_memory), (1, 1 << 30));
    assert_eq!(service.stop.signal, Some(StopSignal::SigInt));
    assert_eq!(service.stop.grace, Duration::from_millis(250));
    assert_eq!(service.idle_timeout, Some(Duration::from_secs(600)));
}

#[test]
fn unknown_keys_are_refused() {
    for extra in [
        r#","colour":"red""#,
        r#","health":{"url":"/"}"#,
        r#","stop":{"signal":"SIGFOO"}"#,
        r#","volumes":["/data"]"#,
    ] {
        assert!(
            serde_json::from_str::<Declaration>(&json(extra)).is_err(),
            "{extra}"
        );
    }
}

#[test]
fn each_wrong_key_is_named() {
    let rows = [
        (r#","sharing":"node""#, "sharing"),
        (r#","stateless":true,"volumes":"copy""#, "volumes"),
        (r#","health":{"path":"healthz"}"#, "health.path"),
        (r#","health":{"path":"/a b"}"#, "health.path"),
        (r#","health":{"interval":"0s"}"#, "health.interval"),
        (r#","env":{"A=B":"x"}"#, "env"),
        (r#","env":{"":"x"}"#, "env"),
        (r#","resources":{"cpu":0}"#, "resources.cpu"),
        (r#","resources":{"cpu":2,"cpu_limit":1}"#, "resources.cpu_limit"),
        (r#","resources":{"memory":"0B"}"#, "resources.memory"),
        (
            r#","resources":{"memory":"32MiB","memory_limit":"16MiB"}"#,
            "resources.memory_limit",
        ),
        (
            r#","resources":{"memory":"1MiB","memory_limit":"2MiB"}"#,
            "resources.memory_limit",
        ),
        (r#","resources":{"pids":0}"#, "resources.pids"),
        (r#","max_sessions":0"#, "max_sessions"),
        (r#","idle_timeout":"0s""#, "idle_timeout"),
        (r#","request":{"max_body":"1GiB"}"#, "request.max_body"),
        (r#","request":{"timeout":"0s"}"#, "request.timeout"),
        (r#","request":{"concurrency":0}"#, "request.concurrency"),
    ];
    for (extra, expect) in rows {
        match parse(extra).validate() {
            Err(DeclarationError::Key { key, .. }) => assert_eq!(key, expect, "{extra}"),
            other => panic!("{extra}: {other:?}"),
        }
    }
    let mut declaration = parse("");
    declaration.port = 0;
    assert!(matches!(
        declaration.validate(),
        Err(DeclarationError::Key { key: "port", .. })
    ));
    for name in ["", "Counter", "a_b", "../x", &"a".repeat(41)] {
        let declaration = Declaration {
            name: name.to_owned(),
            ..parse("")
        };
        assert_eq!(
            declaration.validate(),
            Err(DeclarationError::Name(name.to_owned()))
        );
    }
}

#[test]
fn only_pinned_references_are_images() {
    for image in [
        "demo/counter:1",
        "demo/counter:1@sha256:00",
        &format!("@{DIGEST}"),
        &format!("-x@{DIGEST}"),
        &format!("a b@{DIGEST}"),
        &format!("a/../b@{DIGEST}"),
        &format!("demo@{DIGEST}@{DIGEST}"),
    ] {
        assert!(
            matches!(image.parse::<Pinned>(), Err(DeclarationError::Image { .. })),
            "{image}"
        );
    }
    assert!(
        format!("r.example:5000/a/b_c:v1.2-x@{DIGEST}")
            .parse::<Pinned>()
            .is_ok()
    );
}

#[test]
fn the_declaration_hash_covers_what_runs_and_nothing_else() {
    let base = service("").declaration_hash();
    for same in [
        r#","stop":{"grace":"9s","drain":"9s"}"#,
        r#","request":{"timeout":"9s"}"#,
        r#","health":{"interval":"9s"}"#,
        r#","max_sessions":3,"idle_timeout":"9s""#,
    ] {
        assert_eq!(service(same).declaration_hash(), base, "{same}");
    }
    let renamed = Declaration {
        image: format!("other/name@{DIGEST}"),
        ..parse("")
    };
    assert_eq!(renamed.validate().unwrap().declaration_hash(), base);
    for other in [
        r#","env":{"A":"b"}"#,
        r#","resources":{"memory":"65MiB"}"#,
        r#","resources":{"pids":7}"#,
        r#","stateless":true"#,
        r#","volumes":"ignore""#,
        r#","volumes":"copy""#,
        r#","stop":{"signal":"SIGTERM"}"#,
        r#","health":{"path":"/other"}"#,
    ] {
        assert_ne!(service(other).declaration_hash(), base, "{other}");
    }
    let volumes = |policy: &str| service(&format!(r#","volumes":"{policy}""#)).declaration_hash();
    assert_eq!(volumes("refuse"), base);
    assert_ne!(volumes("ignore"), volumes("copy"));
}

#[test]
fn stop_signals_are_read_as_images_write_them() {
    for (text, signal) in [
        ("SIGTERM", StopSignal::SigTerm),
        ("TERM", StopSignal::SigTerm),
        ("2", StopSignal::SigInt),
    ] {
        assert_eq!(StopSignal::parse(text), Some(signal));
    }
    assert_eq!(StopSignal::parse("SIGRTMIN+3"), None);
    assert_eq!(
        StopSignal::parse(StopSignal::SigUsr2.name()),
        Some(StopSignal::SigUsr2)
    );
}
