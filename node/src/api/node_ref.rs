//! Members as people name them: by label, by a prefix of the key, or by peer id.

use blosm_ledger::{Members, PublicKey};
use blosm_net::{PeerId, key_of_peer};

/// Fewest digits of a key that may stand for it; fewer would soon mean two members.
const MIN_KEY_DIGITS: usize = 8;

/// A name that does not mean exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefError {
    /// No member.
    #[error("no member has the label, key (8 digits or more) or peer id {0:?}")]
    Unknown(String),
    /// Several members.
    #[error("several members are meant by {0:?}; give more digits of the key")]
    Ambiguous(String),
}

/// The member that `name` means.
pub fn resolve_node(members: &Members, name: &str) -> Result<PublicKey, NodeRefError> {
    if let Some(key) = name.parse::<PeerId>().ok().and_then(|peer| key_of_peer(&peer)) {
        let key = PublicKey(key);
        return if members.contains(&key) {
            Ok(key)
        } else {
            Err(NodeRefError::Unknown(name.to_owned()))
        };
    }
    let prefix = name.to_ascii_lowercase();
    let is_prefix = prefix.len() >= MIN_KEY_DIGITS && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found = members
        .iter()
        .filter(|(key, member)| member.label == name || (is_prefix && key.to_string().starts_with(&prefix)))
        .map(|(key, _)| *key);
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key),
        (None, _) => Err(NodeRefError::Unknown(name.to_owned())),
        (Some(_), Some(_)) => Err(NodeRefError::Ambiguous(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use blosm_ledger::{Admit, Genesis, Hash, Location, Params, Payload, SecretKey, State, Transaction};
    use blosm_net::peer_of_key;

    use super::*;

    /// A network whose members are the keys of the seeds 1 to `count`, labelled `host1`...
    fn members(count: u8) -> (State, Vec<PublicKey>) {
        let authority = SecretKey::from_seed(&[1; 32]);
        let genesis = Genesis {
            name: "road".into(),
            authorities: vec![authority.public()],
            recovery: authority.public(),
            time_ms: 1,
            params: Params::default(),
        };
        let mut state = State::genesis(&genesis);
        let keys: Vec<_> = (1..=count)
            .map(|seed| SecretKey::from_seed(&[seed; 32]).public())
            .collect();
        for (number, key) in keys.iter().enumerate() {
            let admit = Admit {
                key: *key,
                admission: Hash([number as u8; 32]),
                addresses: Vec::new(),
                gateway: "http://127.0.0.1:8080".into(),
                metrics: None,
                location: Location { lat_e7: 0, lon_e7: 0 },
                radius_m: 300,
                label: format!("host{}", number + 1),
            };
            let transaction = Transaction::sign(&authority, genesis.chain_id(), 0, Payload::Admit(admit));
            state.apply(&transaction, 1).unwrap();
        }
        (state, keys)
    }

    #[test]
    fn a_member_is_meant_by_label_key_prefix_or_peer_id() {
        let (state, keys) = members(3);
        let key = keys[1];
        let names = [
            "host2".to_owned(),
            key.to_string(),
            key.to_string()[..8].to_owned(),
            key.to_string()[..10].to_ascii_uppercase(),
            peer_of_key(&key.0).to_string(),
        ];
        for name in names {
            assert_eq!(resolve_node(state.members(), &name), Ok(key), "{name}");
        }
    }

    #[test]
    fn what_means_no_member_is_unknown() {
        let (state, keys) = members(2);
        let stranger = SecretKey::from_seed(&[9; 32]).public();
        let names = [
            "",
            "host",
            "host3",
            &keys[0].to_string()[..7],
            &peer_of_key(&stranger.0).to_string(),
            "ffffffffff",
        ];
        for name in names {
            assert_eq!(
                resolve_node(state.members(), name),
                Err(NodeRefError::Unknown(name.to_owned()))
            );
        }
    }
}
