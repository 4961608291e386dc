//! What the acknowledgements of one member may cost the authority. Pure.
//!
//! ```text
//!  BURST  ─┐ full: as many at once
//!          │  each one takes 1, PER_SECOND come back
//!  0      ─┤ below: not looked at
//!          │  a false one is fined; the fine is worked off before the next is looked at
//!  -DEBT  ─┘ the deepest
//! ```

use std::collections::HashMap;
use std::time::Instant;

use blosm_ledger::{Members, Penalty, PublicKey};

/// Acknowledgements per second for long. An honest member sends 20 at most: see `ack.rs`.
const PER_SECOND: f64 = 40.0;
/// Acknowledgements at once.
const BURST: f64 = 80.0;
/// The fine for one that may be an error of our own: a second.
const LOW_FINE: f64 = PER_SECOND;
/// The fine for one that no honest member sends: ten seconds.
const HIGH_FINE: f64 = 10.0 * PER_SECOND;
/// The deepest debt: a minute.
const DEBT: f64 = 60.0 * PER_SECOND;

/// The accounts of the members.
#[derive(Debug, Default)]
pub(super) struct Toll {
    accounts: HashMap<PublicKey, Account>,
}

#[derive(Debug)]
struct Account {
    left: f64,
    at: Instant,
}

impl Toll {
    /// Whether an acknowledgement of `member` is looked at. There are as many accounts as members ask for: only members
    /// may be asked about.
    pub(super) fn pay(&mut self, now: Instant, member: PublicKey) -> bool {
        let account = self.account(now, member);
        let enough = account.left >= 1.0;
        if enough {
            account.left -= 1.0;
        }
        enough
    }

    /// Makes `member` pay for a false one.
    pub(super) fn fine(&mut self, now: Instant, member: PublicKey, penalty: Penalty) {
        let fine = match penalty {
            Penalty::None => return,
            Penalty::Low => LOW_FINE,
            Penalty::High => HIGH_FINE,
        };
        let account = self.account(now, member);
        account.left = (account.left - fine).max(-DEBT);
    }

    /// Forgets those who are no members any more.
    pub(super) fn retain(&mut self, members: &Members) {
        self.accounts.retain(|member, _| members.contains(member));
    }

    fn account(&mut self, now: Instant, member: PublicKey) -> &mut Account {
        let account = self
            .accounts
            .entry(member)
            .or_insert(Account { left: BURST, at: now });
        let earned = now.saturating_duration_since(account.at).as_secs_f64() * PER_SECOND;
        account.left = (account.left + earned).min(BURST);
        account.at = now;
        account
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MEMBER: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    fn paid(toll: &mut Toll, now: Instant, tries: u32) -> u32 {
        (0..tries).filter(|_| toll.pay(now, MEMBER)).count() as u32
    }

    #[test]
    fn a_flood_is_not_looked_at_and_costs_nobody_else() {
        let (mut toll, now) = (Toll::default(), Instant::now());
        assert_eq!(paid(&mut toll, now, 1_000), 80);
        assert!(toll.pay(now, OTHER));
        let later = now + Duration::from_secs(1);
        assert_eq!(paid(&mut toll, later, 1_000), 40);
        let rested = later + Duration::from_secs(3_600);
        assert_eq!(paid(&mut toll, rested, 1_000), 80);
    }

    #[test]
    fn a_false_one_silences_its_sender_for_a_while() {
        let (mut toll, now) = (Toll::default(), Instant::now());
        toll.fine(now, MEMBER, Penalty::None);
        toll.fine(now, MEMBER, Penalty::Low);
        assert_eq!(paid(&mut toll, now, 1_000), 40, "one slip is borne");
        toll.fine(now, MEMBER, Penalty::High);
        let mute = now + Duration::from_secs(10);
        assert_eq!(paid(&mut toll, mute, 10), 0);
        assert!(toll.pay(mute + Duration::from_millis(30), MEMBER));
        for _ in 0..1_000 {
            toll.fine(mute, MEMBER, Penalty::High);
        }
        let minute = mute + Duration::from_secs(61);
        assert!(toll.pay(minute, MEMBER), "no longer than a minute");
    }

    #[test]
    fn who_is_no_member_has_no_account() {
        let (mut toll, now) = (Toll::default(), Instant::now());
        toll.pay(now, MEMBER);
        toll.retain(&Members::default());
        assert!(toll.accounts.is_empty());
    }
}
