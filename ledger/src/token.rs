//! The session token: whoever holds it is the client, and it tells by itself who opened the session.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use borsh::{BorshDeserialize, BorshSerialize};
use thiserror::Error;

use crate::hash::{Hash, hex32, signing_bytes};
use crate::key::{PublicKey, SecretKey, Signature};

/// The length of a token's text.
pub const TOKEN_CHARS: usize = 171;

/// A session's public name: the hash of its opener and of its token's hash, from which the token cannot be found.
///
/// The opener is in it so that the name itself says who may open the session: whoever has seen a token, or an
/// [`Open`](crate::Open), cannot make the session of it its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct SessionId(pub [u8; 32]);

hex32!(SessionId);

impl SessionId {
    /// The session that `opener` opens with the token of this hash.
    #[must_use]
    pub fn of(opener: PublicKey, token_hash: Hash) -> SessionId {
        SessionId(Hash::of("session", &(opener, token_hash)).0)
    }

    /// Which of the 4,096 buckets of the sessions root holds this session: its first 12 bits.
    #[must_use]
    pub fn bucket(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]]) >> 4
    }
}

/// A session's secret: 32 random bytes, the opener's key, and its signature over network, service and those bytes.
///
/// `Debug` shows the session's id only, and there is no `Display`: a token reaches a client and nothing else.
#[derive(Clone)]
pub struct Token {
    nonce: [u8; 32],
    opener: PublicKey,
    signature: Signature,
}

/// Text that is no token. It does not quote the text, which may be somebody's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a session token has {TOKEN_CHARS} characters of base64url without padding")]
pub struct TokenError;

/// What the opener signs.
#[derive(BorshSerialize)]
struct Signed<'a> {
    chain_id: Hash,
    service: &'a str,
    nonce: [u8; 32],
}

impl Token {
    /// Makes the token of a new session. `nonce` is 32 fresh random bytes.
    #[must_use]
    pub fn mint(key: &SecretKey, chain_id: Hash, service: &str, nonce: [u8; 32]) -> Token {
        let signature = key.sign(&signing_bytes(
            "token",
            &Signed {
                chain_id,
                service,
                nonce,
            },
        ));
        Token {
            nonce,
            opener: key.public(),
            signature,
        }
    }

    /// The token's text, as it goes to the client.
    #[must_use]
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes())
    }

    /// Reads a token's text. Says nothing about the signature: see [`Token::verify`].
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        if text.len() != TOKEN_CHARS {
            return Err(TokenError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError)?;
        let (nonce, rest) = bytes.split_first_chunk::<32>().ok_or(TokenError)?;
        let (opener, rest) = rest.split_first_chunk::<32>().ok_or(TokenError)?;
        let signature: [u8; 64] = rest.try_into().map_err(|_| TokenError)?;
        Ok(Token {
            nonce: *nonce,
            opener: PublicKey(*opener),
            signature: Signature(signature),
        })
    }

    /// Whether the opener really signed this token for this service of this network.
    #[must_use]
    pub fn verify(&self, chain_id: Hash, service: &str) -> bool {
        let signed = Signed {
            chain_id,
            service,
            nonce: self.nonce,
        };
        self.opener
            .verify(&signing_bytes("token", &signed), &self.signature)
    }

    /// The hash of the token, which its opener publishes: others can then tell the session's id and not the token.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::digest("token-hash", &self.bytes())
    }

    /// The session's id.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId::of(self.opener, self.hash())
    }

    /// Who opened the session. Trust it only after [`Token::verify`].
    #[must_use]
    pub fn opener(&self) -> PublicKey {
        self.opener
    }

    fn bytes(&self) -> [u8; 128] {
        let mut bytes = [0u8; 128];
        bytes[..32].copy_from_slice(&self.nonce);
        bytes[32..64].copy_from_slice(&self.opener.0);
        bytes[64..].copy_from_slice(&self.signature.0);
        bytes
    }
}

// By hash: the time that a comparison takes then tells nothing about the secret bytes.
impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.session() == other.session()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(of session {})", self.session().short(12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> (Token, Hash) {
        let chain = Hash::digest("test", b"chain");
        (
            Token::mint(&SecretKey::from_seed(&[1; 32]), chain, "counter", [9; 32]),
            chain,
        )
    }

    #[test]
    fn text_round_trips() {
        let (token, chain) = token();
        let text = token.encode();
        assert_eq!(text.len(), TOKEN_CHARS);
        let parsed = Token::parse(&text).unwrap();
        assert_eq!(parsed, token);
        assert!(parsed.verify(chain, "counter"));
        assert_eq!(parsed.opener(), SecretKey::from_seed(&[1; 32]).public());
    }

    #[test]
    fn only_for_its_network_and_service() {
        let (token, chain) = token();
        assert!(!token.verify(chain, "other"));
        assert!(!token.verify(Hash::ZERO, "counter"));
    }

    #[test]
    fn changed_text_is_another_session_or_no_token() {
        let (token, chain) = token();
        let text = token.encode();
        for position in 0..TOKEN_CHARS {
            let mut changed = text.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            if let Ok(parsed) = Token::parse(&changed) {
                assert_ne!(parsed.session(), token.session());
                assert!(!parsed.verify(chain, "counter"));
            }
        }
        for bad in ["", "A", &text[1..], &format!("{text}="), &"é".repeat(85)] {
            assert_eq!(Token::parse(bad), Err(TokenError));
        }
    }

    #[test]
    fn its_session_is_of_its_opener_alone() {
        let (token, _) = token();
        let other = SecretKey::from_seed(&[2; 32]).public();
        assert_eq!(SessionId::of(token.opener(), token.hash()), token.session());
        assert_ne!(SessionId::of(other, token.hash()), token.session());
    }

    #[test]
    fn debug_hides_it() {
        let (token, _) = token();
        let shown = format!("{token:?}");
        assert!(!shown.contains(&token.encode()[..16]) && !shown.contains("0909"));
    }
}
