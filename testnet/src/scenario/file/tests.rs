use super::*;

const WHOLE: &str = r#"
duration = "10m"
settle = "15s"

[nodes]
count = 4
link = "20mbit"
settings = { migration = { keep_source = "15s" } }

[[node]]
number = 2
location = "37.5,127.0"
radius = 400.0
settings = { resources = { memory = "64MiB" } }

[[link]]
node = 3
rate = "5mbit"
delay = "20ms"
jitter = "5ms"
loss = 0.5

[[service]]
name = "counter"
settings = { resources = { memory = "16MiB" } }

[[service]]
name = "echo"
stateless = true

[[cars]]
service = "counter"
count = 20
speed = 27.5
rate = 2
state_bytes = 1000000

[[cars]]
service = "echo"
routes = "cars.csv"
rate = 1

[[fault]]
kind = "cut"
nodes = [3]
at = "1m"
for = "10s"

[[fault]]
kind = "kill"
between = ["20s", "9m 30s"]
times = 10
for = "5s"

[checks]
moves_per_second = 1.0
answered = 0.9
"#;

fn table(name: &str) -> Result<String> {
    match name {
        "cars.csv" => Ok("time,id,lat,lon\n0,bus,37.4,126.6\n600,bus,37.5,126.7\n".to_owned()),
        "fast.csv" => Ok("time,id,lat,lon\n0,bus,37.4,126.6\n60,bus,37.5,126.7\n".to_owned()),
        "bad.csv" => Ok("time,id,lat,lon\n0,bus,37.4\n".to_owned()),
        _ => bail!("there is no {name}"),
    }
}

#[test]
fn every_key_arrives() {
    let scenario = Scenario::parse("whole", WHOLE, table).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!((scenario.duration, scenario.settle), (seconds(600), seconds(15)));
    assert_eq!(scenario.rate, Rate::mbit(20));
    assert_eq!(
        scenario.settings["migration"]["keep_source"].as_str(),
        Some("15s")
    );
    let second = &scenario.nodes[1];
    assert_eq!(
        (scenario.nodes.len(), second.location, second.radius),
        (4, Some((37.5, 127.0)), Some(400.0))
    );
    assert_eq!(second.settings["resources"]["memory"].as_str(), Some("64MiB"));
    let link = &scenario.links[0];
    assert_eq!((link.node, link.rate), (3, Some(Rate::mbit(5))));
    assert_eq!((link.quality.up.delay_ms, link.quality.down.jitter_ms), (20, 5));
    assert_eq!(f64::from(link.quality.up.loss), 0.5);
    assert!(!scenario.services[0].stateless && scenario.services[1].stateless);
    let Courses::Shuttle { count: 20, speed } = scenario.cars[0].courses else {
        panic!("{:?}", scenario.cars)
    };
    assert_eq!(
        (speed, scenario.cars[0].rate, scenario.cars[0].state_bytes),
        (27.5, 2, 1_000_000)
    );
    let Courses::Routes(routes) = &scenario.cars[1].courses else {
        panic!("{:?}", scenario.cars)
    };
    assert_eq!((routes[0].0.as_str(), scenario.cars[1].stateless), ("bus", true));
    let [cut, kill] = &scenario.faults[..] else {
        panic!("{:?}", scenario.faults)
    };
    assert_eq!(
        (cut.kind, &cut.nodes[..], cut.times, cut.lasts),
        (Kind::Cut, &[3][..], 1, seconds(10))
    );
    assert_eq!(cut.between, (seconds(60), seconds(60)));
    assert_eq!(
        (kill.kind, &kill.nodes[..], kill.times),
        (Kind::Kill, &[1, 2, 3, 4][..], 10)
    );
    assert_eq!(kill.between, (seconds(20), seconds(570)));
    assert_eq!(
        (scenario.checks.moves_per_second, scenario.checks.answered),
        (Some(1.0), Some(0.9))
    );
}

#[test]
fn what_is_left_out_has_a_default() {
    let text = "duration = \"1m\"\nnodes = { count = 3 }\ncars = [{ service = \"counter\", count = 1, speed = 1.0, rate = 1 }]\n";
    let scenario = Scenario::parse("least", text, table).unwrap();
    assert_eq!(scenario.services[0].name, "counter");
    assert_eq!((scenario.rate, scenario.nodes.len()), (Rate::mbit(40), 3));
    assert!(scenario.faults.is_empty() && scenario.checks == Limits::default());
}

/// The file with one line replaced, and the number of that line.
fn with(line: &str, instead: &str) -> (String, usize) {
    assert_eq!(WHOLE.matches(line).count(), 1, "{line}");
    let at = WHOLE.split(line).next().unwrap_or_default().matches('\n').count() + 1;
    (WHOLE.replace(line, instead), at)
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (line, instead, why) in [
        ("link = \"20mbit\"", "links = \"20mbit\"", "unknown field"),
        ("number = 2", "number = 5", "no node 5"),
        ("location = \"37.5,127.0\"", "location = \"95,127\"", "degrees"),
        ("radius = 400.0", "radius = 0.0", "above 0"),
        ("rate = \"5mbit\"", "rate = \"5mbps\"", "no rate"),
        ("delay = \"20ms\"", "delay = \"20\"", "no time"),
        ("loss = 0.5", "loss = 101.0", "between 0% and 100%"),
        ("name = \"echo\"", "name = \"counter\"", "two services"),
        ("stateless = true", "stateles = true", "unknown field"),
        ("speed = 27.5", "speed = -1.0", "above 0"),
        ("speed = 27.5", "speed = 100.5", "at most 100"),
        ("count = 20", "count = 0", "1 to 500 cars"),
        ("count = 20", "count = 501", "1 to 500 cars"),
        ("rate = 2\n", "rate = 0\n", "1 to 1000"),
        ("rate = 2\n", "rate = 1001\n", "1 to 1000"),
        ("state_bytes = 1000000", "state_bytes = 1073741825", "at most"),
        ("delay = \"20ms\"", "delay = \"500us\"", "no time"),
        ("jitter = \"5ms\"", "jitter = \"61s\"", "at most 60 s"),
        ("settle = \"15s\"", "settle = \"999ms\"", "at least 1s"),
        (
            "between = [\"20s\", \"9m 30s\"]",
            "between = [\"20s\", \"1000y\"]",
            "longer than a week",
        ),
        ("for = \"5s\"", "for = \"8d\"", "longer than a week"),
        ("times = 10", "times = 0", "at least once"),
        ("nodes = [3]", "nodes = [3, 3]", "named twice"),
        ("answered = 0.9", "answered = 95.0", "between 0 and 1"),
        ("answered = 0.9", "answered = nan", "between 0 and 1"),
        ("answered = 0.9", "answered = -0.1", "between 0 and 1"),
        ("moves_per_second = 1.0", "moves_per_second = 0.0", "above 0"),
        ("moves_per_second = 1.0", "moves_per_second = inf", "above 0"),
        ("service = \"echo\"", "service = \"ech\"", "no service ech"),
        (
            "routes = \"cars.csv\"",
            "routes = \"none.csv\"",
            "there is no none.csv",
        ),
        ("routes = \"cars.csv\"", "routes = \"bad.csv\"", "bad.csv: line 2"),
        (
            "routes = \"cars.csv\"",
            "routes = \"fast.csv\"",
            "fast.csv: line 3: bus would have to drive at",
        ),
        (
            "routes = \"cars.csv\"",
            "routes = \"cars.csv\"\nspeed = 1.0",
            "neither count nor speed",
        ),
        ("kind = \"cut\"", "kind = \"cat\"", "unknown variant"),
        ("nodes = [3]", "nodes = [0]", "no node 0"),
        ("for = \"10s\"", "for = \"9m 1s\"", "beyond the end"),
        ("for = \"5s\"", "for = \"0s\"", "some time"),
        ("at = \"1m\"", "at = \"1m\"\ntimes = 2", "times is for"),
        (
            "between = [\"20s\", \"9m 30s\"]",
            "between = [\"20s\", \"20s\"]",
            "not after",
        ),
        ("moves_per_second = 1.0", "move_per_second = 1.0", "unknown field"),
        ("duration = \"10m\"", "duration = \"0s\"", "some time"),
        ("count = 4", "count = 0", "1 to"),
    ] {
        let (text, at) = with(line, instead);
        let error = format!("{:#}", Scenario::parse("x", &text, table).unwrap_err());
        // What serde refuses beside the line of a key is at the table's own line or the one of the key.
        assert!(error.contains(&format!("line {at}")), "{instead}: {error}");
        assert!(error.contains(why), "{instead}: {error}");
    }
}

#[test]
fn whatever_may_be_there_once_is_refused_twice() {
    for (more, last, why) in [
        ("[[node]]\nnumber = 2\n", 1, "two tables of node 2"),
        ("[[link]]\nnode = 3\n", 1, "two tables of node 3's link"),
        (
            "[[cars]]\nservice = \"echo\"\nroutes = \"cars.csv\"\nrate = 1\n",
            1,
            "two cars bus",
        ),
        (
            "[[cars]]\nservice = \"echo\"\ncount = 490\nspeed = 1.0\nrate = 1\n",
            1,
            "more than 500 cars",
        ),
    ] {
        let text = format!("{WHOLE}{more}");
        let line = WHOLE.matches('\n').count() + 1 + last;
        let error = format!("{:#}", Scenario::parse("x", &text, table).unwrap_err());
        assert!(error.contains(&format!("line {line}:")), "{error}");
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn keys_that_exclude_each_other_are_refused() {
    for (line, instead, why) in [
        ("at = \"1m\"\n", "", "either at or between"),
        (
            "at = \"1m\"",
            "at = \"1m\"\nbetween = [\"1s\", \"2s\"]",
            "either at or between",
        ),
        ("speed = 27.5\n", "", "either count and speed, or routes"),
        ("stateless = true", "stateless = false", ""),
        ("rate = 1\n", "rate = 1\nstate_bytes = 5\n", "no state_bytes"),
    ] {
        let text = WHOLE.replace(line, instead);
        match Scenario::parse("x", &text, table) {
            Ok(_) => assert_eq!(why, "", "{instead}"),
            Err(error) => assert!(
                !why.is_empty() && format!("{error:#}").contains(why),
                "{instead}: {error:#}"
            ),
        }
    }
    let nobody = "duration = \"1m\"\nnodes = { count = 3 }\n";
    let error = Scenario::parse("x", nobody, table).unwrap_err();
    assert!(format!("{error:#}").contains("[[cars]]"));
}
