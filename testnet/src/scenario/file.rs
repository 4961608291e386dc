//! The scenario's file: read, and checked against itself. Whatever is wrong is told with its line.

mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use toml::{Spanned, Table};

use crate::hosts::{LinkQuality, MAX_SEATS, Quality, Rate};
use crate::route::{self, Route};
use table::{CarsTable, FaultTable, File, LinkTable, NodeTable, ServiceTable, Time};

pub use table::{Kind, Limits};

/// A scenario whose parts fit together.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name, without folders and ending.
    pub name: String,
    /// How long cars drive and things go wrong.
    pub duration: Duration,
    /// How long cars drive on afterwards, when nothing goes wrong any more.
    pub settle: Duration,
    /// The capacity of each node's link.
    pub rate: Rate,
    /// Laid over every node's configuration.
    pub settings: Table,
    /// Where each node stands, and what is laid over its configuration alone.
    pub nodes: Vec<Place>,
    /// Links that are worse than their rate.
    pub links: Vec<Link>,
    /// What the nodes declare.
    pub services: Vec<Service>,
    /// Who drives.
    pub cars: Vec<Cars>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What the run has to reach, beside what has to hold always.
    pub checks: Limits,
}

/// Where a node is another than its neighbours.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Latitude and longitude in degrees; none: the next place along the road.
    pub location: Option<(f64, f64)>,
    /// What it covers, in metres.
    pub radius: Option<f64>,
    /// Laid over its configuration.
    pub settings: Table,
}

/// A link that is worse than the others.
#[derive(Clone, Debug)]
pub struct Link {
    /// Whose.
    pub node: usize,
    /// Its own capacity, if it has one.
    pub rate: Option<Rate>,
    /// What it does to packets, both ways.
    pub quality: LinkQuality,
}

/// A service that the nodes declare.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, the first segment of a request's path.
    pub name: String,
    /// Any container answers any request; nobody's session.
    pub stateless: bool,
    /// Laid over the declaration of the demo's counter.
    pub settings: Table,
}

/// Cars of one kind.
#[derive(Clone, Debug)]
pub struct Cars {
    /// The service that they ask.
    pub service: String,
    /// It is a stateless one.
    pub stateless: bool,
    /// Requests a second of each.
    pub rate: u32,
    /// What each one's container carries from the start, in bytes.
    pub state_bytes: u64,
    /// How many, and where.
    pub courses: Courses,
}

/// Where cars drive.
#[derive(Clone, Debug)]
pub enum Courses {
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
pub struct Fault {
    /// The line in the file, for messages.
    pub line: usize,
    /// What.
    pub kind: Kind,
    /// With which nodes: one of these, each time.
    pub nodes: Vec<usize>,
    /// When at the earliest and at the latest.
    pub between: (Duration, Duration),
    /// For how long.
    pub lasts: Duration,
    /// How often.
    pub times: usize,
}

impl Scenario {
    /// Reads the file, and the tables of routes that it names beside it.
    ///
    /// # Errors
    /// It cannot be read, or is no scenario; the text names the file and, where there is one, the line.
    pub fn read(file: &Path) -> Result<Scenario> {
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
    pub fn parse(name: &str, text: &str, table: impl Fn(&str) -> Result<String>) -> Result<Scenario> {
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
        let services = lines.services(file.service)?;
        let cars = file
            .cars
            .into_iter()
            .map(|cars| lines.cars(cars, &services, &table));
        let cars = cars.collect::<Result<Vec<_>>>()?;
        if cars.is_empty() {
            bail!("nobody drives: it needs at least one [[cars]]");
        }
        let faults = file.fault.into_iter().map(|fault| lines.fault(fault, duration));
        Ok(Scenario {
            name: name.to_owned(),
            duration,
            settle: file.settle.0,
            rate: file.nodes.link,
            settings: file.nodes.settings,
            nodes: lines.places(file.node)?,
            links: file
                .link
                .into_iter()
                .map(|link| lines.link(link))
                .collect::<Result<_>>()?,
            services,
            cars,
            faults: faults.collect::<Result<_>>()?,
            checks: file.checks,
        })
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
        for table in tables {
            let number = self.node(&table.number)?;
            if let Some(radius) = table
                .radius
                .as_ref()
                .filter(|radius| !positive(*radius.get_ref()))
            {
                return self.refuse(radius, "a radius lies above 0");
            }
            let location = table.location.map(|location| {
                let read = coordinates(location.get_ref());
                read.or_else(|error| self.refuse(&location, error))
            });
            places[number - 1] = Place {
                location: location.transpose()?,
                radius: table.radius.map(Spanned::into_inner),
                settings: table.settings,
            };
        }
        Ok(places)
    }

    fn link(&self, table: LinkTable) -> Result<Link> {
        let millis =
            |time: Option<Time>| time.map_or(0, |time| time.0.as_millis().try_into().unwrap_or(u32::MAX));
        let quality = Quality {
            delay_ms: millis(table.delay),
            jitter_ms: millis(table.jitter),
            loss: table.loss,
            cut: false,
        };
        Ok(Link {
            node: self.node(&table.node)?,
            rate: table.rate,
            quality: LinkQuality {
                up: quality,
                down: quality,
            },
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
        if *table.rate.get_ref() == 0 {
            return self.refuse(&table.rate, "a car sends at least one request a second");
        }
        if service.stateless && table.state_bytes > 0 {
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
                if !positive(*speed.get_ref()) {
                    return self.refuse(&speed, "a speed lies above 0 metres a second");
                }
                if *count.get_ref() == 0 {
                    return self.refuse(&count, "at least one car");
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
            state_bytes: table.state_bytes,
            courses,
        })
    }

    fn fault(&self, table: FaultTable, duration: Duration) -> Result<Fault> {
        let lasts = table.lasts.get_ref().0;
        if lasts.is_zero() {
            return self.refuse(&table.lasts, "a fault lasts some time");
        }
        let (between, times) = match (&table.at, &table.between, table.times) {
            (Some(at), None, None) => ((at.get_ref().0, at.get_ref().0), 1),
            (Some(at), None, Some(_)) => return self.refuse(at, "times is for a fault with between"),
            (None, Some(between), times) => {
                let [first, last] = *between.get_ref();
                if first.0 >= last.0 {
                    return self.refuse(between, "the second time is not after the first");
                }
                ((first.0, last.0), times.unwrap_or(1))
            }
            _ => return self.refuse(&table.kind, "a fault has either at or between"),
        };
        if between.1 + lasts > duration {
            return self.refuse(&table.lasts, format!("it may last beyond the end ({duration:?})"));
        }
        let nodes = match table.nodes {
            None => (1..=self.nodes).collect(),
            Some(nodes) if nodes.is_empty() => return self.refuse(&table.kind, "nodes is empty"),
            Some(nodes) => nodes
                .iter()
                .map(|number| self.node(number))
                .collect::<Result<_>>()?,
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
    let place: (f64, f64) = (
        latitude.trim().parse().with_context(wanted)?,
        longitude.trim().parse().with_context(wanted)?,
    );
    if (-90.0..=90.0).contains(&place.0) && (-180.0..=180.0).contains(&place.1) {
        Ok(place)
    } else {
        bail!(wanted())
    }
}

#[cfg(test)]
mod tests;
