//! Places on the earth and which of them can be believed.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

/// Mean radius of the earth (IUGG), metres.
const EARTH_RADIUS_M: f64 = 6_371_008.8;
/// Positions that would need a faster client than this are ignored, metres per second.
const MAX_SPEED: f64 = 100.0;
/// What a receiver may be off between two readings, metres: without it two requests in one
/// millisecond would look like a jump.
const JITTER_M: f64 = 15.0;

/// WGS84 degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    latitude: f64,
    longitude: f64,
}

/// The text is not `LAT,LON` in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position: write LAT,LON in degrees, for example 37.4500,126.6500")]
pub struct NotAPosition;

impl Position {
    /// From degrees.
    ///
    /// # Errors
    /// When the latitude is beyond 90, the longitude beyond 180, or either is no number.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, NotAPosition> {
        // NaN lies in no range.
        if (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude) {
            Ok(Self { latitude, longitude })
        } else {
            Err(NotAPosition)
        }
    }

    /// From tenths of a millionth of a degree, as the ledger keeps locations.
    ///
    /// # Errors
    /// As for [`Position::new`].
    pub fn from_e7(latitude: i32, longitude: i32) -> Result<Self, NotAPosition> {
        Self::new(f64::from(latitude) / 1e7, f64::from(longitude) / 1e7)
    }

    /// Latitude and longitude in tenths of a millionth of a degree.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "180e7 fits in i32")]
    pub fn to_e7(self) -> (i32, i32) {
        (
            (self.latitude * 1e7).round() as i32,
            (self.longitude * 1e7).round() as i32,
        )
    }

    /// Degrees north.
    #[must_use]
    pub fn latitude(&self) -> f64 {
        self.latitude
    }

    /// Degrees east.
    #[must_use]
    pub fn longitude(&self) -> f64 {
        self.longitude
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        if text.len() > 64 {
            return Err(NotAPosition);
        }
        let (latitude, longitude) = text.split_once(',').ok_or(NotAPosition)?;
        let number = |part: &str| part.trim().parse::<f64>().map_err(|_| NotAPosition);
        Self::new(number(latitude)?, number(longitude)?)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.7},{:.7}", self.latitude, self.longitude)
    }
}

/// Great-circle distance in metres (haversine on the mean sphere: off by at most 0.5 %).
#[must_use]
pub fn distance_m(a: Position, b: Position) -> f64 {
    let (lat_a, lat_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half_lat = ((lat_b - lat_a) / 2.0).sin();
    let half_lon = ((b.longitude - a.longitude).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lon * half_lon;
    2.0 * EARTH_RADIUS_M * h.sqrt().min(1.0).asin()
}

/// Members by distance from a position, nearest first; equal distances by key, so that every node
/// names the same one.
#[must_use]
pub fn nearest_first<K: Ord + Clone>(members: &[(K, Position)], from: Position) -> Vec<(K, f64)> {
    let mut sorted: Vec<(K, f64)> = members
        .iter()
        .map(|(key, position)| (key.clone(), distance_m(from, *position)))
        .collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    sorted
}

/// The believable positions of one client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Track {
    last: Option<(Instant, Position)>,
}

impl Track {
    /// Takes a position unless it lies further from the last one than a car can drive in that time.
    /// Returns whether it was taken. The longer nothing was taken, the more is believed, so a client
    /// whose first position was wrong is not lost for ever.
    pub fn observe(&mut self, now: Instant, position: Position) -> bool {
        if let Some((at, last)) = self.last {
            let seconds = now.saturating_duration_since(at).as_secs_f64();
            if distance_m(last, position) > MAX_SPEED * seconds + JITTER_M {
                return false;
            }
        }
        self.last = Some((now, position));
        true
    }

    /// The last position that was believed.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.last.map(|(_, position)| position)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn positions_are_read_strictly() {
        for good in ["0,0", "37.45,126.65", " -90 , 180 ", "37.4500,-126.6500"] {
            assert!(good.parse::<Position>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "1",
            "1,2,3",
            "91,0",
            "0,181",
            "NaN,0",
            "inf,0",
            "a,b",
            &"1".repeat(70),
        ] {
            assert_eq!(bad.parse::<Position>(), Err(NotAPosition), "{bad}");
        }
        assert_eq!(at("37.45,126.65").to_e7(), (374_500_000, 1_266_500_000));
        assert!(Position::from_e7(i32::MAX, 0).is_err());
    }

    #[test]
    fn distances_match_known_ones() {
        // A degree of the equator is 2 pi R / 360.
        assert!((distance_m(at("0,0"), at("0,1")) - 111_195.08).abs() < 1.0);
        assert!((distance_m(at("90,0"), at("-90,0")) - std::f64::consts::PI * EARTH_RADIUS_M).abs() < 1.0);
        // Across the date line it is near.
        assert!(distance_m(at("0,179.9999"), at("0,-179.9999")) < 30.0);
        assert!(distance_m(at("37.45,126.65"), at("37.45,126.65")).abs() < f64::EPSILON);
    }

    #[test]
    fn nearest_comes_first_and_ties_are_the_same_everywhere() {
        let members = [("c", at("0,2")), ("b", at("0,1")), ("a", at("0,1"))];
        let order: Vec<_> = nearest_first(&members, at("0,0"))
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(order, ["a", "b", "c"]);
    }

    #[test]
    fn jumps_are_not_believed_until_time_has_passed() {
        let start = Instant::now();
        let mut track = Track::default();
        assert!(track.observe(start, at("0,0")));
        // About 1.1 km in one second.
        assert!(!track.observe(start + Duration::from_secs(1), at("0,0.01")));
        assert_eq!(track.position(), Some(at("0,0")));
        // The same place after 12 seconds is 93 m/s.
        assert!(track.observe(start + Duration::from_secs(12), at("0,0.01")));
        // Jitter within one instant is fine.
        assert!(track.observe(start + Duration::from_secs(12), at("0,0.0101")));
    }
}
