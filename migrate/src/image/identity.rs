//! What an image is: the digest of its config and the digests of its layers, in order.
//!
//! Engines give other ids to the same image (one names the config, another the manifest), so an
//! engine's id is never compared between nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use blosm_ledger::{Hash, SessionId};
use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

/// Prefix of an image's manifest root.
const ROOT_DOMAIN: &[u8] = b"blosm/image-manifest-root/1\0";
/// Prefix of a live move's manifest root.
const LIVE_ROOT_DOMAIN: &[u8] = b"blosm/live-manifest-root/1\0";

/// A SHA-256 digest as images use them; written `sha256:HEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected sha256: and 64 lower-case hex digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotADigest)?;
        Ok(Self(bytes))
    }
}

/// What an image is, on every engine.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Identity {
    /// SHA-256 of the config's bytes.
    pub config_digest: Digest,
    /// SHA-256 of each uncompressed layer tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// What a hand-over commits to: this image, as the state of this session after this epoch.
#[must_use]
pub fn manifest_root(session: &SessionId, epoch: u64, image: &Identity) -> Hash {
    root(ROOT_DOMAIN, &(session, epoch, image))
}

/// What a live hand-over commits to: this image with these deltas applied to it in this order, as the state of this
/// session after this epoch.
#[must_use]
pub fn live_root(session: &SessionId, epoch: u64, image: &Identity, rounds: &[[u8; 32]]) -> Hash {
    root(LIVE_ROOT_DOMAIN, &(session, epoch, image, rounds))
}

fn root(domain: &[u8], what: &impl BorshSerialize) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(domain);
    hasher.update(borsh::to_vec(what).expect("writing into memory cannot fail"));
    Hash(hasher.finalize().into())
}

/// Chain ids of these layers: the id of layer n names all layers up to n, in order.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let next = match chain {
                None => *diff_id,
                Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
            };
            chain = Some(next);
            next
        })
        .collect()
}

/// The layers that an engine holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Chain ids of every prefix of every local image.
    pub chains: BTreeSet<Digest>,
    /// Layer digests, whatever they stand on.
    pub diff_ids: BTreeSet<Digest>,
}

impl Held {
    /// Adds an image's layers.
    pub fn add(&mut self, diff_ids: &[Digest]) {
        self.chains.extend(chain_ids(diff_ids));
        self.diff_ids.extend(diff_ids);
    }

    /// The layers of that image which the engine lacks, lowest first.
    ///
    /// A layer counts as held only on the same parents: the classic store looks layers up by chain
    /// id and would not find the same bytes on another parent.
    #[must_use]
    pub fn lacking(&self, diff_ids: &[Digest]) -> Vec<Digest> {
        let lacking = self.lacking_at(diff_ids).into_iter();
        lacking.map(|at| diff_ids[at]).collect()
    }

    /// The same, as indices into `diff_ids`.
    #[must_use]
    pub fn lacking_at(&self, diff_ids: &[Digest]) -> Vec<usize> {
        let chains = chain_ids(diff_ids);
        (0..chains.len())
            .filter(|at| !self.chains.contains(&chains[*at]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_reads_only_its_one_form() {
        let digest = Digest::of(b"layer");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in [
            "",
            "sha256:",
            "sha256:00",
            &digest.hex(),
            &digest.to_string().to_uppercase(),
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong}");
        }
        assert!(
            digest.to_string().replace('a', "A").parse::<Digest>().is_err() || !digest.hex().contains('a')
        );
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let expect = Digest::of(format!("sha256:{} sha256:{}", a.hex(), b.hex()).as_bytes());
        assert_eq!(chain_ids(&[a, b]), vec![a, expect]);
        assert_eq!(chain_ids(&[]), vec![]);
    }

    #[test]
    fn a_layer_on_other_parents_is_lacking() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|x| Digest::of(x));
        let mut held = Held::default();
        held.add(&[a, b]);
        assert_eq!(held.lacking(&[a, b]), vec![]);
        assert_eq!(held.lacking(&[a, b, c]), vec![c]);
        assert_eq!(held.lacking(&[c, b]), vec![c, b]);
        assert!(held.diff_ids.contains(&b));
    }
}
