//! Hashes and the hexadecimal text of 32-byte names.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Text that is not the 64 hexadecimal digits of a 32-byte value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseHexError {
    /// The text has another length than 64 characters.
    #[error("expected 64 hexadecimal digits, found {0} characters")]
    Length(usize),
    /// A character is not a hexadecimal digit.
    #[error("expected 64 hexadecimal digits, found another character among them")]
    Digit,
}

/// Parses exactly 64 hexadecimal digits, upper or lower case.
pub(crate) fn parse_hex32(text: &str) -> Result<[u8; 32], ParseHexError> {
    if text.len() != 64 {
        return Err(ParseHexError::Length(text.chars().count()));
    }
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseHexError::Digit)?;
    Ok(bytes)
}

/// Gives a 32-byte newtype its hexadecimal text, in `Display`, `Debug`, `FromStr` and serde.
macro_rules! hex32 {
    ($name:ident) => {
        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first `digits` hexadecimal digits (at most 64), for names and tables.
            pub fn short(&self, digits: usize) -> String {
                let mut text = hex::encode(self.0);
                text.truncate(digits);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::hash::ParseHexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::hash::parse_hex32(text).map($name)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex::encode(self.0))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use hex32;

/// A SHA-256 digest. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Hash(pub [u8; 32]);

hex32!(Hash);

impl Hash {
    /// All zero; never the digest of anything that this crate hashes.
    pub const ZERO: Hash = Hash([0; 32]);

    /// Hashes `data` as an object of the kind `domain`.
    ///
    /// The digest is `SHA-256("BLOSM/" domain "/v1" 0x00 data)`. The zero byte ends the prefix, so no
    /// domain is a prefix of another, and bytes of one kind never hash like bytes of another kind.
    /// `domain` is a constant of the caller's and holds no zero byte.
    pub fn digest(domain: &str, data: &[u8]) -> Hash {
        Hash(domain_hasher(domain).chain_update(data).finalize().into())
    }

    /// Hashes the canonical (borsh) bytes of `value` as an object of the kind `domain`.
    pub fn of<T: BorshSerialize + ?Sized>(domain: &str, value: &T) -> Hash {
        Hash::digest(domain, &canonical(value))
    }
}

/// The canonical bytes of `value`.
pub(crate) fn canonical<T: BorshSerialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    value
        .serialize(&mut bytes)
        .expect("writing to a Vec cannot fail, and no type of this crate refuses to serialise");
    bytes
}

/// Reads one value from the front of `rest`.
pub(crate) fn read<T: BorshDeserialize>(rest: &mut &[u8]) -> borsh::io::Result<T> {
    T::deserialize(rest)
}

/// The bytes that are signed for an object of the kind `domain`: the domain's prefix, then the object.
pub(crate) fn signing_bytes<T: BorshSerialize + ?Sized>(domain: &str, value: &T) -> Vec<u8> {
    let mut bytes = format!("BLOSM/{domain}/v1\0").into_bytes();
    value
        .serialize(&mut bytes)
        .expect("writing to a Vec cannot fail, and no type of this crate refuses to serialise");
    bytes
}

fn domain_hasher(domain: &str) -> Sha256 {
    debug_assert!(
        !domain.contains('\0'),
        "a zero byte would end the domain's prefix early"
    );
    Sha256::new()
        .chain_update(b"BLOSM/")
        .chain_update(domain.as_bytes())
        .chain_update(b"/v1\0")
}

/// Serialises fixed byte arrays as hexadecimal text (for JSON; the canonical bytes are borsh).
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0u8; N];
        hex::decode_to_slice(text.as_ref(), &mut bytes).map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_refuses_other_lengths() {
        let hash = Hash::digest("test", b"x");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert_eq!("ab".parse::<Hash>(), Err(ParseHexError::Length(2)));
        assert_eq!("zz".repeat(32).parse::<Hash>(), Err(ParseHexError::Digit));
        // 64 bytes that are not 64 characters.
        assert!("é".repeat(32).parse::<Hash>().is_err());
        assert_eq!(hash.short(8).len(), 8);
    }

    #[test]
    fn domains_separate() {
        assert_ne!(Hash::digest("a", b"b"), Hash::digest("ab", b""));
        assert_ne!(Hash::digest("a", b""), Hash::digest("b", b""));
    }
}
