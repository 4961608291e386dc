//! Where a car is at each time: back and forth past some places, or as a table says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::car::FASTEST;
use crate::road::{distance_m, place};

/// The first line of a table of routes.
const HEADER: &str = "time,id,lat,lon";

/// The latest time of a table, in seconds.
const LATEST: f64 = 1e9;

/// Seconds since the start, and latitude and longitude in degrees.
type Point = (f64, (f64, f64));

/// A way in time: straight lines between points.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Rising in time. Never empty.
    points: Vec<Point>,
    /// Seconds of it that lie behind the car when it starts; for a route that begins anew at its end.
    begun: Option<f64>,
}

impl Route {
    /// Back and forth past these places, in their order, at so many metres a second. `phase` of the whole way there and
    /// back, 0 to 1, lies behind the car when it starts. None without a place, or with a speed that is none.
    pub fn shuttle(places: &[(f64, f64)], speed: f64, phase: f64) -> Option<Route> {
        let first = *places.first()?;
        if !(speed > 0.0 && speed.is_finite()) {
            return None;
        }
        let back = places.iter().rev().skip(1);
        let mut points = vec![(0.0, first)];
        let (mut at, mut here) = (0.0, first);
        for there in places.iter().skip(1).chain(back) {
            at += distance_m(here, *there) / speed;
            here = *there;
            points.push((at, here));
        }
        Some(Route {
            points,
            begun: Some(phase.clamp(0.0, 1.0) * at),
        })
    }

    /// Where the car is so many seconds after its start. A route that ends is stood at its end.
    pub fn at(&self, seconds: f64) -> (f64, f64) {
        let (end, last) = self.points[self.points.len() - 1];
        let seconds = match self.begun {
            Some(begun) if end > 0.0 => (begun + seconds) % end,
            _ => seconds,
        };
        let next = self.points.partition_point(|(at, _)| *at <= seconds);
        let Some((after, there)) = self.points.get(next) else {
            return last;
        };
        let Some((before, here)) = next.checked_sub(1).map(|index| self.points[index]) else {
            return *there;
        };
        let part = (seconds - before) / (after - before);
        let between = |a: f64, b: f64| a + (b - a) * part;
        (between(here.0, there.0), between(here.1, there.1))
    }
}

/// Reads a table with the columns `time,id,lat,lon`: seconds since the start, whose route it is, and degrees. Gives the
/// routes by their ids, in the order in which they first appear.
///
/// # Errors
/// A line is none of such a table, or a car's times do not rise, or it would have to be faster than nodes believe; the text
/// names the line.
pub fn table(text: &str) -> Result<Vec<(String, Route)>> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()));
    match lines.next() {
        Some((_, header)) if header.eq_ignore_ascii_case(HEADER) => {}
        _ => bail!("line 1: a table of routes begins with the line {HEADER}"),
    }
    let mut order: Vec<(String, Vec<Point>)> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let (id, point) = row(line).with_context(|| format!("line {number}"))?;
        let index = *known.entry(id.to_owned()).or_insert(order.len());
        if index == order.len() {
            order.push((id.to_owned(), Vec::new()));
        }
        let points = &mut order[index].1;
        if let Some((before, here)) = points.last() {
            if *before >= point.0 {
                bail!("line {number}: the times of {id} do not rise");
            }
            let speed = distance_m(*here, point.1) / (point.0 - before);
            if speed > FASTEST {
                bail!(
                    "line {number}: {id} would have to drive at {speed:.0} metres a second to be there then; nodes believe in {FASTEST} at most"
                );
            }
        }
        points.push(point);
    }
    if order.is_empty() {
        bail!("the table has no routes");
    }
    let routes = order.into_iter().map(|(id, points)| {
        let route = Route { points, begun: None };
        (id, route)
    });
    Ok(routes.collect())
}

fn row(line: &str) -> Result<(&str, Point)> {
    let words: Vec<&str> = line.split(',').map(str::trim).collect();
    let [time, id, latitude, longitude] = words[..] else {
        bail!("{line:?} has not four columns ({HEADER})");
    };
    if id.is_empty() {
        bail!("the id is empty");
    }
    let at: f64 = time.parse().with_context(|| format!("time {time:?}"))?;
    if !(0.0..=LATEST).contains(&at) {
        bail!("the time {time} does not lie between 0 and {LATEST} seconds");
    }
    Ok((id, (at, place(latitude, longitude)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::road::{location, metres, stand};

    #[test]
    fn shuttle_goes_there_and_back_and_begins_where_it_is_told() {
        let places = [1, 2, 3].map(|number| location(stand(number)));
        let route = Route::shuttle(&places, 20.0, 0.0).unwrap();
        // The distance of two stands is 500 m to within a few centimetres.
        for (seconds, expected) in [
            (0.0, 0.0),
            (10.0, 200.0),
            (50.0, 1000.0),
            (60.0, 800.0),
            (110.0, 200.0),
        ] {
            let at = metres(route.at(seconds));
            assert!((at - expected).abs() < 1.0, "{seconds}: {at}");
        }
        let later = Route::shuttle(&places, 20.0, 0.25).unwrap();
        assert!((metres(later.at(0.0)) - 500.0).abs() < 1.0);
        assert!((metres(later.at(50.0)) - 500.0).abs() < 1.0);
        let one = Route::shuttle(&places[..1], 20.0, 0.7).unwrap();
        assert_eq!(one.at(1e6), places[0]);
        assert_eq!(Route::shuttle(&[], 20.0, 0.0), None);
        assert_eq!(Route::shuttle(&places, 0.0, 0.0), None);
    }

    #[test]
    fn table_gives_each_id_its_route() {
        let text = "time,id,lat,lon\n0,a,37.0,126.0\n5,b,1,2\n\n2000,a,38.0,127.0\n4000,a,38.0,127.0\n";
        let routes = table(text).unwrap();
        let ids: Vec<&str> = routes.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        let (a, b) = (&routes[0].1, &routes[1].1);
        assert_eq!(a.at(0.0), (37.0, 126.0));
        assert_eq!(a.at(1000.0), (37.5, 126.5));
        assert_eq!(a.at(3000.0), (38.0, 127.0));
        assert_eq!(a.at(9999.0), (38.0, 127.0));
        // It waits for its first time at its first place.
        assert_eq!((b.at(0.0), b.at(6.0)), ((1.0, 2.0), (1.0, 2.0)));
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        for (text, line) in [
            ("", "line 1"),
            ("id,time,lat,lon\n", "line 1"),
            ("time,id,lat,lon\n", "no routes"),
            ("time,id,lat,lon\n0,a,1\n", "line 2"),
            ("time,id,lat,lon\n0,a,1,2,3\n", "line 2"),
            ("time,id,lat,lon\n0,a,1,2\nx,a,1,2\n", "line 3"),
            ("time,id,lat,lon\n0,a,91,2\n", "line 2"),
            ("time,id,lat,lon\n-1,a,1,2\n", "line 2"),
            ("time,id,lat,lon\nNaN,a,1,2\n", "line 2"),
            ("time,id,lat,lon\n0,,1,2\n", "line 2"),
            ("time,id,lat,lon\n3,a,1,2\n3,a,1,3\n", "line 3"),
            // A minute of latitude, 1855 m, in 18 s.
            (
                "time,id,lat,lon\n0,a,1,2\n9,b,50,60\n18,a,1.01667,2\n",
                "line 4: a would have to drive at 103 metres a second",
            ),
        ] {
            let error = format!("{:#}", table(text).unwrap_err());
            assert!(error.contains(line), "{text:?}: {error}");
        }
    }
}
