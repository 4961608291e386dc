//! The invite: one printable string that lets nodes into a network.
//!
//! `blosm1_` and base64url without padding of the borsh bytes of [`Body`] and four bytes of their hash. Nothing of it is
//! encrypted: whoever holds the string may join.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blosm_ledger::{Hash, MAX_ADDRESS, MAX_ADDRESSES, PublicKey};
use blosm_net::Multiaddr;
use borsh::{BorshDeserialize, BorshSerialize};

/// What every invite begins with, before its version.
const NAME: &str = "blosm";
/// The version of the format.
const VERSION: u32 = 1;
/// Bytes of the checksum.
const CHECK: usize = 4;
/// No invite is longer, in characters.
pub(crate) const MAX_CHARS: usize = 2048;

/// Why a text is no invite that this program can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It does not begin like one.
    #[error("this is no invite: one begins with blosm1_; copy what `blosm invite` printed")]
    Other,
    /// It is of a later version.
    #[error(
        "the invite is of version {0}, and this blosm knows version {VERSION}; install the blosm that the authority runs"
    )]
    Version(u32),
    /// Something of it is missing or was changed.
    #[error("the invite is cut off or mistyped: its checksum is wrong; copy it whole, or use --invite-file")]
    Damaged,
    /// The checksum is right, and what it protects cannot be used.
    #[error("the invite cannot be used: {0}; ask for a new one")]
    Unfit(&'static str),
}

/// What lets a node in. Its debug output does not show it.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// A fresh one.
    pub(crate) fn generate() -> Result<Secret, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Secret(bytes))
    }

    /// What the authority knows the invite by: it does not keep the secret itself.
    pub(crate) fn id(&self) -> Hash {
        Hash::digest("invite", &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What an invite says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invite {
    /// The network: the hash of its genesis.
    pub(crate) chain_id: Hash,
    /// The authority that answers for it.
    pub(crate) authority: PublicKey,
    /// Where it is dialled, 1 to [`MAX_ADDRESSES`], without `/p2p/`.
    pub(crate) addresses: Vec<Multiaddr>,
    /// What the authority knows the hash of.
    pub(crate) secret: Secret,
    /// For display; the authority's own record and clock decide.
    pub(crate) expires_unix_ms: u64,
}

/// The bytes of an invite.
#[derive(BorshSerialize, BorshDeserialize)]
struct Body {
    chain_id: Hash,
    authority: PublicKey,
    addresses: Vec<String>,
    secret: Secret,
    expires_unix_ms: u64,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Body {
            chain_id: self.chain_id,
            authority: self.authority,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            secret: self.secret,
            expires_unix_ms: self.expires_unix_ms,
        };
        let mut bytes = borsh::to_vec(&body).map_err(|_| fmt::Error)?;
        let check = checksum(&bytes);
        bytes.extend(check);
        write!(f, "{NAME}{VERSION}_{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        if text.len() > MAX_CHARS {
            return Err(InviteError::Damaged);
        }
        // Mail and terminals break long lines.
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (version, rest) = text
            .strip_prefix(NAME)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(InviteError::Other)?;
        match version.parse() {
            Ok(VERSION) => {}
            Ok(version) => return Err(InviteError::Version(version)),
            Err(_) => return Err(InviteError::Other),
        }
        let bytes = URL_SAFE_NO_PAD.decode(rest).map_err(|_| InviteError::Damaged)?;
        let (body, check) = bytes
            .len()
            .checked_sub(CHECK)
            .map(|at| bytes.split_at(at))
            .ok_or(InviteError::Damaged)?;
        if check != checksum(body) {
            return Err(InviteError::Damaged);
        }
        let body: Body =
            borsh::from_slice(body).map_err(|_| InviteError::Unfit("its content is not an invite's"))?;
        if !(1..=MAX_ADDRESSES).contains(&body.addresses.len()) {
            return Err(InviteError::Unfit(
                "it names no address of the authority, or too many",
            ));
        }
        let addresses = body.addresses.iter().map(|address| {
            (address.len() <= MAX_ADDRESS)
                .then(|| address.parse().ok())
                .flatten()
                .ok_or(InviteError::Unfit("an address in it is none"))
        });
        Ok(Invite {
            chain_id: body.chain_id,
            authority: body.authority,
            addresses: addresses.collect::<Result<_, _>>()?,
            secret: body.secret,
            expires_unix_ms: body.expires_unix_ms,
        })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK] {
    let Hash(digest) = Hash::digest("invite-checksum", body);
    let mut check = [0; CHECK];
    check.copy_from_slice(&digest[..CHECK]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            chain_id: Hash([1; 32]),
            authority: PublicKey([2; 32]),
            addresses: vec![
                "/ip4/10.77.0.1/tcp/4401".parse().unwrap(),
                "/ip6/fd00::1/tcp/4401".parse().unwrap(),
            ],
            secret: Secret([3; 32]),
            expires_unix_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn the_string_says_what_was_put_in() {
        let text = invite().to_string();
        assert!(
            text.starts_with("blosm1_") && text.bytes().all(|b| b.is_ascii_graphic()),
            "{text}"
        );
        assert_eq!(text.parse(), Ok(invite()));
        // As a mail client or a terminal hands it on.
        let broken = format!("  {}\r\n{}\n", &text[..70], &text[70..]);
        assert_eq!(broken.parse(), Ok(invite()));
    }

    #[test]
    fn its_form_is_fixed() {
        // Invites are printed by one version and read by another.
        assert_eq!(invite().to_string(), GOLDEN);
    }

    /// Made by hand from the description in the protocol's page.
    const GOLDEN: &str = "blosm1_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQECAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI\
         CAgIAAAAXAAAAL2lwNC8xMC43Ny4wLjEvdGNwLzQ0MDEVAAAAL2lwNi9mZDAwOjoxL3RjcC80NDAxAwMDAwMDAwMDA\
         wMDAwMDAwMDAwMDAwMDAwMDAwMDAwMAaOXPiwEAAMkIEk8";

    #[test]
    fn every_changed_character_is_noticed() {
        let text = invite().to_string();
        for at in "blosm1_".len()..text.len() {
            for other in ['A', 'B', '-'] {
                let mut changed: Vec<char> = text.chars().collect();
                if changed[at] == other {
                    continue;
                }
                changed[at] = other;
                let changed: String = changed.into_iter().collect();
                assert_eq!(changed.parse::<Invite>(), Err(InviteError::Damaged), "{changed}");
            }
        }
    }

    #[test]
    fn every_missing_end_is_noticed() {
        let text = invite().to_string();
        for length in 0..text.len() {
            let error = text[..length].parse::<Invite>().unwrap_err();
            let expected = if length < "blosm1_".len() {
                InviteError::Other
            } else {
                InviteError::Damaged
            };
            assert_eq!(error, expected, "{length}");
        }
        assert_eq!(format!("{text}A").parse::<Invite>(), Err(InviteError::Damaged));
        assert_eq!(
            "x".repeat(MAX_CHARS + 1).parse::<Invite>(),
            Err(InviteError::Damaged)
        );
    }

    #[test]
    fn another_version_says_what_to_install() {
        let later = invite().to_string().replacen("blosm1_", "blosm2_", 1);
        let error = later.parse::<Invite>().unwrap_err();
        assert_eq!(error, InviteError::Version(2));
        assert!(
            error
                .to_string()
                .contains("install the blosm that the authority runs")
        );
        for other in ["", "K10abc::server:1", "blosm", "blosmX_AAAA", "blosm_AAAA"] {
            assert_eq!(other.parse::<Invite>(), Err(InviteError::Other), "{other}");
        }
    }

    #[test]
    fn what_the_checksum_protects_is_still_looked_at() {
        let with = |addresses: Vec<String>| {
            let body = Body {
                chain_id: Hash::ZERO,
                authority: PublicKey([2; 32]),
                addresses,
                secret: Secret([3; 32]),
                expires_unix_ms: 0,
            };
            let mut bytes = borsh::to_vec(&body).unwrap();
            bytes.extend(checksum(&bytes));
            format!("blosm1_{}", URL_SAFE_NO_PAD.encode(bytes)).parse::<Invite>()
        };
        for addresses in [
            vec![],
            vec!["/ip4/1.2.3.4/tcp/1".to_owned(); 9],
            vec!["not an address".to_owned()],
            vec![format!("/dns4/{}/tcp/1", "x".repeat(200))],
        ] {
            assert!(matches!(with(addresses), Err(InviteError::Unfit(_))));
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", invite()).contains("3, 3"));
    }
}
