//! What a small testnet has to go through so that every panel of every dashboard has something to show: cars that drive,
//! and one of each thing that goes wrong on a road.
//!
//! ```text
//!  node      1          2          3          4          5           6         rogue
//!        authority   <---- cars, their containers ---->  small,   is killed,   a member
//!                    crowded                             drained  hangs        that lies
//! ```

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use toml::Table;

use super::page;
use super::prometheus::Prometheus;
use super::rogue::Rogue;
use crate::car::{Car, CarPlan, POSITION, SESSION};
use crate::hosts::Seat;
use crate::offers::Resources;
use crate::road::{location, stand};
use crate::teller::Teller;
use crate::testnet::{Spec, Testnet};

/// The node that has room for two sessions, and the one that is killed and later hangs.
const SMALL: usize = 5;
const KILLED: usize = 6;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request to a session whose owner is down is tried for 15 s.
const ANSWER: Duration = Duration::from_secs(40);
/// A client that does not wait for so long has gone.
const HASTE: Duration = Duration::from_millis(500);
/// What lasts for so long has been read by Prometheus.
const SEEN: Duration = Duration::from_secs(3);
/// The alert that fires for a node that is down, and the one for a member that is kept out.
const DOWN: &str = "BlosmNodeDown";
const KEPT_OUT: &str = "BlosmKeptOut";
/// The node to which more connections come than one address may have, which are 64.
const CROWDED: usize = 2;
const CROWD: usize = 100;
/// Random bytes in a container that is to be on its way for some seconds.
const LARGE: u64 = 6 << 20;
/// What a node fetches in a second.
const MAX_RATE: &str = "2MiB";
/// Metres a second: a node ignores jumps of more than a hundred.
const SPEED: f64 = 80.0;
/// Requests a second of each car.
const RATE: u32 = 10;

/// What is 0, or not there, as long as nothing goes wrong: the load has moved each of these away from it.
pub(super) const MOVED: [&str; 21] = [
    r#"blosm_gateway_requests_total{route="none"}"#,
    r#"blosm_gateway_denied_total{reason="unknown_service"}"#,
    r#"blosm_gateway_denied_total{reason="client_gone"}"#,
    r#"blosm_migrate_total{outcome="relayed"}"#,
    r#"blosm_migrate_total{outcome="aborted"}"#,
    "blosm_migrate_failed_total",
    "blosm_migrate_fallbacks_total",
    "blosm_node_drained",
    r#"blosm_ledger_rejected_total{reason="newer"}"#,
    r#"blosm_net_requests_seconds_count{outcome!="answered"}"#,
    r#"blosm_net_gossip_messages_total{verdict="reject"}"#,
    r#"blosm_net_gossip_messages_total{verdict="dropped"}"#,
    r#"blosm_net_events_total{event="gossip_dropped"}"#,
    r#"blosm_net_events_total{event="peers_silent"}"#,
    r#"blosm_net_events_total{event="peers_kept_out"}"#,
    r#"blosm_net_events_total{event="strangers"}"#,
    r#"blosm_net_refused_total{reason="score"}"#,
    r#"blosm_net_limited_total{kind="join"}"#,
    r#"blosm_net_misdeeds_total{kind="message"}"#,
    "blosm_net_scored_down_peers",
    "blosm_net_lowest_score",
];

/// Six nodes whose sessions may move on after a second, slowly enough that one can be met on its way.
pub(super) fn spec() -> Result<Spec> {
    let migration: Table = format!("min_stay = \"1s\"\nmax_rate = \"{MAX_RATE}\"\nmax_out = 8\nmax_in = 8")
        .parse()
        .context("the settings above")?;
    let high: Resources = "512MiB,4".parse()?;
    let mut spec = Spec {
        extra: Table::from_iter([("migration".to_owned(), migration.into())]),
        ..Spec::local(KILLED, 1.0, &high, &high)
    };
    spec.hosts[SMALL - 1].extra = "65MiB,4".parse::<Resources>()?.table();
    Ok(spec)
}

/// Cars that drive until this is dropped.
pub(super) struct Load {
    /// One that stands where its container has no room.
    _parked: Car,
    _driver: AbortOnDropHandle<()>,
}

/// A car that drives from place to place, round and round.
struct Shuttle {
    car: Car,
    places: Vec<usize>,
    next: usize,
}

impl Shuttle {
    fn of(testnet: &Testnet, path: &str, places: &[usize]) -> Result<Shuttle> {
        let first = places.first().context("a shuttle has places")?;
        Ok(Shuttle {
            car: car(testnet, path, *first)?,
            places: places.to_vec(),
            next: 0,
        })
    }

    /// Sends it on if it has arrived.
    fn turn(&mut self) {
        if self.car.arrived() {
            self.next = (self.next + 1) % self.places.len();
            self.car.drive_to(stand(self.places[self.next]));
        }
    }
}

/// Has cars drive and everything go wrong once.
///
/// # Errors
/// Something did not come about in time; the text says what.
pub(super) async fn begin(testnet: &mut Testnet, prometheus: &Prometheus, teller: &Teller) -> Result<Load> {
    let client = Client::builder().no_proxy().timeout(ANSWER).build()?;
    let mut shuttles = [
        Shuttle::of(testnet, "/counter/", &[2, 4, 3])?,
        Shuttle::of(testnet, "/counter/", &[3, 2])?,
        Shuttle::of(testnet, "/echo/", &[4, 2])?,
    ];
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            shuttles.iter_mut().for_each(Shuttle::turn);
            sleep(Duration::from_millis(200)).await;
        }
    }));
    for (method, least) in [("live", 4.0), ("stateless", 2.0)] {
        let labels = [&format!("method=\"{method}\""), "outcome=\"completed\""];
        until(
            &format!("containers have followed their cars ({method})"),
            || async { total(testnet, "blosm_migrate_total", &labels).await >= least },
        )
        .await?;
    }
    teller.say("containers follow their cars");
    refused(testnet, &client).await?;
    fall_back(testnet).await?;
    let parked = relayed(testnet, &client).await?;
    teller.say("requests were refused, a container took another way, another stays where it is");
    killed(testnet, &client, prometheus, teller).await?;
    crowded(testnet).await?;
    hung(testnet).await?;
    teller.say("strangers were turned away, a node hung for a while");
    misbehaved(testnet, prometheus).await?;
    teller.say("a member lied, asked too much and flooded the others, was kept out and evicted");
    drained(testnet).await?;
    teller.say("a node was emptied and serves again");
    Ok(Load {
        _parked: parked,
        _driver: driver,
    })
}

fn car(testnet: &Testnet, path: &str, at: usize) -> Result<Car> {
    let plan = CarPlan {
        path: path.to_owned(),
        start: stand(at),
        ..CarPlan::past(testnet.state(), RATE, SPEED)
    };
    Car::start(Seat::Here, plan)
}

/// Requests that no container can answer.
async fn refused(testnet: &Testnet, client: &Client) -> Result<()> {
    for (path, token) in [("/counter/", Some("no-token")), ("/no-such-service/", None)] {
        let answer = ask(testnet, client, 2, Method::GET, path, token).await?;
        if answer.status < 400 {
            bail!(
                "{path} with the token {token:?} is answered with {}",
                answer.status
            );
        }
    }
    Ok(())
}

/// An operator asks for a method that simulated containers do not have.
async fn fall_back(testnet: &Testnet) -> Result<()> {
    until("a session moves by another method than was asked for", || async {
        // It may be on its way just now, and then the order is refused.
        for number in 2..=4 {
            let Ok(Some(session)) = serving(testnet, number, "counter").await else {
                continue;
            };
            let to = format!("node{}", if number == 2 { 3 } else { 2 });
            let order = json!({ "session": session, "to": to, "method": "image" });
            if let Ok(client) = testnet.client(number) {
                let _ = client.post("/v1/migrations", &order).await;
            }
        }
        total(testnet, "blosm_migrate_fallbacks_total", &[]).await > 0.0
    })
    .await
}

/// A car comes to a node that has no room left: its container stays, and its requests are passed on.
async fn relayed(testnet: &Testnet, client: &Client) -> Result<Car> {
    for _ in 0..2 {
        open(testnet, client, SMALL).await?;
    }
    let car = car(testnet, "/counter/", 4)?;
    until("the car has a session", || async { car.token().is_some() }).await?;
    car.drive_to(stand(SMALL));
    let at = testnet.client(SMALL)?;
    until("the small node says that it has no room", || async {
        let page = at.metrics().await.unwrap_or_default();
        page::sum(&page, "blosm_migrate_total", &["outcome=\"relayed\""]) > 0.0
    })
    .await?;
    Ok(car)
}

/// A node dies while it gives a large container away, and is away for a while.
async fn killed(
    testnet: &mut Testnet,
    client: &Client,
    prometheus: &Prometheus,
    teller: &Teller,
) -> Result<()> {
    let token = open(testnet, client, KILLED).await?;
    let path = format!("/counter/fill?bytes={LARGE}");
    let filled = ask(testnet, client, KILLED, Method::POST, &path, Some(&token)).await?;
    if filled.status != 200 {
        bail!("{path}: status {}: {}", filled.status, filled.body);
    }
    let session = serving(testnet, KILLED, "counter").await?;
    let session = session.context("the session that was just opened runs")?;
    let order = json!({ "session": session, "to": "node3" });
    let destination = testnet.client(3)?;
    let fetched = |page: &str| page::sum(page, "blosm_migrate_transfer_bytes_total", &["direction=\"in\""]);
    let before = fetched(&destination.metrics().await?);
    testnet.client(KILLED)?.post("/v1/migrations", &order).await?;
    until("the large container is on its way", || async {
        let page = destination.metrics().await.unwrap_or_default();
        fetched(&page) > before + LARGE as f64 / 10.0
    })
    .await?;
    testnet.kill_node(KILLED)?;
    until("its destination has given it up", || async {
        let page = destination.metrics().await.unwrap_or_default();
        page::sum(&page, "blosm_migrate_total", &["outcome=\"aborted\""]) > 0.0
    })
    .await?;
    // A client that does not wait for what the next one is told.
    let hasty = ask(testnet, client, 2, Method::GET, "/counter/count", Some(&token));
    if let Ok(answer) = timeout(HASTE, hasty).await {
        bail!(
            "a session whose owner is dead is answered at once: {}",
            answer?.status
        );
    }
    until("its leaving is counted", || async {
        total(testnet, "blosm_gateway_denied_total", &["reason=\"client_gone\""]).await > 0.0
    })
    .await?;
    let answer = ask(testnet, client, 2, Method::GET, "/counter/count", Some(&token)).await?;
    if answer.status != 503 {
        bail!("a session whose owner is dead is answered with {}", answer.status);
    }
    fires(prometheus, DOWN).await?;
    testnet.start_node(KILLED).await?;
    teller.say("a node died with a container on its way, and is back");
    Ok(())
}

/// More connections than one address may have that say nothing.
async fn crowded(testnet: &Testnet) -> Result<()> {
    let host = testnet.state().host(CROWDED)?;
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        // Those that are refused may fail here too.
        silent.push(TcpStream::connect((host.address, host.ports.peer)).await);
    }
    until("connections are refused", || async {
        total(testnet, "blosm_net_refused_total", &["reason=\"address\""]).await > 0.0
    })
    .await
}

/// A node hangs: its connections stay, and nothing comes of them.
async fn hung(testnet: &Testnet) -> Result<()> {
    testnet.pause_node(KILLED)?;
    let other = testnet.client(2)?;
    let noticed = until("others notice that a node is silent", || async {
        let page = other.metrics().await.unwrap_or_default();
        page::sum(&page, "blosm_net_events_total", &["event=\"peers_silent\""]) > 0.0
    })
    .await;
    testnet.resume_node(KILLED)?;
    noticed
}

/// A stranger asks too often, becomes a member, says what is wrong and too much of it, is kept out, and is evicted.
async fn misbehaved(testnet: &Testnet, prometheus: &Prometheus) -> Result<()> {
    let rogue = Rogue::start(testnet).await?;
    until("a stranger asks more often than it may", || async {
        rogue.ask().await;
        total(testnet, "blosm_net_limited_total", &["kind=\"join\""]).await > 0.0
    })
    .await?;
    rogue.admit(testnet).await?;
    let nodes = testnet.state().hosts.len();
    until("all nodes let it in", || async { rogue.peers() == nodes }).await?;
    until("gossip is let fall", || async {
        let event = ["event=\"gossip_dropped\""];
        rogue.flood().await.is_ok() && total(testnet, "blosm_net_events_total", &event).await > 0.0
    })
    .await?;
    // A few, so that its score is seen before it is too low.
    for _ in 0..3 {
        rogue.lie().await?;
    }
    // Counted, and no reason to say that a newer version is needed: that takes the authority's word.
    rogue.confuse().await?;
    sleep(SEEN).await;
    until("it is kept out, and turned away when it comes back", || async {
        rogue.lie().await.is_ok()
            && total(testnet, "blosm_net_refused_total", &["reason=\"score\""]).await > 0.0
    })
    .await?;
    fires(prometheus, KEPT_OUT).await?;
    rogue.evict(testnet).await
}

/// A node gives its sessions away and then serves again.
async fn drained(testnet: &Testnet) -> Result<()> {
    let at = testnet.client(SMALL)?;
    at.post("/v1/drain", &json!({})).await?;
    until("the small node is empty", || async {
        let page = at.metrics().await.unwrap_or_default();
        page::sum(&page, "blosm_node_drained", &[]) > 0.0
            && page::sum(&page, "blosm_session_owned", &[]) == 0.0
    })
    .await?;
    // So that Prometheus sees it, which reads a node each second.
    sleep(SEEN).await;
    at.delete("/v1/drain").await
}

async fn fires(prometheus: &Prometheus, name: &str) -> Result<()> {
    until(&format!("the alert {name} fires"), || async {
        let alerts = prometheus.alerts().await.unwrap_or_default();
        alerts.iter().any(|alert| alert.name == name && alert.fires)
    })
    .await
}

struct Answer {
    status: u16,
    token: Option<String>,
    body: String,
}

/// One request of a client that stands beside a node.
async fn ask(
    testnet: &Testnet,
    client: &Client,
    number: usize,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> Result<Answer> {
    let host = testnet.state().host(number)?;
    let (latitude, longitude) = location(stand(number));
    let url = format!("http://{}:{}{path}", host.address, host.ports.gateway);
    let mut call = client
        .request(method, &url)
        .header(POSITION, format!("{latitude:.6},{longitude:.6}"));
    if let Some(token) = token {
        call = call.header(SESSION, token);
    }
    let response = call.send().await.with_context(|| url)?;
    let token = response.headers().get(SESSION);
    Ok(Answer {
        status: response.status().as_u16(),
        token: token.and_then(|token| token.to_str().ok()).map(str::to_owned),
        body: response.text().await?,
    })
}

/// Opens a session of the stateful service at a node; gives its token.
async fn open(testnet: &Testnet, client: &Client, number: usize) -> Result<String> {
    let answer = ask(testnet, client, number, Method::POST, "/counter/", None).await?;
    answer
        .token
        .with_context(|| format!("no session at node {number}: status {}", answer.status))
}

/// A session of a service that a node runs now.
async fn serving(testnet: &Testnet, number: usize, service: &str) -> Result<Option<String>> {
    let sessions = testnet.client(number)?.get("/v1/sessions").await?;
    let found = sessions
        .as_array()
        .into_iter()
        .flatten()
        .find(|session| session["phase"] == "serving" && session["service"] == service);
    Ok(found.and_then(|session: &Value| session["session"].as_str().map(str::to_owned)))
}

/// What all nodes that answer have counted together.
async fn total(testnet: &Testnet, name: &str, labels: &[&str]) -> f64 {
    let mut sum = 0.0;
    for host in &testnet.state().hosts {
        if let Ok(client) = testnet.client(host.number)
            && let Ok(page) = client.metrics().await
        {
            sum += page::sum(&page, name, labels);
        }
    }
    sum
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > deadline {
            bail!("{PATIENCE:?} were not enough until {what}");
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
