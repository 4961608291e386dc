//! The scenario's file: read, and checked against itself. Whatever is wrong is told with its line.

mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use toml::{Spanned, Table};

use crate::car::{FASTEST, MOST_REQUESTS, MOST_STATE};
use crate::fleet::MOST;
use crate::hosts::{LinkQuality, MAX_SEATS, Quality, Rate};
use crate::road::place;
use crate::route::{self, Route};
use table::{CarsTable, ChecksTable, FaultTable, File, LinkTable, NodeTable, ServiceTable};

pub(crate) use table::Kind;

/// How long cars drive on afterwards unless the file says so.
const SETTLE: Duration = Duration::from_secs(20);
/// They have to: for at least so long, so that each is answered again.
const SHORTEST_SETTLE: Duration = Duration::from_secs(1);

/// A scenario whose parts fit together.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The file's name, without folders and ending.
    pub(crate) name: String,
    /// The file as it is written, to tell where in it something is wrong.
    pub(crate) text: String,
    /// How long cars drive and things go wrong.
    pub(crate) duration: Duration,
    /// How long cars drive on afterwards, when nothing goes wrong any more.
    pub(crate) settle: Duration,
    /// The capacity of each node's link.
    pub(crate) rate: Rate,
    /// Laid over every node's configuration.
    pub(crate) settings: Table,
    /// Where each node stands, and what is laid over its configuration alone.
    pub(crate) nodes: Vec<Place>,
    /// Links that are worse than their rate.
    pub(crate) links: Vec<Link>,
    /// What the nodes declare.
    pub(crate) services: Vec<Service>,
    /// Who drives.
    pub(crate) cars: Vec<Cars>,
    /// What goes wrong.
    pub(crate) faults: Vec<Fault>,
    /// What the run has to reach, beside what has to hold always.
    pub(crate) checks: Limits,
}

/// Where a node is another than its neighbours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Latitude and longitude in degrees; none: the next place along the road.
    pub(crate) location: Option<(f64, f64)>,
    /// What it covers, in metres.
    pub(crate) radius: Option<f64>,
    /// Laid over its configuration.
    pub(crate) settings: Table,
}

/// A link that is worse than the others.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Whose.
    pub(crate) node: usize,
    /// Its own capacity, if it has one.
    pub(crate) rate: Option<Rate>,
    /// What it does to packets, both ways.
    pub(crate) quality: LinkQuality,
}

/// A service that the nodes declare.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name, the first segment of a request's path.
    pub(crate) name: String,
    /// Any container answers any request; nobody's session.
    pub(crate) stateless: bool,
    /// Laid over the declaration of the demo's counter.
    pub(crate) settings: Table,
}

/// Cars of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Cars {
    /// The service that they ask.
    pub(crate) service: String,
    /// It is a stateless one.
    pub(crate) stateless: bool,
    /// Requests a second of each.
    pub(crate) rate: u32,
    /// What each one's container carries from the start, in bytes.
    pub(crate) state_bytes: u64,
    /// How many, and where.
    pub(crate) courses: Courses,
}

/// What a run has to reach, beside what has to hold always.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// At least so many moves a second of all sessions together, as long as things go wrong.
    pub(crate) moves_per_second: Option<f64>,
    /// At least this share of the requests is answered with a success, 0 to 1.
    pub(crate) answered: Option<f64>,
}

/// Where cars drive.
#[derive(Clone, Debug)]
pub(crate) enum Courses {
    /// Back and forth past all nodes.
    Shuttle {
        /// So many cars.
        count: usize,
        /// Metres a second.
        speed: f64,
    },
    /// As a table says.
    Routes(Vec<(String, Route)>),
}

/// Something that goes wrong, once or several times.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The line in the file, for messages.
    pub(crate) line: usize,
    /// What.
    pub(crate) kind: Kind,
    /// With which nodes: one of these, each time.
    pub(crate) nodes: Vec<usize>,
    /// When at the earliest and at the latest.
    pub(crate) between: (Duration, Duration),
    /// For how long.
    pub(crate) lasts: Duration,
    /// How often.
    pub(crate) times: usize,
}

impl Scenario {
    /// Reads the file, and the tables of routes that it names beside it.
    ///
    /// # Errors
    /// It cannot be read, or is no scenario; the text names the file and, where there is one, the line.
    pub(crate) fn read(file: &Path) -> Result<Scenario> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        let beside = file.parent().unwrap_or(Path::new(""));
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        Scenario::parse(&stem, &text, |name| {
            let path: PathBuf = beside.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
        })
        .with_context(|| format!("{}", file.display()))
    }

    /// What a text says; `table` gives the text of a table of routes by its name.
    ///
    /// # Errors
    /// It is no scenario; the text names the line.
    pub(crate) fn parse(name: &str, text: &str, table: impl Fn(&str) -> Result<String>) -> Result<Scenario> {
        let file: File = toml::from_str(text)?;
        let lines = Lines {
            text,
            nodes: *file.nodes.count.get_ref(),
        };
        if !(1..=MAX_SEATS).contains(&lines.nodes) {
            return lines.refuse(&file.nodes.count, format!("a road has 1 to {MAX_SEATS} nodes"));
        }
        if file.duration.get_ref().0.is_zero() {
            return lines.refuse(&file.duration, "it has to last some time");
        }
        let duration = file.duration.get_ref().0;
        let settle = match &file.settle {
            Some(settle) if settle.get_ref().0 < SHORTEST_SETTLE => {
                return lines.refuse(settle, format!("it lasts at least {SHORTEST_SETTLE:?}"));
            }
            settle => settle.as_ref().map_or(SETTLE, |settle| settle.get_ref().0),
        };
        let services = lines.services(file.service)?;
        let mut cars = Vec::new();
        let mut names = BTreeSet::new();
        for kind in file.cars {
            let service = kind.service.clone();
            let kind = lines.cars(kind, &services, &table)?;
            for name in kind.names(names.len()) {
                if names.len() == MOST {
                    return lines.refuse(&service, format!("there are more than {MOST} cars"));
                }
                if !names.insert(name.clone()) {
                    return lines.refuse(&service, format!("there are two cars {name}"));
                }
            }
            cars.push(kind);
        }
        if cars.is_empty() {
            bail!("nobody drives: it needs at least one [[cars]]");
        }
        let faults = file.fault.into_iter().map(|fault| lines.fault(fault, duration));
        Ok(Scenario {
            name: name.to_owned(),
            text: text.to_owned(),
            duration,
            settle,
            rate: file.nodes.link,
            settings: file.nodes.settings,
            nodes: lines.places(file.node)?,
            links: lines.links(file.link)?,
            services,
            cars,
            faults: faults.collect::<Result<_>>()?,
            checks: lines.checks(file.checks)?,
        })
    }
}

impl Cars {
    /// What they are called when so many others come before them.
    pub(crate) fn names(&self, before: usize) -> Vec<String> {
        match &self.courses {
            Courses::Shuttle { count, .. } => (1..=*count)
                .map(|index| format!("car{}", before + index))
                .collect(),
            Courses::Routes(routes) => routes.iter().map(|(id, _)| id.clone()).collect(),
        }
    }
}

/// The text, to tell where in it something is wrong.
struct Lines<'a> {
    text: &'a str,
    nodes: usize,
}

impl Lines<'_> {
    fn of<T>(&self, at: &Spanned<T>) -> usize {
        let before = self.text.get(..at.span().start).unwrap_or_default();
        before.matches('\n').count() + 1
    }

    fn refuse<T, R>(&self, at: &Spanned<T>, why: impl std::fmt::Display) -> Result<R> {
        bail!("line {}: {why}", self.of(at))
    }

    fn node(&self, number: &Spanned<usize>) -> Result<usize> {
        let wanted = *number.get_ref();
        if (1..=self.nodes).contains(&wanted) {
            return Ok(wanted);
        }
        self.refuse(
            number,
            format!("there is no node {wanted}: nodes.count is {}", self.nodes),
        )
    }

    fn services(&self, tables: Vec<ServiceTable>) -> Result<Vec<Service>> {
        if tables.is_empty() {
            return Ok(vec![Service {
                name: "counter".to_owned(),
                stateless: false,
                settings: Table::new(),
            }]);
        }
        let mut services: Vec<Service> = Vec::new();
        for table in tables {
            let name = table.name.get_ref().clone();
            if services.iter().any(|service| service.name == name) {
                return self.refuse(&table.name, format!("there are two services {name}"));
            }
            services.push(Service {
                name,
                stateless: table.stateless,
                settings: table.settings,
            });
        }
        Ok(services)
    }

    fn places(&self, tables: Vec<NodeTable>) -> Result<Vec<Place>> {
        let mut places = vec![Place::default(); self.nodes];
        let mut numbers = BTreeSet::new();
        for table in tables {
            let number = self.node(&table.number)?;
            if !numbers.insert(number) {
                return self.refuse(&table.number, format!("there are two tables of node {number}"));
            }
            if let Some(radius) = table
                .radius
                .as_ref()
                .filter(|radius| !positive(*radius.get_ref()))
            {
                return self.refuse(radius, "a radius lies above 0");
            }
            let location = table.location.map(|location| {
                let read = coordinates(location.get_ref());
                read.or_else(|error| self.refuse(&location, format!("{error:#}")))
            });
            places[number - 1] = Place {
                location: location.transpose()?,
                radius: table.radius.map(Spanned::into_inner),
                settings: table.settings,
            };
        }
        Ok(places)
    }

    fn links(&self, tables: Vec<LinkTable>) -> Result<Vec<Link>> {
        let mut links: Vec<Link> = Vec::new();
        for table in tables {
            let node = self.node(&table.node)?;
            if links.iter().any(|link| link.node == node) {
                return self.refuse(&table.node, format!("there are two tables of node {node}'s link"));
            }
            let quality = Quality {
                delay_ms: table.delay.0,
                jitter_ms: table.jitter.0,
                loss: table.loss,
                cut: false,
            };
            links.push(Link {
                node,
                rate: table.rate,
                quality: LinkQuality {
                    up: quality,
                    down: quality,
                },
            });
        }
        Ok(links)
    }

    fn checks(&self, table: ChecksTable) -> Result<Limits> {
        if let Some(least) = &table.moves_per_second
            && !positive(*least.get_ref())
        {
            return self.refuse(least, "moves a second lie above 0");
        }
        if let Some(share) = &table.answered
            && !(0.0..=1.0).contains(share.get_ref())
        {
            return self.refuse(share, "a share lies between 0 and 1");
        }
        Ok(Limits {
            moves_per_second: table.moves_per_second.map(Spanned::into_inner),
            answered: table.answered.map(Spanned::into_inner),
        })
    }

    fn cars(
        &self,
        table: CarsTable,
        services: &[Service],
        read: impl Fn(&str) -> Result<String>,
    ) -> Result<Cars> {
        let wanted = table.service.get_ref();
        let Some(service) = services.iter().find(|service| service.name == *wanted) else {
            let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            return self.refuse(
                &table.service,
                format!("there is no service {wanted}, but {}", names.join(", ")),
            );
        };
        if !(1..=MOST_REQUESTS).contains(table.rate.get_ref()) {
            return self.refuse(
                &table.rate,
                format!("a car sends 1 to {MOST_REQUESTS} requests a second"),
            );
        }
        let state_bytes = table.state_bytes.as_ref().map_or(0, |bytes| *bytes.get_ref());
        if let Some(bytes) = table.state_bytes.filter(|_| state_bytes > MOST_STATE) {
            return self.refuse(&bytes, format!("a container is given at most {MOST_STATE} bytes"));
        }
        if service.stateless && state_bytes > 0 {
            return self.refuse(&table.service, "a stateless service has no state_bytes");
        }
        let courses = match (&table.routes, table.count, table.speed) {
            (Some(routes), None, None) => {
                let name = routes.get_ref();
                let all = read(name).and_then(|text| route::table(&text).with_context(|| name.clone()));
                let all = all.or_else(|error| self.refuse(routes, format!("{error:#}")))?;
                Courses::Routes(all)
            }
            (Some(routes), ..) => return self.refuse(routes, "with routes there is neither count nor speed"),
            (None, Some(count), Some(speed)) => {
                if !(positive(*speed.get_ref()) && *speed.get_ref() <= FASTEST) {
                    let why = format!("a speed lies above 0 and is at most {FASTEST} metres a second");
                    return self.refuse(&speed, why);
                }
                if !(1..=MOST).contains(count.get_ref()) {
                    return self.refuse(&count, format!("1 to {MOST} cars"));
                }
                Courses::Shuttle {
                    count: count.into_inner(),
                    speed: speed.into_inner(),
                }
            }
            _ => return self.refuse(&table.service, "cars have either count and speed, or routes"),
        };
        Ok(Cars {
            service: service.name.clone(),
            stateless: service.stateless,
            rate: table.rate.into_inner(),
            state_bytes,
            courses,
        })
    }

    fn fault(&self, table: FaultTable, duration: Duration) -> Result<Fault> {
        let lasts = table.lasts.get_ref().0;
        if lasts.is_zero() {
            return self.refuse(&table.lasts, "a fault lasts some time");
        }
        let (between, times) = match (&table.at, &table.between, &table.times) {
            (Some(at), None, None) => ((at.get_ref().0, at.get_ref().0), 1),
            (Some(at), None, Some(_)) => return self.refuse(at, "times is for a fault with between"),
            (None, Some(between), times) => {
                let [first, last] = *between.get_ref();
                if first.0 >= last.0 {
                    return self.refuse(between, "the second time is not after the first");
                }
                let count = times.as_ref().map_or(1, |times| *times.get_ref());
                if let Some(times) = times.as_ref().filter(|_| count == 0) {
                    return self.refuse(times, "a fault happens at least once");
                }
                ((first.0, last.0), count)
            }
            _ => return self.refuse(&table.kind, "a fault has either at or between"),
        };
        if between.1 + lasts > duration {
            return self.refuse(&table.lasts, format!("it may last beyond the end ({duration:?})"));
        }
        let nodes = match table.nodes {
            None => (1..=self.nodes).collect(),
            Some(nodes) if nodes.is_empty() => return self.refuse(&table.kind, "nodes is empty"),
            Some(nodes) => {
                let mut found = Vec::new();
                for number in &nodes {
                    let node = self.node(number)?;
                    if found.contains(&node) {
                        return self.refuse(number, format!("node {node} is named twice"));
                    }
                    found.push(node);
                }
                found
            }
        };
        Ok(Fault {
            line: self.of(&table.kind),
            kind: *table.kind.get_ref(),
            nodes,
            between,
            lasts,
            times,
        })
    }
}

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn coordinates(text: &str) -> Result<(f64, f64)> {
    let wanted = || format!("{text:?}: write latitude and longitude in degrees as \"37.45,126.65\"");
    let (latitude, longitude) = text.split_once(',').with_context(wanted)?;
    place(latitude, longitude).with_context(wanted)
}

#[cfg(test)]
mod tests;
