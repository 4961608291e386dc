//! One run in which a person moves the container with an engine's own commands, as is done without `blosm`.
//!
//! All begin with a stop at the source, since what is written after a commit would be lost. The car asks the
//! destination from that moment on.

use anyhow::{Context, Result};
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptions,
    StopContainerOptionsBuilder,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::by_node::traffic;
use super::figures::Gap;
use super::layer::{Floor, Layer};
use super::pipe;
use super::plan::{Method, Turn};
use super::registry::{pull, push};
use super::ride::Ride;
use super::row::{self, Run};
use super::site::Site;
use super::{AFTER, QUIET};
use crate::engine::Engine;
use crate::service_log::ServiceLog;
use crate::teller::unix_ms;

/// Where the service listens on its host.
const PORT: u16 = 8090;
/// What a stop waits for before it kills, in seconds.
const GRACE: i32 = 2;

/// Starts the service at the source, moves it, and ends it.
///
/// # Errors
/// An engine or the registry refused.
pub(super) async fn run(site: &Site, turn: &Turn) -> Result<Value> {
    let image = &site.images[turn.image];
    let name = format!("{}-{}-{}", image.repository, turn.method.as_str(), turn.run);
    let committed = format!("{}-{}", turn.method.as_str(), turn.run);
    let repository = match &site.registry {
        Some(registry) => registry.repository(&image.repository),
        None => image.repository.clone(),
    };
    let hand = Hand {
        site,
        turn,
        engines: [site.engine(turn.from), site.engine(turn.to)],
        name,
        repository,
        tag: committed,
    };
    let row = Box::pin(hand.measure(&image.tag)).await;
    hand.end().await;
    row
}

/// One person's work.
struct Hand<'a> {
    site: &'a Site,
    turn: &'a Turn,
    /// Source and destination.
    engines: [Engine; 2],
    /// Of the containers.
    name: String,
    /// Of the committed image.
    repository: String,
    tag: String,
}

impl Hand<'_> {
    async fn measure(&self, base: &str) -> Result<Value> {
        let (site, turn) = (self.site, self.turn);
        let [source, destination] = &self.engines;
        self.start(source, base).await?;
        let traffic = traffic(site, turn).await?;
        let beside = traffic.contact.clone();
        let measured = async {
            let car = Ride::straight(site, PORT, turn.from, turn.to).await?;
            let contact = car.contact.clone();
            contact.put_to_work().await?;
            let quiet = unix_ms();
            sleep(QUIET).await;
            let start = match turn.method.keeps_state() {
                true => Some(Layer::of(source, &self.name).await?),
                false => None,
            };
            let mut report = row::report(&site.subject(turn));
            let began = unix_ms();
            car.leave_source();
            let moved = self.carry(base, &mut report).await?;
            car.until_answered_there().await?;
            set_ms(&mut report, "start", moved);
            sleep(AFTER).await;
            let floor = match start {
                Some(start) => {
                    let cut = Layer::of(source, &self.name).await?;
                    Some(tokio::task::spawn_blocking(move || Floor::of(&start, &cut)).await??)
                }
                None => None,
            };
            let (seen, traffic) = tokio::try_join!(car.finish(), traffic.finish())?;
            let log = ServiceLog::parse(&contact.log().await?)?;
            let gap = Gap::of(&seen.records, |record| record.to == 0, |record| record.to == 1);
            let gap = gap.context("both hosts answered the car")?;
            report["outcome"] = "completed".into();
            report["started_unix_ms"] = (began as u64).into();
            report["service_down_ms"] = gap.ms.into();
            report["writable_bytes"] = floor.map_or(0, |floor| floor.layer).into();
            if let Ok(image) = destination.identity(&self.image(base)).await {
                report["image_bytes"] = image.size.into();
            }
            let run = Run {
                report,
                began,
                quiet,
                gap,
                car: seen,
                traffic,
                floor,
                link_bytes: None,
                log,
            };
            Ok(row::completed(&site.subject(turn), run))
        };
        let measured = Box::pin(measured).await;
        let closed = beside.close(false).await;
        measured.and_then(|row| closed.map(|()| row))
    }

    /// Stops the container here and starts it there; gives the time at which the last step, the start, began.
    async fn carry(&self, base: &str, report: &mut Value) -> Result<Instant> {
        let [source, destination] = &self.engines;
        let mut since = Instant::now();
        let stop = StopContainerOptionsBuilder::default().t(GRACE).build();
        source.client()?.stop_container(&self.name, Some(stop)).await?;
        since = set_ms(report, "stop", since);
        if self.turn.method.keeps_state() {
            self.commit(source).await?;
            since = set_ms(report, "commit", since);
            let image = self.image(base);
            let road = self.site.testnet.state().road();
            let sent = road.sent_bytes(self.turn.from)?;
            if self.turn.method == Method::Registry {
                push(source, &self.repository, &self.tag).await?;
                pull(destination, &self.repository, &self.tag).await?;
            } else {
                pipe::save_load(&self.site.testnet, self.turn.from, self.turn.to, &image).await?;
            }
            // What the engines said over the link beside it is in it too, and little.
            report["wire_bytes"] = (road.sent_bytes(self.turn.from)? - sent).into();
            since = set_ms(report, "transfer", since);
        }
        self.start(destination, &self.image(base)).await?;
        Ok(since)
    }

    /// What is started at the destination.
    fn image(&self, base: &str) -> String {
        if self.turn.method.keeps_state() {
            format!("{}:{}", self.repository, self.tag)
        } else {
            base.to_owned()
        }
    }

    /// On the host's own network, so that the car reaches it without a gateway.
    async fn start(&self, engine: &Engine, image: &str) -> Result<()> {
        let client = engine.client()?;
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            env: Some(vec![format!("PORT={PORT}")]),
            host_config: Some(HostConfig {
                network_mode: Some("host".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&self.name).build();
        client.create_container(Some(options), body).await?;
        client.start_container(&self.name, None).await?;
        Ok(())
    }

    async fn commit(&self, engine: &Engine) -> Result<()> {
        let options = CommitContainerOptionsBuilder::default()
            .container(&self.name)
            .repo(&self.repository)
            .tag(&self.tag)
            .build();
        let client = engine.client()?;
        client
            .commit_container(options, ContainerConfig::default())
            .await?;
        Ok(())
    }

    /// Ends what runs. Removing files by the ten thousand would disturb the next run: they go with the testnet.
    async fn end(&self) {
        for engine in &self.engines {
            let Ok(client) = engine.client() else { continue };
            // One that does not run was stopped, or never made.
            let _ = client
                .kill_container(&self.name, None::<KillContainerOptions>)
                .await;
        }
    }
}

/// Notes how long a phase took; gives the time at which it ended.
fn set_ms(report: &mut Value, phase: &str, since: Instant) -> Instant {
    let now = Instant::now();
    let ms = now.saturating_duration_since(since).as_secs_f64() * 1000.0;
    report["phases_ms"][phase] = ms.into();
    now
}
