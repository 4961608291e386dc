//! Algorithm 3: is there room here, who is nearest, and when does a container follow its client?
//!
//! All pure: `now` is passed in, nothing sleeps, nothing reads a clock.
//!
//! * [`Bookings`] is R_rem = R_tot - R_utilised, booked in the same step as the decision, so two
//!   questions at once cannot both be told yes for the last room.
//! * [`nearest_first`] orders members by distance from a position.
//! * [`Mobility`] decides whether a node that relays for a session should claim it.

mod bookings;
mod mobility;
mod position;

pub use bookings::{Amount, BookingKey, Bookings, NoRoom, OFFER_HOLD, Shortage};
pub use mobility::{ClaimReason, Mobility, MobilityPolicy};
pub use position::{NotAPosition, Position, Track, distance_m, nearest_first};
