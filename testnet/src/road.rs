//! The road: nodes along a straight line from west to east, and positions on it.

use anyhow::{Context, Result, bail};

/// Metres between two neighbouring nodes.
pub const SPACING_M: f64 = 500.0;
/// What each node covers: neighbours overlap a little.
pub const RADIUS_M: f64 = 300.0;
/// The road's latitude, and the longitude where it begins, in degrees.
const START: (f64, f64) = (37.45, 126.65);
/// Metres per degree of latitude, on a sphere of the Earth's mean radius.
const METRES_PER_DEGREE: f64 = 111_195.0;

/// Where along the road the node of a host stands, in metres; hosts count from 1.
pub fn stand(number: usize) -> f64 {
    (number.max(1) - 1) as f64 * SPACING_M
}

/// Latitude and longitude of a place along the road.
pub fn location(metres: f64) -> (f64, f64) {
    let (latitude, longitude) = START;
    (
        latitude,
        longitude + metres / (METRES_PER_DEGREE * latitude.to_radians().cos()),
    )
}

/// A place by its latitude and longitude in degrees, as they are written.
///
/// # Errors
/// One of them is no number, or lies beyond the Earth's.
pub fn place(latitude: &str, longitude: &str) -> Result<(f64, f64)> {
    let degrees = |text: &str, most: f64| -> Result<f64> {
        let value: f64 = text.trim().parse().with_context(|| format!("{text:?}"))?;
        if value.abs() <= most {
            Ok(value)
        } else {
            bail!("{text} does not lie between -{most} and {most} degrees")
        }
    };
    let latitude = degrees(latitude, 90.0).context("latitude")?;
    Ok((latitude, degrees(longitude, 180.0).context("longitude")?))
}

/// How far along the road a place is, in metres: what [`location`] came from.
pub fn metres(place: (f64, f64)) -> f64 {
    let (latitude, longitude) = START;
    (place.1 - longitude) * METRES_PER_DEGREE * latitude.to_radians().cos()
}

/// Metres between two places, as a bird flies.
pub fn distance_m(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dlat, dlon) = ((b.0 - a.0).to_radians(), (b.1 - a.1).to_radians());
    let h = (dlat / 2.0).sin().powi(2)
        + a.0.to_radians().cos() * b.0.to_radians().cos() * (dlon / 2.0).sin().powi(2);
    2.0 * METRES_PER_DEGREE.to_degrees() * h.sqrt().min(1.0).asin()
}

/// A car's motion: towards a target at a constant speed.
#[derive(Clone, Copy, Debug)]
pub struct Motion {
    /// Metres along the road.
    pub position: f64,
    /// Where it drives to.
    pub target: f64,
    /// Metres per second.
    pub speed: f64,
}

impl Motion {
    /// Drives on for that many seconds.
    pub fn advance(&mut self, seconds: f64) {
        let left = self.target - self.position;
        let step = self.speed * seconds;
        self.position = if left.abs() <= step {
            self.target
        } else {
            self.position + step.copysign(left)
        };
    }

    /// Whether it stands at its target.
    pub fn arrived(&self) -> bool {
        self.position == self.target
    }
}

/// Whatever is nearest of some things with their places; of two equally near the first.
pub fn nearest<T>(to: (f64, f64), things: impl Iterator<Item = (T, (f64, f64))>) -> Option<T> {
    let near = things.map(|(thing, place)| (thing, distance_m(to, place)));
    near.min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(thing, _)| thing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn motion_stops_at_its_target_in_both_directions() {
        let mut motion = Motion {
            position: 0.0,
            target: 500.0,
            speed: 20.0,
        };
        motion.advance(10.0);
        assert_eq!(motion.position, 200.0);
        motion.advance(100.0);
        assert!(motion.arrived());
        motion.target = 450.0;
        motion.advance(1.0);
        assert_eq!(motion.position, 480.0);
        motion.advance(2.0);
        assert_eq!(motion.position, 450.0);
    }

    #[test]
    fn nearest_changes_half_way() {
        let stands = || (0..3).map(|index| (index, location(stand(index + 1))));
        for (position, index) in [(0.0, 0), (249.0, 0), (251.0, 1), (760.0, 2), (5000.0, 2)] {
            assert_eq!(nearest(location(position), stands()), Some(index), "{position}");
        }
        let same = [("first", START), ("second", START)];
        assert_eq!(nearest(location(9.0), same.into_iter()), Some("first"));
        assert_eq!(nearest(START, std::iter::empty::<(u8, _)>()), None);
    }

    #[test]
    fn neighbours_are_as_far_apart_as_the_road_says() {
        let (a, b) = (location(stand(1)), location(stand(2)));
        assert!((distance_m(a, b) - SPACING_M).abs() < 1.0, "{}", distance_m(a, b));
        assert!((metres(location(1234.0)) - 1234.0).abs() < 0.001);
        // Along a meridian a degree is a degree.
        let degree = distance_m((37.0, 126.0), (38.0, 126.0));
        assert!((degree - METRES_PER_DEGREE).abs() < 1.0, "{degree}");
    }
}
