//! Where those who want to join are answered: by an authority's invites, by any other node with a refusal.

use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Admit, FieldError, Member, Payload, PublicKey, Transaction};
use blosm_net::Multiaddr;
use futures::future::join_all;
use tokio::sync::Semaphore;

use super::store::Invites;
use super::wire::{Application, Denial, Hello, JoinRequest, JoinResponse, Reached, Welcome};
use super::{OLDEST_PROTOCOL, PROTOCOL, SOFTWARE, reach};
use crate::chain::{ChainHandle, SubmitError};
use crate::config::{Config, check_advertised, check_label, check_url, radius_m};
use crate::sessions::unix_ms;

/// Nodes that are answered at once. One more is told to come back.
const AT_ONCE: usize = 64;

/// How long an asker waits for its admission to be sealed; within the protocol's own limit. It asks again then.
const SEAL_WAIT: Duration = Duration::from_secs(8);

/// The authority's side of the join protocol.
#[derive(Debug)]
pub(crate) struct Desk {
    config: Arc<Config>,
    chain: ChainHandle,
    /// None on a node that is no authority.
    invites: Option<Arc<Invites>>,
    room: Semaphore,
}

impl Desk {
    pub(crate) fn new(config: Arc<Config>, chain: ChainHandle, invites: Option<Arc<Invites>>) -> Self {
        Self {
            config,
            chain,
            invites,
            room: Semaphore::new(AT_ONCE),
        }
    }

    /// Answers one request of `from`, whose key the connection has proven.
    pub(crate) async fn answer(&self, from: PublicKey, bytes: &[u8]) -> Vec<u8> {
        let answer = match (JoinRequest::decode(bytes), self.room.try_acquire()) {
            (None, _) => Err(Denial::Malformed),
            (_, Err(_)) => Err(Denial::Busy),
            (Some(JoinRequest::Hello(hello)), _) => self.welcome(from, &hello),
            (Some(JoinRequest::Admit(application)), Ok(_room)) => self.admit(from, *application).await,
            (Some(JoinRequest::Reach), Ok(_room)) => self.reach(from).await,
            (Some(JoinRequest::Standing { height }), Ok(_room)) => {
                // Asked by a node again and again, and no try to be admitted.
                return self.standing(from, height).await.encode();
            }
        };
        let answer = answer.unwrap_or_else(|denial| {
            tracing::info!(node = %from, %denial, "not admitted");
            JoinResponse::Denied(denial)
        });
        answer.encode()
    }

    fn welcome(&self, from: PublicKey, hello: &Hello) -> Result<JoinResponse, Denial> {
        check_version(hello)?;
        let now = unix_ms();
        let view = self.chain.snapshot();
        let member = view.state.members().get(&from);
        // Who is a member already gets the same answer as the first time, whatever has become of the invite.
        if member.is_none() {
            self.invites()?
                .judge(now, &hello.secret.id(), &from, view.state.members())?;
        }
        let offset_ms = i128::from(hello.clock_unix_ms) - i128::from(now);
        tracing::info!(node = %from, software = hello.software, offset_ms, "a node asks to join");
        Ok(JoinResponse::Welcome(Box::new(Welcome {
            genesis: self.config.network.genesis.clone(),
            clock_unix_ms: now,
            software: SOFTWARE.to_owned(),
            protocol: PROTOCOL,
            member_since: member.map(|member| member.since_height),
        })))
    }

    async fn admit(&self, from: PublicKey, application: Application) -> Result<JoinResponse, Denial> {
        check_version(&application.hello)?;
        if let Some(admitted) = self.admitted(&from, &application) {
            return Ok(admitted);
        }
        // Before a use is taken: what cannot be sealed must not hold one.
        let mut admit = record(from, &application)?;
        let view = self.chain.snapshot();
        let invite = application.hello.secret.id();
        let invites = self.invites()?.clone();
        admit.admission = invites.board(
            unix_ms(),
            &invite,
            &from,
            &application.label,
            view.state.members(),
        )?;
        let admission = admit.admission;
        let payload = Payload::Admit(admit);
        if let Err(error) = payload.check() {
            invites.landed(&admission);
            return Err(field(error));
        }
        let config = &self.config;
        let transaction = Transaction::sign(&config.key, config.network.chain_id, view.height, payload);
        // In a task of its own: an asker that hangs up must leave no use behind that nobody gives back.
        let chain = self.chain.clone();
        let sealing = tokio::spawn(async move {
            let submitted = chain.submit(transaction).await;
            // What may still be sealed keeps its use, for as long as this process lives; a later one looks at the chain.
            if !matches!(submitted, Err(SubmitError::Timeout)) {
                invites.landed(&admission);
            }
            submitted
        });
        let submitted = tokio::time::timeout(SEAL_WAIT, sealing).await;
        // Whose transaction it was does not matter: two requests of one node make one admission.
        if let Some(admitted) = self.admitted(&from, &application) {
            tracing::info!(node = %from, label = application.label, invite = invite.short(8), "admitted");
            return Ok(admitted);
        }
        let why = match submitted {
            Ok(Ok(Ok(height))) => format!("block {height} admitted the node, and it was evicted since"),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the admission is on its way".to_owned(),
        };
        Err(Denial::NotSealing { why })
    }

    fn invites(&self) -> Result<&Arc<Invites>, Denial> {
        self.invites.as_ref().ok_or(Denial::NotAuthority)
    }

    /// The answer to a member.
    fn admitted(&self, node: &PublicKey, application: &Application) -> Option<JoinResponse> {
        let view = self.chain.snapshot();
        let member = view.state.members().get(node)?;
        Some(JoinResponse::Admitted {
            height: member.since_height,
            as_sent: is_as_sent(member, application),
        })
    }

    /// Whoever was evicted and has not heard of it, which its head shows, is let in to fetch the chain up to there.
    async fn standing(&self, from: PublicKey, height: u64) -> JoinResponse {
        let view = self.chain.snapshot();
        let members = view.state.members();
        if let Some(member) = members.get(&from) {
            return JoinResponse::Member {
                since: member.since_height,
            };
        }
        let Some(evicted) = members.evicted(&from) else {
            return JoinResponse::Denied(Denial::NotMember);
        };
        if height < evicted.height && self.chain.let_in(from).await {
            tracing::info!(node = %from, height = evicted.height, "a node that was off when it was evicted is told");
        }
        JoinResponse::Denied(Denial::Evicted {
            height: evicted.height,
            reason: evicted.reason.clone(),
        })
    }

    /// Only members are connected to, at the addresses that the chain has of them: an invite is no way to look at ports.
    async fn reach(&self, from: PublicKey) -> Result<JoinResponse, Denial> {
        let view = self.chain.snapshot();
        let member = view.state.members().get(&from).ok_or(Denial::NotMember)?;
        let tries = member.addresses.iter().map(|address| async move {
            let error = match address.parse::<Multiaddr>() {
                Ok(parsed) => reach::greet(&parsed).await.err(),
                Err(error) => Some(std::io::Error::other(error)),
            };
            Reached {
                address: address.clone(),
                error: error.as_ref().map(reach::explain),
            }
        });
        Ok(JoinResponse::Reached(join_all(tries).await))
    }
}

fn check_version(hello: &Hello) -> Result<(), Denial> {
    if hello.protocol >= OLDEST_PROTOCOL {
        return Ok(());
    }
    Err(Denial::TooOld {
        software: hello.software.clone(),
        protocol: hello.protocol,
        oldest: OLDEST_PROTOCOL,
        wanted: SOFTWARE.to_owned(),
    })
}

/// Checks every field by the rules that a node's own configuration has to keep.
fn record(key: PublicKey, application: &Application) -> Result<Admit, Denial> {
    let wrong = |field: &str, message: String| Denial::Field {
        field: field.to_owned(),
        message,
    };
    check_label(&application.label).map_err(|rule| wrong("label", rule.to_owned()))?;
    let radius_m = radius_m(application.radius_m.into()).map_err(|rule| wrong("radius", rule.to_owned()))?;
    let gateway = check_url(&application.gateway).map_err(|rule| wrong("gateway_url", rule))?;
    let metrics = match &application.metrics {
        Some(url) => Some(check_url(url).map_err(|rule| wrong("metrics_url", rule))?),
        None => None,
    };
    let mut addresses = Vec::new();
    for address in &application.addresses {
        let parsed: Multiaddr = address
            .parse()
            .map_err(|_| wrong("advertise", "an address is no multiaddress".to_owned()))?;
        check_advertised(&parsed).map_err(|rule| wrong("advertise", rule))?;
        addresses.push(parsed.to_string());
    }
    Ok(Admit {
        key,
        admission: blosm_ledger::Hash::ZERO,
        addresses,
        gateway,
        metrics,
        location: application.location,
        radius_m,
        label: application.label.clone(),
    })
}

fn field(error: FieldError) -> Denial {
    Denial::Field {
        field: error.field.to_owned(),
        message: error.rule.to_owned(),
    }
}

fn is_as_sent(member: &Member, application: &Application) -> bool {
    member.addresses == application.addresses
        && member.gateway == application.gateway
        && member.metrics == application.metrics
        && member.location == application.location
        && member.radius_m == application.radius_m
        && member.label == application.label
}

#[cfg(test)]
mod tests {
    use blosm_ledger::Location;

    use super::super::invite::Secret;
    use super::*;

    fn application() -> Application {
        Application {
            hello: Hello {
                secret: Secret::generate().unwrap(),
                protocol: PROTOCOL,
                software: "0.0.9".into(),
                clock_unix_ms: 0,
            },
            addresses: vec!["/ip4/10.0.0.1/tcp/4401".into()],
            gateway: "http://10.0.0.1:8080".into(),
            metrics: None,
            location: Location { lat_e7: 1, lon_e7: 2 },
            radius_m: 300,
            label: "host1".into(),
        }
    }

    #[test]
    fn an_old_version_is_told_what_to_install() {
        let mut old = application().hello;
        old.protocol = OLDEST_PROTOCOL - 1;
        let denial = check_version(&old).unwrap_err();
        assert_eq!(
            denial.to_string(),
            format!(
                "this blosm (0.0.9, protocol 0) is too old: the network needs protocol 1; install blosm {SOFTWARE} and \
                 run the same command again"
            )
        );
        assert!(check_version(&application().hello).is_ok());
        let mut later = application().hello;
        later.protocol = PROTOCOL + 1;
        assert!(check_version(&later).is_ok(), "a later one judges for itself");
    }

    #[test]
    fn fields_are_checked_before_a_use_is_taken() {
        let field = |change: fn(&mut Application)| {
            let mut changed = application();
            change(&mut changed);
            match record(PublicKey([1; 32]), &changed) {
                Ok(_) => String::new(),
                Err(Denial::Field { field, .. }) => field,
                Err(other) => other.to_string(),
            }
        };
        assert_eq!(field(|_| ()), "");
        assert_eq!(field(|a| a.label = "no spaces".into()), "label");
        assert_eq!(field(|a| a.radius_m = 0), "radius");
        assert_eq!(field(|a| a.gateway = "ftp://10.0.0.1".into()), "gateway_url");
        assert_eq!(field(|a| a.metrics = Some("x".into())), "metrics_url");
        assert_eq!(
            field(|a| a.addresses = vec!["/ip4/0.0.0.0/tcp/4401".into()]),
            "advertise"
        );
        assert_eq!(field(|a| a.addresses = vec!["10.0.0.1:4401".into()]), "advertise");
    }
}
