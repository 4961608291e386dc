//! The ledger of what is promised on this node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::service::Resources;

/// How long a yes to a neighbour keeps its room without the request arriving.
pub const OFFER_HOLD: Duration = Duration::from_secs(5);

/// An amount of each resource that placement counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Whole GPUs.
    pub gpus: u32,
    /// Bytes of GPU memory.
    pub gpu_memory: u64,
}

impl From<&Resources> for Amount {
    fn from(needs: &Resources) -> Self {
        Self {
            memory: needs.memory,
            cpu_milli: needs.cpu_milli,
            gpus: needs.gpu,
            gpu_memory: needs.gpu_memory,
        }
    }
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            gpus: self.gpus.saturating_add(other.gpus),
            gpu_memory: self.gpu_memory.saturating_add(other.gpu_memory),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            gpus: self.gpus.saturating_sub(other.gpus),
            gpu_memory: self.gpu_memory.saturating_sub(other.gpu_memory),
        }
    }
}

/// Who holds a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BookingKey {
    /// The container of a session (by session id), from the decision to start it until it is gone.
    Session([u8; 32]),
    /// A claim that was accepted here (by attempt), until it is handed over or ends.
    Claim([u8; 16]),
    /// A yes given to a neighbour (by the id of its question).
    Offer(u64),
    /// A container that no session owns: shared by all clients of a stateless service (by a number
    /// of the caller's choice).
    Shared(u64),
}

/// The resource of which there was too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the resource of that name")]
pub enum Shortage {
    Memory,
    Cpu,
    Gpu,
    GpuMemory,
}

/// There is no room for this here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough {shortage:?} left on this node")]
pub struct NoRoom {
    /// The first resource that is short.
    pub shortage: Shortage,
    /// What is left.
    pub remaining: Amount,
}

#[derive(Debug, Clone, Copy)]
struct Booking {
    amount: Amount,
    expires: Option<Instant>,
}

/// R_tot and everything that is promised out of it.
#[derive(Debug, Clone)]
pub struct Bookings {
    total: Amount,
    held: BTreeMap<BookingKey, Booking>,
}

impl Bookings {
    /// An empty book over R_tot (the machine's resources, capped by the configuration).
    #[must_use]
    pub fn new(total: Amount) -> Self {
        Self {
            total,
            held: BTreeMap::new(),
        }
    }

    /// R_tot.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.total
    }

    /// R_utilised: all that is booked and has not expired.
    #[must_use]
    pub fn reserved(&self, now: Instant) -> Amount {
        self.live(now)
            .fold(Amount::default(), |sum, booking| sum.plus(booking.amount))
    }

    /// R_rem = R_tot - R_utilised.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Amount {
        self.total.minus(self.reserved(now))
    }

    /// Asks for room and books it in the same step, until [`Bookings::release`].
    /// Booking a key again replaces its amount.
    ///
    /// # Errors
    /// [`NoRoom`] when REQ_res >= R_rem; the book is unchanged then.
    pub fn book(&mut self, now: Instant, key: BookingKey, amount: Amount) -> Result<(), NoRoom> {
        self.insert(now, key, amount, None)
    }

    /// As [`Bookings::book`], for [`OFFER_HOLD`]: a yes to a neighbour's question.
    ///
    /// # Errors
    /// [`NoRoom`] as for `book`.
    pub fn offer(&mut self, now: Instant, question: u64, amount: Amount) -> Result<(), NoRoom> {
        self.insert(now, BookingKey::Offer(question), amount, Some(now + OFFER_HOLD))
    }

    /// Books without asking: for containers that already run (adoption at start). What runs counts,
    /// whether there is room or not.
    pub fn adopt(&mut self, key: BookingKey, amount: Amount) {
        self.held.insert(
            key,
            Booking {
                amount,
                expires: None,
            },
        );
    }

    /// Passes a booking on to another holder without the room being free in between: an offer that
    /// becomes a session, a claim that becomes its container. False when `from` holds nothing (any
    /// more); the caller then books anew.
    pub fn pass(&mut self, now: Instant, from: BookingKey, to: BookingKey) -> bool {
        match self.held.remove(&from) {
            Some(booking) if booking.expires.is_none_or(|at| at > now) => {
                self.held.insert(
                    to,
                    Booking {
                        expires: None,
                        ..booking
                    },
                );
                true
            }
            _ => false,
        }
    }

    /// Gives room back. Unknown keys are fine: release may be said twice.
    pub fn release(&mut self, key: BookingKey) {
        self.held.remove(&key);
    }

    /// Whether the key holds room now.
    #[must_use]
    pub fn holds(&self, now: Instant, key: BookingKey) -> bool {
        self.held
            .get(&key)
            .is_some_and(|booking| booking.expires.is_none_or(|at| at > now))
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &Booking> {
        self.held
            .values()
            .filter(move |booking| booking.expires.is_none_or(|at| at > now))
    }

    fn insert(
        &mut self,
        now: Instant,
        key: BookingKey,
        amount: Amount,
        expires: Option<Instant>,
    ) -> Result<(), NoRoom> {
        self.held
            .retain(|_, booking| booking.expires.is_none_or(|at| at > now));
        let before = self.held.remove(&key);
        let remaining = self.remaining(now);
        match shortage(amount, remaining) {
            None => {
                self.held.insert(key, Booking { amount, expires });
                Ok(())
            }
            Some(shortage) => {
                if let Some(before) = before {
                    self.held.insert(key, before);
                }
                Err(NoRoom { shortage, remaining })
            }
        }
    }
}

/// Alg. 3, line 12: REQ_res >= R_rem means no room. A resource that is not asked for is never
/// short; GPUs are counted whole, so the last one can be given.
fn shortage(need: Amount, remaining: Amount) -> Option<Shortage> {
    if need.memory > 0 && need.memory >= remaining.memory {
        Some(Shortage::Memory)
    } else if need.cpu_milli > 0 && need.cpu_milli >= remaining.cpu_milli {
        Some(Shortage::Cpu)
    } else if need.gpus > remaining.gpus {
        Some(Shortage::Gpu)
    } else if need.gpu_memory > remaining.gpu_memory {
        Some(Shortage::GpuMemory)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn amount(memory_mib: u64, cpu_milli: u64) -> Amount {
        Amount {
            memory: memory_mib * MIB,
            cpu_milli,
            ..Amount::default()
        }
    }

    fn session(n: u8) -> BookingKey {
        BookingKey::Session([n; 32])
    }

    #[test]
    fn a_request_equal_to_what_remains_finds_no_room() {
        // Alg. 3, line 12 compares with >=.
        let now = Instant::now();
        let mut book = Bookings::new(amount(100, 1000));
        assert_eq!(
            book.book(now, session(1), amount(100, 10)).unwrap_err().shortage,
            Shortage::Memory
        );
        assert_eq!(
            book.book(now, session(1), amount(10, 1000)).unwrap_err().shortage,
            Shortage::Cpu
        );
        assert_eq!(book.reserved(now), Amount::default());
        book.book(now, session(1), amount(99, 999)).unwrap();
        assert_eq!(book.remaining(now), amount(1, 1));
    }

    #[test]
    fn the_last_gpu_can_be_given_once() {
        let now = Instant::now();
        let mut book = Bookings::new(Amount {
            gpus: 1,
            ..amount(100, 1000)
        });
        let need = Amount {
            gpus: 1,
            ..amount(1, 1)
        };
        book.book(now, session(1), need).unwrap();
        assert_eq!(
            book.book(now, session(2), need).unwrap_err().shortage,
            Shortage::Gpu
        );
        book.release(session(1));
        book.book(now, session(2), need).unwrap();
    }

    #[test]
    fn two_questions_at_once_get_one_yes() {
        let now = Instant::now();
        let mut book = Bookings::new(amount(100, 1000));
        book.offer(now, 1, amount(60, 10)).unwrap();
        assert!(book.offer(now, 2, amount(60, 10)).is_err());
    }

    #[test]
    fn an_offer_ends_by_itself_and_can_be_passed_on_until_then() {
        let now = Instant::now();
        let mut book = Bookings::new(amount(100, 1000));
        book.offer(now, 1, amount(60, 10)).unwrap();
        assert!(book.holds(now, BookingKey::Offer(1)));
        assert!(book.pass(now + OFFER_HOLD / 2, BookingKey::Offer(1), session(1)));
        assert!(book.holds(now + OFFER_HOLD * 2, session(1)));

        book.offer(now, 2, amount(30, 10)).unwrap();
        assert!(!book.pass(now + OFFER_HOLD, BookingKey::Offer(2), session(2)));
        assert_eq!(book.reserved(now + OFFER_HOLD), amount(60, 10));
    }

    #[test]
    fn booking_again_replaces_and_a_refusal_leaves_the_old_booking() {
        let now = Instant::now();
        let mut book = Bookings::new(amount(100, 1000));
        book.book(now, session(1), amount(60, 10)).unwrap();
        book.book(now, session(1), amount(90, 10)).unwrap();
        assert!(book.book(now, session(1), amount(100, 10)).is_err());
        assert_eq!(book.reserved(now), amount(90, 10));
    }

    #[test]
    fn what_runs_counts_even_beyond_the_total() {
        let now = Instant::now();
        let mut book = Bookings::new(amount(100, 1000));
        book.adopt(session(1), amount(500, 10));
        assert_eq!(book.remaining(now).memory, 0);
        assert!(book.book(now, session(2), amount(1, 1)).is_err());
        book.release(session(1));
        book.release(session(1));
        book.book(now, session(2), amount(1, 1)).unwrap();
    }
}
