//! What a later version of this program would read and this one cannot.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::block::NEWEST_VERSION;
use crate::payload::{KINDS, RESERVED_KINDS};

/// Something that only a later version can read. Nobody's fault: this node needs an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Newer {
    /// A header of this version.
    Header(u16),
    /// A transaction with this tag.
    Kind(u8),
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Newer::Header(version) => {
                write!(
                    f,
                    "header version {version}, and this blosm reads {NEWEST_VERSION}"
                )
            }
            Newer::Kind(tag) => {
                write!(f, "transaction kind {tag}")?;
                if let Some((_, name)) = RESERVED_KINDS.iter().find(|(reserved, _)| reserved == tag) {
                    write!(f, " (`{name}`)")?;
                }
                write!(f, ", and this blosm reads 0 to {}", KINDS - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_needed_and_what_is_here() {
        assert_eq!(
            Newer::Header(2).to_string(),
            "header version 2, and this blosm reads 1"
        );
        assert_eq!(
            Newer::Kind(11).to_string(),
            "transaction kind 11 (`take_over`), and this blosm reads 0 to 7"
        );
        assert_eq!(
            Newer::Kind(40).to_string(),
            "transaction kind 40, and this blosm reads 0 to 7"
        );
    }
}
