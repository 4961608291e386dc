//! The configuration file that `blosm init` writes, and the admission that goes with it.
//!
//! Prose begins with `# `; a default that is not set begins with `#` alone, so that taking the one
//! character away sets it. A test uncomments all of them and finds the built-in defaults.

use std::fmt::{Display, Write};

use super::location::Coordinates;
use super::overrides::Overrides;
use super::{Config, HELPER_SOCKET, NETWORK_FILE};

/// The file that `blosm init` writes: what `set` gives as settings, everything else as a commented default.
pub fn default_toml(set: &Overrides) -> String {
    let mut out = Writer(String::new());
    out.prose("BloSM node. Unknown keys are refused. A flag or BLOSM_* variable of the same name wins over a line here.");
    out.prose("Sizes are written 64MiB, durations 15s.");
    out.blank();
    out.prose("The network that this node belongs to; relative to this file's folder.");
    out.default("network", Text(NETWORK_FILE));

    out.table("node");
    out.prose("Name for people. Default: the first 8 digits of the node's key.");
    out.set_or("label", set.label.as_deref().map(Text), Text("roadside-1"));
    out.prose("LAT,LON in degrees (WGS84). It has no default.");
    let example = Coordinates {
        lat_e7: 374_500_000,
        lon_e7: 1_266_500_000,
    };
    out.set_or("location", set.location.map(Text), Text(example));
    out.prose("Coverage in metres.");
    out.set_or("radius", set.radius.map(Float), Float(300.0));
    out.prose("Threads that do the node's work. Default: one per core, at most 4.");
    out.default("threads", 4);

    out.table("net");
    out.prose("libp2p addresses to listen on.");
    let listen = (!set.listen.is_empty()).then_some(List(&set.listen));
    out.set_or("listen", listen, List(&["/ip4/0.0.0.0/tcp/4401"]));
    out.prose("Addresses of this machine that other members dial; the admission carries them. Without one only this node dials.");
    let advertise = (!set.advertise.is_empty()).then_some(List(&set.advertise));
    out.set_or("advertise", advertise, List::<&str>(&[]));
    out.prose("Whether members on the same local network find each other by mDNS, and whether members ask each other for one");
    out.prose("that is out of reach. Only members' addresses count either way.");
    out.default("mdns", true);
    out.default("kad", true);
    out.prose("Connections of nodes that are no members yet: they may ask to be admitted, nothing else. Authorities only.");
    out.default("strangers", 32);
    out.prose("Handshakes and connections of strangers from one IP address. Members do not count.");
    out.default("per_address", 64);

    out.table("gateway");
    out.prose("Address that cars connect to.");
    out.set_or("listen", set.gateway_listen.map(Text), Text("0.0.0.0:8080"));
    out.prose("The gateway as others reach it. Default: the address of net.advertise with the port above.");
    out.set_or(
        "url",
        set.gateway_url.as_deref().map(Text),
        Text("http://127.0.0.1:8080"),
    );
    out.prose("Requests held per session while its container moves; one more gets 503.");
    out.default("hold_max", 256);
    out.prose("How long a request is held.");
    out.default("hold_time", Text("60s"));

    out.table("api");
    out.prose(
        "The local API that the blosm commands talk to. What changes state needs the token of api.token.",
    );
    out.set_or("listen", set.api_listen.map(Text), Text("127.0.0.1:4480"));

    out.table("metrics");
    out.prose(
        "A listener for Prometheus, with /metrics, /healthz and /v1/prometheus/targets. None unless set, nor is its URL advertised.",
    );
    out.set_or("listen", set.metrics_listen.map(Text), Text("127.0.0.1:9480"));
    out.set_or(
        "url",
        set.metrics_url.as_deref().map(Text),
        Text("http://127.0.0.1:9480/metrics"),
    );

    out.table("engine");
    out.prose("What runs the containers: docker, or sim. With sim nothing real runs: each session gets a built-in counter");
    out.prose(
        "with a directory for a layer, which needs neither an engine nor root. For testnets and tests only.",
    );
    out.set_or("runtime", set.runtime.map(Text), Text("docker"));
    out.prose("The container engine's API.");
    out.set_or(
        "socket",
        set.engine_socket.as_deref().map(Text),
        Text("unix:///var/run/docker.sock"),
    );

    out.table("helper");
    out.prose("Socket of the layer helper, which moves containers while they run; relative to this file's folder. Started as");
    out.prose(
        "root, `blosm run` starts one there and gives up its own rights. Else: `blosm layer-helper` as root.",
    );
    let socket = set.helper_socket.as_deref().map(|socket| Text(socket.display()));
    out.set_or("socket", socket, Text(HELPER_SOCKET));

    out.table("resources");
    out.prose("Caps on what this node offers to containers. None unless set: all that the machine has. With runtime = \"sim\" they are");
    out.prose("what the node has, whatever the machine has.");
    out.default("memory", Text("2GiB"));
    out.default("cpu", Float(2.0));

    out.table("migration");
    out.prose("How a container moves: live (its writable layer is copied while it runs) or image (the paper's way).");
    out.prose("Where live cannot be used, image is, and the report says why.");
    out.default("method", Text("live"));
    out.prose("How long the stopped container is kept at its former node.");
    out.default("keep_source", Text("60s"));
    out.prose("How long a migration waits for 90 % of the members to confirm, beside the transfer.");
    out.default("confirm_wait", Text("2s"));
    out.prose("How long a container stays at least where it has just arrived.");
    out.default("min_stay", Text("10s"));
    out.prose("Metres by which a client must be nearer to another node before its container follows.");
    out.default("margin", Float(50.0));
    out.prose("Resources that may be short when a node judges whether it can take a container.");
    out.default("tolerance", 1);
    out.prose("A live migration that would stop the service for longer than this is put off.");
    out.default("max_downtime", Text("1500ms"));
    out.prose("max_rate = \"4MiB\" caps what a migration fetches per second; unless set, it is what the link carries.");
    out.prose(
        "Sessions that leave, and that come to, this node at once. Further ones are tried again later.",
    );
    out.default("max_out", 2);
    out.default("max_in", 2);
    out.prose(
        "Share of the disk under the engine that stays free: with less, images that blosm itself brought and",
    );
    out.prose("nothing uses are removed, and nothing is fetched for a session.");
    out.default("stage_free", Float(0.1));
    out.prose("With less than this share free no session is claimed.");
    out.default("claim_free", Float(0.05));

    out.blank();
    out.prose(
        "One table per service that this node is ready to run. The image is pinned by its config digest",
    );
    out.prose("(`docker image inspect --format '{{.Id}}'` with Docker's classic image store).");
    for line in EXAMPLE_SERVICE.lines() {
        let _ = writeln!(out.0, "#{line}");
    }
    out.0
}

/// A service with every key that has a meaning here.
const EXAMPLE_SERVICE: &str = r#"[[service]]
name = "counter"
image = "example/counter:1@sha256:0000000000000000000000000000000000000000000000000000000000000000"
port = 8080
protocol = "http"
stateless = false
volumes = "refuse"
health = { path = "/healthz", interval = "50ms", timeout = "1s", start = "10s" }
resources = { memory = "32MiB", cpu = 0.1 }
env = { GREETING = "hello" }
stop = { signal = "SIGTERM", grace = "2s", drain = "1s" }
request = { max_body = "1MiB", timeout = "30s" }
"#;

/// Writes lines of TOML.
struct Writer(String);

impl Writer {
    fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn prose(&mut self, text: &str) {
        self.line(format_args!("# {text}"));
    }

    fn blank(&mut self) {
        self.line("");
    }

    fn table(&mut self, name: &str) {
        self.line(format_args!("\n[{name}]"));
    }

    fn default(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("#{key} = {value}"));
    }

    fn set_or(&mut self, key: &str, set: Option<impl Display>, default: impl Display) {
        match set {
            Some(value) => self.line(format_args!("{key} = {value}")),
            None => self.default(key, default),
        }
    }
}

/// A TOML string.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", toml::Value::String(self.0.to_string()))
    }
}

/// A TOML float.
struct Float(f64);

impl Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", toml::Value::Float(self.0))
    }
}

/// A TOML list of strings.
struct List<'a, T>(&'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[")?;
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, Text(item))?;
        }
        f.write_str("]")
    }
}

/// The command that admits the node of `config`.
pub(super) fn admit_command(config: &Config) -> String {
    let mut line = format!("blosm admit {}", config.public_key());
    for address in &config.net.advertise {
        let _ = write!(line, " --address {address}");
    }
    let _ = write!(line, " --gateway {}", config.gateway.url);
    if let Some(url) = &config.metrics.url {
        let _ = write!(line, " --metrics {url}");
    }
    let _ = write!(
        line,
        " --location {} --radius {} --label {}",
        config.node.location, config.node.radius_m, config.node.label
    );
    line
}
