//! Algorithm 3: a node without room asks its neighbours, in the order of their distance.

use std::time::Instant;

use blosm_ledger::PublicKey;
use blosm_migrate::placement::{BookingKey, nearest_first};
use blosm_migrate::service::Service;

use super::launch;
use super::notice;
use super::wire::{Refusal, SessionRequest, SessionResponse};
use crate::parts::{Parts, position_of};

/// A neighbour that has booked room for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Booked {
    /// The neighbour.
    pub(crate) member: PublicKey,
    /// The name of its booking.
    pub(crate) ticket: u64,
}

/// Alg. 3, line 13: the nearest member with room for a container of the service.
pub(crate) async fn find(parts: &Parts, service: &Service) -> Option<Booked> {
    let view = parts.chain.snapshot();
    let members: Vec<_> = view
        .state
        .members()
        .iter()
        .filter(|(key, _)| **key != parts.me)
        .map(|(key, member)| (*key, position_of(member.location)))
        .collect();
    let request = SessionRequest::Room {
        service: service.name.clone(),
        declaration: service.declaration_hash(),
    };
    for (member, _) in nearest_first(&members, parts.position()) {
        if !parts.net.is_connected(&blosm_net::peer_of_key(&member.0)) {
            continue;
        }
        if let Ok(SessionResponse::Booked { ticket }) = notice::ask(parts, member, &request).await {
            return Some(Booked { member, ticket });
        }
    }
    None
}

/// Answers a neighbour's question. A yes books the room in the same step.
pub(super) async fn answer(parts: &Parts, name: &str, declaration: blosm_ledger::Hash) -> SessionResponse {
    let declared = parts
        .config
        .services
        .get(name)
        .filter(|service| service.declaration_hash() == declaration);
    let Some(service) = declared else {
        return SessionResponse::Refused(Refusal::OtherService);
    };
    if parts.drain.is_on() || launch::base(parts, service).await.is_err() {
        return SessionResponse::Refused(Refusal::Full);
    }
    let ticket = u64::from_le_bytes(super::random());
    let mut bookings = parts.bookings();
    match bookings.offer(Instant::now(), ticket, super::amount(service)) {
        Ok(()) => SessionResponse::Booked { ticket },
        Err(_) => SessionResponse::Refused(Refusal::Full),
    }
}

/// Books room for a new container here (Alg. 3, line 12), out of an earlier yes if there is one.
pub(super) fn book(parts: &Parts, service: &Service, key: BookingKey, ticket: Option<u64>) -> bool {
    let now = Instant::now();
    let mut bookings = parts.bookings();
    ticket.is_some_and(|ticket| bookings.pass(now, BookingKey::Offer(ticket), key))
        || bookings.book(now, key, super::amount(service)).is_ok()
}
