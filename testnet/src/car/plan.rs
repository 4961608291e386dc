//! What a car is told to do.

use std::net::SocketAddr;

use crate::oracle::Hears;
use crate::road::stand;
use crate::route::Route;
use crate::state::State;

/// The most requests a second: each is a task of its own.
pub const MOST_REQUESTS: u32 = 1000;
/// The highest speed, metres a second: nodes do not believe in faster cars.
pub const FASTEST: f64 = 100.0;
/// The most bytes that a session's container holds from the start: the counter takes no more at a time.
pub const MOST_STATE: u64 = 1 << 30;
/// How many requests may fail before a car of many gives up opening its session.
pub const OPENINGS: u32 = 20;

/// What a car does.
#[derive(Clone, Debug)]
pub struct CarPlan {
    /// Where requests go, such as `/counter/`: the first segment names the service.
    pub path: String,
    /// No session is opened, so no request waits for the first one's answer.
    pub stateless: bool,
    /// Requests a second.
    pub rate: u32,
    /// Where it starts, in metres along the road.
    pub start: f64,
    /// Metres a second.
    pub speed: f64,
    /// Where it is at each time, instead of start, speed and being sent from place to place.
    pub route: Option<Route>,
    /// The gateways along the road.
    pub nodes: Vec<Roadside>,
    /// How many requests may fail before it gives up opening a session.
    pub openings: u32,
    /// Incompressible bytes that its session's container holds from the start, on top of what it writes.
    pub state_bytes: u64,
    /// The oracle that hears what the car was told is done.
    pub oracle: Option<Hears>,
}

impl CarPlan {
    /// A car of a stateful service that stands at the beginning of the road.
    pub fn at(path: &str, nodes: Vec<Roadside>) -> CarPlan {
        CarPlan {
            path: path.to_owned(),
            stateless: false,
            rate: 1,
            start: stand(1),
            speed: 0.0,
            route: None,
            nodes,
            openings: 1,
            state_bytes: 0,
            oracle: None,
        }
    }

    /// A car of the demo's stateful service that starts at the first host and knows all of them.
    pub fn past(state: &State, rate: u32, speed: f64) -> CarPlan {
        CarPlan {
            rate,
            speed,
            ..CarPlan::at("/counter/", Roadside::all(state))
        }
    }
}

/// One node as a car knows it.
#[derive(Clone, Debug)]
pub struct Roadside {
    /// Where it stands: latitude and longitude in degrees.
    pub location: (f64, f64),
    /// Its gateway.
    pub gateway: SocketAddr,
}

impl Roadside {
    /// The nodes of a testnet, in their order.
    pub fn all(state: &State) -> Vec<Roadside> {
        let nodes = state.hosts.iter().map(|host| Roadside {
            location: host.location,
            gateway: SocketAddr::from((host.address, host.ports.gateway)),
        });
        nodes.collect()
    }
}
