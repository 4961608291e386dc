//! Version 2 of the header, as only builds with the feature `next` know it: the header of version 1 and one field more.
//! So it is a version that a node without the feature cannot read, as the next real one will be, and tests can have both
//! in one network.

use borsh::{BorshDeserialize, BorshSerialize, io};

use crate::block::Header;

/// A header of version 1 has no byte of it.
pub(crate) fn write_addition<W: io::Write>(addition: &Option<u64>, writer: &mut W) -> io::Result<()> {
    match addition {
        Some(addition) => addition.serialize(writer),
        None => Ok(()),
    }
}

impl BorshDeserialize for Header {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let version = read(reader)?;
        Ok(Header {
            version,
            chain_id: read(reader)?,
            height: read(reader)?,
            timestamp_ms: read(reader)?,
            previous_hash: read(reader)?,
            tx_root: read(reader)?,
            tx_count: read(reader)?,
            nonce: read(reader)?,
            proposer: read(reader)?,
            authorities_hash: read(reader)?,
            next_authorities_hash: read(reader)?,
            members_root: read(reader)?,
            member_count: read(reader)?,
            sessions_root: read(reader)?,
            confirmed_height: read(reader)?,
            addition: (version >= 2).then(|| read(reader)).transpose()?,
        })
    }
}

fn read<T: BorshDeserialize, R: io::Read>(reader: &mut R) -> io::Result<T> {
    T::deserialize_reader(reader)
}
