//! Positions as people write them: `LAT,LON` in degrees.

use std::fmt;
use std::str::FromStr;

use blosm_ledger::Location;
use serde::{Deserialize, Deserializer};

/// A WGS84 position in whole 1e-7 degrees (about a centimetre), written `LAT,LON`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coordinates {
    /// Latitude in 1e-7 degrees, -90 to 90 degrees.
    pub lat_e7: i32,
    /// Longitude in 1e-7 degrees, -180 to 180 degrees.
    pub lon_e7: i32,
}

/// Why a text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatesError {
    /// Not two numbers with a comma between them.
    #[error("expected LAT,LON in degrees, such as 37.4500,126.6500")]
    Form,
    /// A number that no place on earth has.
    #[error("latitude must be -90 to 90 and longitude -180 to 180 degrees")]
    Range,
}

impl Coordinates {
    /// Latitude in degrees.
    pub fn latitude(&self) -> f64 {
        f64::from(self.lat_e7) / E7
    }

    /// Longitude in degrees.
    pub fn longitude(&self) -> f64 {
        f64::from(self.lon_e7) / E7
    }
}

/// Steps per degree.
const E7: f64 = 1e7;

impl FromStr for Coordinates {
    type Err = CoordinatesError;

    fn from_str(text: &str) -> Result<Self, CoordinatesError> {
        let (lat, lon) = text.split_once(',').ok_or(CoordinatesError::Form)?;
        let degrees = |text: &str| text.trim().parse::<f64>().map_err(|_| CoordinatesError::Form);
        let (lat, lon) = (degrees(lat)?, degrees(lon)?);
        // Also false for NaN, which parses as a number.
        if !(lat.abs() <= 90.0 && lon.abs() <= 180.0) {
            return Err(CoordinatesError::Range);
        }
        Ok(Self {
            lat_e7: (lat * E7).round() as i32,
            lon_e7: (lon * E7).round() as i32,
        })
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.latitude(), self.longitude())
    }
}

impl From<Coordinates> for Location {
    fn from(at: Coordinates) -> Self {
        Self {
            lat_e7: at.lat_e7,
            lon_e7: at.lon_e7,
        }
    }
}

impl From<Location> for Coordinates {
    fn from(at: Location) -> Self {
        Self {
            lat_e7: at.lat_e7,
            lon_e7: at.lon_e7,
        }
    }
}

impl<'de> Deserialize<'de> for Coordinates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_steps_agree() {
        let at: Coordinates = "37.4500, -126.65".parse().unwrap();
        assert_eq!(
            at,
            Coordinates {
                lat_e7: 374_500_000,
                lon_e7: -1_266_500_000
            }
        );
        assert_eq!(at.to_string(), "37.45,-126.65");
        assert_eq!(at.to_string().parse(), Ok(at));
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "1", "1;2", "a,b", "1,2,3", "37.45"] {
            assert_eq!(text.parse::<Coordinates>(), Err(CoordinatesError::Form), "{text}");
        }
        for text in ["90.1,0", "0,-180.1", "NaN,0", "inf,0"] {
            assert_eq!(
                text.parse::<Coordinates>(),
                Err(CoordinatesError::Range),
                "{text}"
            );
        }
    }
}
