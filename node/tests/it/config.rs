//! What a configuration file may say, and how an error names what to change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use blosm_migrate::engine::Runtime;
use blosm_node::config::{Config, Overrides, default_toml};

use crate::scratch::Scratch;

const LOCATION: &str = "[node]\nlocation = \"37.45,126.65\"\n";

/// Loads a data directory whose `blosm.toml` is `toml`.
fn load(toml: &str) -> Result<Config, String> {
    load_with(toml, &Overrides::default())
}

fn load_with(toml: &str, overrides: &Overrides) -> Result<Config, String> {
    let scratch = Scratch::new();
    scratch.network();
    scratch.init("d", &["--location", "1,2"]).done();
    let path = scratch.path("d").join("blosm.toml");
    fs::write(&path, toml).unwrap();
    let loaded = Config::load_with(&path, overrides);
    loaded.map_err(|error| error.to_string().replace(path.to_str().unwrap(), "blosm.toml"))
}

#[test]
fn defaults_stand_for_what_is_not_said() {
    let config = load(LOCATION).unwrap();
    assert_eq!(config.node.label, config.public_key().to_string()[..8]);
    assert_eq!(config.node.radius_m, 300);
    assert_eq!(config.net.listen, ["/ip4/0.0.0.0/tcp/4401".parse().unwrap()]);
    assert_eq!(config.gateway.url, "http://127.0.0.1:8080");
    assert_eq!(config.api.listen, "127.0.0.1:4480".parse().unwrap());
    assert_eq!(config.migration.keep_source, Duration::from_secs(60));
    assert_eq!(config.migration.tolerance, 1);
    assert_eq!(config.resources.memory, None);
    assert!(config.services.is_empty());
}

#[test]
fn the_template_without_its_comment_marks_is_the_defaults() {
    let template = default_toml(&Overrides::default());
    // Prose is `# text`; a default is `#key = value`, `#[[service]]` included.
    let uncommented: String = template
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (all, defaults) = (load(&uncommented).unwrap(), load(LOCATION).unwrap());
    assert_eq!(all.node.radius_m, defaults.node.radius_m);
    assert_eq!(format!("{:?}", all.net), format!("{:?}", defaults.net));
    assert_eq!(format!("{:?}", all.gateway), format!("{:?}", defaults.gateway));
    assert_eq!(all.api.listen, defaults.api.listen);
    assert_eq!(format!("{:?}", all.engine), format!("{:?}", defaults.engine));
    assert_eq!(all.helper.socket.file_name(), defaults.helper.socket.file_name());
    assert!(defaults.helper.socket.is_absolute());
    assert_eq!(
        format!("{:?}", all.migration),
        format!("{:?}", defaults.migration)
    );
    assert!(all.services.contains_key("counter"));
    assert_eq!(all.resources.cpu_milli, Some(2000));
}

#[test]
fn an_error_names_file_line_and_key() {
    let cases: &[(&str, &[&str])] = &[
        (
            "[node]\nlabl = \"x\"\n",
            &["blosm.toml:2: ", "unknown field `labl`", "`label`"],
        ),
        ("wrong = 1\n", &["blosm.toml:1: ", "unknown field `wrong`"]),
        (
            "[node]\nlocation = \"91,0\"\n",
            &["blosm.toml:2: ", "location", "-90 to 90"],
        ),
        (
            "[node]\nlocation = \"here\"\n",
            &["blosm.toml:2: ", "location", "LAT,LON"],
        ),
        (
            "[node]\nlabel = \"x\"\n",
            &["blosm.toml: node.location: ", "LAT,LON"],
        ),
        (
            "[node]\nlocation = \"1,2\"\nlabel = \"a b\"\n",
            &["blosm.toml:3: node.label: "],
        ),
        (
            "[node]\nlocation = \"1,2\"\nradius = 0.0\n",
            &["blosm.toml:3: node.radius: ", "metres"],
        ),
        ("[gateway]\nlisten = \"nowhere\"\n", &["blosm.toml:2: ", "listen"]),
        (
            "[gateway]\nhold_time = \"soon\"\n",
            &["blosm.toml:2: ", "hold_time"],
        ),
        (
            "[migration]\nmethod = \"teleport\"\n",
            &["blosm.toml:2: ", "teleport", "image"],
        ),
        ("[resources]\nmemory = \"much\"\n", &["blosm.toml:2: ", "memory"]),
        ("[node]\nlabel = \n", &["blosm.toml:2: "]),
    ];
    for (toml, parts) in cases {
        let error = load(toml).unwrap_err();
        for part in *parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}, for {toml:?}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_value_that_cannot_be_used_is_refused_with_its_key() {
    let cases: &[(&str, &str)] = &[
        ("[net]\nlisten = []\n", "blosm.toml:4: net.listen: "),
        (
            "[net]\nlisten = [\"/ip4/0.0.0.0/udp/1\"]\n",
            "blosm.toml:4: net.listen: ",
        ),
        (
            "[net]\nadvertise = [\"/ip4/0.0.0.0/tcp/4401\"]\n",
            "blosm.toml:4: net.advertise: ",
        ),
        (
            "[net]\nstrangers = 1000\n",
            "blosm.toml:4: net.strangers: must be 0 to 256",
        ),
        (
            "[net]\nper_address = 0\n",
            "blosm.toml:4: net.per_address: must be 1 to 256",
        ),
        ("[gateway]\nurl = \"ftp://x\"\n", "blosm.toml:4: gateway.url: "),
        ("[gateway]\nhold_max = 0\n", "blosm.toml:4: gateway.hold_max: "),
        (
            "[gateway]\nhold_time = \"1h\"\n",
            "blosm.toml:4: gateway.hold_time: ",
        ),
        (
            "[engine]\nsocket = \"tcp://x:1\"\n",
            "blosm.toml:4: engine.socket: ",
        ),
        ("[resources]\ncpu = 0.0\n", "blosm.toml:4: resources.cpu: "),
        ("[migration]\nmargin = -1.0\n", "blosm.toml:4: migration.margin: "),
        (
            "[migration]\ntolerance = 4\n",
            "blosm.toml:4: migration.tolerance: ",
        ),
        (
            "[migration]\nmax_out = 0\n",
            "blosm.toml:4: migration.max_out: must be 1 to 64",
        ),
        (
            "[migration]\nmax_in = 65\n",
            "blosm.toml:4: migration.max_in: must be 1 to 64",
        ),
        (
            "[migration]\nstage_free = 10.0\n",
            "blosm.toml:4: migration.stage_free: must be 0.0 to 1.0, a share",
        ),
        (
            "[migration]\nstage_free = 0.02\n",
            "blosm.toml: migration.claim_free: must be 0.0 to migration.stage_free, which is 0.02",
        ),
    ];
    for (toml, start) in cases {
        let error = load(&format!("{LOCATION}{toml}")).unwrap_err();
        assert!(
            error.starts_with(start),
            "{error:?} does not start with {start:?}"
        );
    }
}

#[test]
fn containers_are_simulated_only_where_that_is_asked_for() {
    assert_eq!(load(LOCATION).unwrap().engine.runtime, Runtime::Docker);
    let sim = format!("{LOCATION}[engine]\nruntime = \"sim\"\n");
    assert_eq!(load(&sim).unwrap().engine.runtime, Runtime::Sim);
    let set = Overrides {
        runtime: "sim".parse().ok(),
        ..Overrides::default()
    };
    assert_eq!(load_with(LOCATION, &set).unwrap().engine.runtime, Runtime::Sim);
    assert!(default_toml(&set).contains("\nruntime = \"sim\"\n"));
    assert!(default_toml(&Overrides::default()).contains("\n#runtime = \"docker\"\n"));

    let error = load(&sim.replace("sim", "podman")).unwrap_err();
    assert!(error.contains("`docker` or `sim`"), "{error}");
    // What has no image cannot move as one.
    let error = load(&format!("{sim}[migration]\nmethod = \"image\"\n")).unwrap_err();
    assert!(
        error.starts_with("blosm.toml:6: migration.method: must be live with engine.runtime = \"sim\""),
        "{error}"
    );
}

const SERVICE: &str =
    "[[service]]\nname = \"counter\"\nport = 8080\nresources = { memory = \"32MiB\", cpu = 0.1 }\n";

fn image(digits: &str) -> String {
    format!("image = \"demo:1@sha256:{}\"\n", digits.repeat(32))
}

#[test]
fn services_are_checked_and_named_by_line() {
    let good = format!("{LOCATION}{SERVICE}{}", image("ab"));
    assert_eq!(
        load(&good).unwrap().services.keys().collect::<Vec<_>>(),
        ["counter"]
    );

    let unpinned = format!("{LOCATION}{SERVICE}image = \"demo:1\"\n");
    let error = load(&unpinned).unwrap_err();
    assert!(
        error.starts_with("blosm.toml:3: service \"counter\": "),
        "{error}"
    );

    let twice = format!("{good}{SERVICE}{}", image("ab"));
    let error = load(&twice).unwrap_err();
    assert!(
        error.starts_with("blosm.toml:9: service.1.name: ") && error.contains("declared twice"),
        "{error}"
    );
}

#[test]
fn flags_win_over_the_file() {
    let set = Overrides {
        label: Some("other".into()),
        location: "3,4".parse().ok(),
        advertise: vec!["/ip4/10.0.0.7/tcp/4401".parse().unwrap()],
        api_listen: "127.0.0.1:9".parse().ok(),
        ..Overrides::default()
    };
    let config = load_with("[node]\nlabel = \"file\"\nlocation = \"1,2\"\n", &set).unwrap();
    assert_eq!(config.node.label, "other");
    assert_eq!(config.node.location.to_string(), "3,4");
    assert_eq!(config.api.listen, "127.0.0.1:9".parse().unwrap());
    assert_eq!(
        config.gateway.url, "http://10.0.0.7:8080",
        "derived from what is advertised"
    );
}

#[test]
fn the_files_beside_it_are_checked() {
    let scratch = Scratch::new();
    scratch.network();
    scratch.init("d", &["--location", "1,2"]).done();
    let dir = scratch.path("d");
    let config = dir.join("blosm.toml");
    let error = || Config::load(&config).unwrap_err().to_string();
    let key = dir.join("node.key");

    fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(
        error().contains("node.key has mode 0640") && error().contains("chmod 600"),
        "{}",
        error()
    );
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();

    fs::write(&key, "not a key\n").unwrap();
    assert!(
        error().contains("node.key must hold 64 hex digits"),
        "{}",
        error()
    );
    fs::remove_file(&key).unwrap();
    assert!(
        error().contains("there is no") && error().contains("blosm init"),
        "{}",
        error()
    );

    fs::rename(dir.join("network.toml"), dir.join("elsewhere.toml")).unwrap();
    assert!(
        error().contains("network: there is no") && error().contains("network.toml"),
        "{}",
        error()
    );
    fs::write(dir.join("network.toml"), "bootstrap = 1\n").unwrap();
    assert!(error().contains("network.toml:1: "), "{}", error());

    let absent = scratch.path("nowhere").join("blosm.toml");
    let error = Config::load(&absent).unwrap_err().to_string();
    assert!(
        error.contains("there is no") && error.contains("blosm init"),
        "{error}"
    );
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let scratch = Scratch::new();
    scratch.network();
    scratch.init("d", &["--location", "1,2"]).done();
    let config = Config::load(&scratch.path("d").join("blosm.toml")).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains(&hex::encode(config.key.seed())));
    assert!(!shown.contains(config.api.token.reveal()));
    assert!(config.api.token.matches(config.api.token.reveal()));
    assert!(!config.api.token.matches("") && !config.api.token.matches(&"0".repeat(64)));
}
