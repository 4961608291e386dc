//! Which part is hit, in which phase of which migration.

use std::fmt;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;

/// The host whose node is the authority and takes no part in the migrations.
pub(super) const AUTHORITY: usize = 1;
/// The host that each session starts on.
pub(super) const SOURCE: usize = 2;
/// The host that it is moved to.
pub(super) const DESTINATION: usize = 3;

/// What is hit: processes by SIGKILL, the link by silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// The node that gives the session
    Source,
    /// The node that takes it
    Destination,
    /// The engine of the node that gives
    SourceEngine,
    /// The engine of the node that takes
    DestinationEngine,
    /// The authority, which seals blocks
    Authority,
    /// The link between the two nodes; both still reach the authority and the cars
    Link,
}

/// How the session is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Rounds while it runs, then the last of it
    Live,
    /// Stop, commit, transfer, start
    Image,
}

/// A step of a migration, as one of the two nodes logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The destination asks for the container's metadata
    Announce,
    /// The source takes a claim
    Claim,
    /// The destination gets what it lacks of the base
    Stage,
    /// The destination copies while the source serves
    Precopy,
    /// The source lets requests end
    Drain,
    /// The source stops its container
    Stop,
    /// The source looks at what changed last
    Last,
    /// The source makes an image of its container
    Commit,
    /// The destination gets the rest
    Transfer,
    /// The destination holds the whole state and says so
    Applied,
    /// The source has signed the session away
    Signed,
    /// The destination has written that down
    Acquired,
    /// The destination serves
    Serving,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What is hit.
    pub component: Component,
    /// When.
    pub phase: Phase,
    /// In which kind of migration.
    pub method: Method,
}

impl Method {
    /// Its phases, in order.
    pub fn phases(self) -> &'static [Phase] {
        use Phase::*;
        match self {
            Method::Live => &[
                Announce, Claim, Stage, Precopy, Drain, Stop, Last, Transfer, Applied, Signed, Acquired,
                Serving,
            ],
            Method::Image => &[
                Announce, Claim, Stage, Drain, Stop, Commit, Transfer, Applied, Signed, Acquired, Serving,
            ],
        }
    }

    /// The phase that lasts as long as the layer is heavy.
    fn longest(self) -> Phase {
        match self {
            Method::Live => Phase::Precopy,
            Method::Image => Phase::Transfer,
        }
    }
}

impl Cell {
    /// All cells of these components and phases, a component after the other; all of them where nothing is chosen.
    ///
    /// # Errors
    /// A phase is none of that method's.
    pub fn all(method: Method, components: &[Component], phases: &[Phase]) -> Result<Vec<Cell>> {
        if let Some(phase) = phases.iter().find(|phase| !method.phases().contains(phase)) {
            let known: Vec<String> = method.phases().iter().map(Phase::to_string).collect();
            bail!(
                "a {method} migration has no phase {phase}; it has {}",
                known.join(", ")
            );
        }
        let components = if components.is_empty() {
            Component::value_variants()
        } else {
            components
        };
        let phases = if phases.is_empty() {
            method.phases()
        } else {
            phases
        };
        let cells = components.iter().flat_map(|component| {
            phases.iter().map(|phase| Cell {
                component: *component,
                phase: *phase,
                method,
            })
        });
        Ok(cells.collect())
    }

    /// The host whose log tells the phase.
    pub fn told_by(&self) -> usize {
        match self.phase {
            Phase::Claim | Phase::Drain | Phase::Stop | Phase::Last | Phase::Commit | Phase::Signed => SOURCE,
            _ => DESTINATION,
        }
    }

    /// The host through which the car asks: one whose node lives. Where it can be either it is the source: a destination
    /// that is asked for long would want the session by itself, whatever was ordered.
    pub fn asked(&self) -> usize {
        match self.component {
            Component::Source | Component::Authority => DESTINATION,
            _ => SOURCE,
        }
    }

    /// Whether the phase lasts for seconds: then it is hit in its middle, not at its beginning.
    pub fn is_long(&self) -> bool {
        self.phase == self.method.longest()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.component, self.phase)
    }
}

/// The words of the command line, which are those of the log and of the document.
macro_rules! worded {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.pad(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}

worded!(Component, Method, Phase);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_meets_every_phase() {
        let all = Cell::all(Method::Image, &[], &[]).unwrap();
        assert_eq!(all.len(), 6 * 11);
        let some = Cell::all(Method::Live, &[Component::Link], &[Phase::Last, Phase::Signed]).unwrap();
        assert_eq!(
            some.iter().map(Cell::to_string).collect::<Vec<_>>(),
            ["link in last", "link in signed"]
        );
    }

    #[test]
    fn a_phase_of_another_method_is_refused() {
        let error = Cell::all(Method::Image, &[], &[Phase::Precopy]).unwrap_err();
        assert!(error.to_string().contains("has no phase precopy"), "{error}");
    }

    #[test]
    fn the_car_never_asks_what_is_dead() {
        for method in Method::value_variants() {
            for cell in Cell::all(*method, &[], &[]).unwrap() {
                let dead = match cell.component {
                    Component::Source => SOURCE,
                    Component::Destination => DESTINATION,
                    _ => continue,
                };
                assert_ne!(cell.asked(), dead, "{cell}");
            }
        }
    }
}
