//! The check at start: what is on disk must fit together, or it is mended, or it is refused with a clear message.
//!
//! Mended: index entries of the newest blocks, and members and sessions, both from the blocks themselves.
//! Refused: a head whose block is missing or differs, broken links, another network, a later schema. A head is never
//! taken back, since an authority would then sign a second block of one height.

use imbl::{OrdMap, OrdSet};
use rocksdb::{IteratorMode, WriteBatch};
use tracing::warn;

use super::columns::{
    ADMISSION, CHAIN_KEY, Column, EVICTED, EVIDENCE_KEY, HEAD_KEY, MEMBER, RESUMED_KEY, SCHEMA_KEY,
    height_key,
};
use super::{Damage, Place, SCHEMA, Store, StoreError};
use crate::block::{Block, Header};
use crate::chain::Head;
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::hash::{Hash, canonical};
use crate::key::PublicKey;
use crate::members::Members;
use crate::state::State;
use crate::token::SessionId;

/// How many of the newest blocks are checked in full.
const CHECK_DEPTH: u64 = 64;

/// What the store holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) head: Head,
    pub(crate) state: State,
    /// Proofs that the authority sealed twice, oldest first.
    pub(crate) evidence: Vec<Evidence>,
    /// How many of them its operator has answered.
    pub(crate) resumed: u32,
}

/// Checks the store and loads head and state.
pub(super) fn load(store: &Store, genesis: &Genesis) -> Result<Loaded, StoreError> {
    check_identity(store, genesis)?;
    let head = match store.get(Column::Meta, HEAD_KEY)? {
        Some(bytes) => borsh::from_slice(&bytes).map_err(|_| store.damaged(Damage::Entry("the head")))?,
        None => Head::genesis(genesis),
    };
    if store
        .get(Column::Headers, &height_key(head.height + 1))?
        .is_some()
    {
        return Err(store.damaged(if head.height == 0 {
            Damage::NoHead
        } else {
            Damage::AboveHead(head.height)
        }));
    }
    let newest = check_newest_blocks(store, genesis, &head)?;
    let state = match read_state(store, genesis)? {
        Some(state) if fits(&state, newest.as_ref(), genesis) => state,
        _ => rebuild_state(store, genesis, newest.as_ref())?,
    };
    let (evidence, resumed) = read_evidence(store)?;
    Ok(Loaded {
        head,
        state,
        evidence,
        resumed,
    })
}

fn read_evidence(store: &Store) -> Result<(Vec<Evidence>, u32), StoreError> {
    let damaged = || store.damaged(Damage::Entry("the evidence"));
    let evidence = match store.get(Column::Meta, EVIDENCE_KEY)? {
        Some(bytes) => borsh::from_slice(&bytes).map_err(|_| damaged())?,
        None => Vec::new(),
    };
    let resumed = match store.get(Column::Meta, RESUMED_KEY)? {
        Some(bytes) => bytes.try_into().map(u32::from_le_bytes).map_err(|_| damaged())?,
        None => 0,
    };
    Ok((evidence, resumed))
}

/// Schema and network. A new directory gets ours.
fn check_identity(store: &Store, genesis: &Genesis) -> Result<(), StoreError> {
    let wanted = genesis.chain_id();
    let Some(schema) = store.get(Column::Meta, SCHEMA_KEY)? else {
        if store
            .db
            .iterator_cf(store.column(Column::Headers), IteratorMode::Start)
            .next()
            .is_some()
        {
            return Err(store.damaged(Damage::NoHead));
        }
        let mut batch = WriteBatch::default();
        let meta = store.column(Column::Meta);
        batch.put_cf(meta, SCHEMA_KEY, SCHEMA.to_le_bytes());
        batch.put_cf(meta, CHAIN_KEY, wanted.0);
        batch.put_cf(meta, HEAD_KEY, canonical(&Head::genesis(genesis)));
        return store.commit(batch);
    };
    let found = schema
        .try_into()
        .map(u32::from_le_bytes)
        .map_err(|_| store.damaged(Damage::Entry("the schema")))?;
    if found != SCHEMA {
        return Err(StoreError::Schema {
            path: store.path.clone(),
            found,
            ours: SCHEMA,
        });
    }
    let chain = store
        .get(Column::Meta, CHAIN_KEY)?
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    match chain.map(Hash) {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(StoreError::OtherNetwork {
            path: store.path.clone(),
            found,
            wanted,
        }),
        None => Err(store.damaged(Damage::Entry("the network"))),
    }
}

/// Walks down from the head: hashes and links, the head's certificate, bodies, and the two hash indexes, which are
/// mended. Gives the head's header.
fn check_newest_blocks(store: &Store, genesis: &Genesis, head: &Head) -> Result<Option<Header>, StoreError> {
    let mut wanted = head.hash;
    let mut newest = None;
    let mut mended = WriteBatch::default();
    let lowest = head.height.saturating_sub(CHECK_DEPTH - 1).max(1);
    for height in (lowest..=head.height).rev() {
        let (header, certificate) = store.header(height)?.ok_or_else(|| {
            store.damaged(Damage::Missing {
                index: "header",
                height,
            })
        })?;
        let hash = header.hash();
        if hash != wanted || header.height != height {
            return Err(store.damaged(Damage::Wrong {
                index: "header",
                height,
            }));
        }
        if height == head.height
            && certificate
                .verify(&genesis.authorities, genesis.chain_id(), height, hash)
                .is_err()
        {
            return Err(store.damaged(Damage::Wrong {
                index: "certificate",
                height,
            }));
        }
        let body = store.body(height)?.ok_or_else(|| {
            store.damaged(Damage::Missing {
                index: "body",
                height,
            })
        })?;
        if header.tx_count as usize != body.len() || header.tx_root != Block::tx_root(&body) {
            return Err(store.damaged(Damage::Wrong {
                index: "body",
                height,
            }));
        }
        if store.height_of(&hash).ok().flatten() != Some(height) {
            mended.put_cf(store.column(Column::Hash), hash.0, height_key(height));
        }
        for (index, transaction) in (0u32..).zip(&body) {
            let (tx_hash, place) = (transaction.hash(), Place { height, index });
            if store.place(&tx_hash).ok().flatten() != Some(place) {
                mended.put_cf(store.column(Column::Tx), tx_hash.0, canonical(&place));
            }
        }
        wanted = header.previous_hash;
        newest.get_or_insert(header);
    }
    if lowest == 1 && wanted != genesis.chain_id() {
        return Err(store.damaged(Damage::Wrong {
            index: "header",
            height: 1,
        }));
    }
    if !mended.is_empty() {
        warn!(
            entries = mended.len(),
            "index entries of the newest blocks were missing and are written again"
        );
        store.commit(mended)?;
    }
    Ok(newest)
}

/// Whether a state is the one after the head.
fn fits(state: &State, newest: Option<&Header>, genesis: &Genesis) -> bool {
    let (roots, _) = state.clone().seal_changes();
    let (wanted, _) = State::genesis(genesis).seal_changes();
    match newest {
        Some(header) => {
            (header.members_root, header.member_count, header.sessions_root)
                == (roots.members_root, roots.member_count, roots.sessions_root)
        }
        None => roots == wanted,
    }
}

/// Reads members and sessions, or nothing when an entry cannot be read.
fn read_state(store: &Store, genesis: &Genesis) -> Result<Option<State>, StoreError> {
    let (mut current, mut evicted, mut admissions) = (OrdMap::new(), OrdMap::new(), OrdSet::new());
    for entry in store
        .db
        .iterator_cf(store.column(Column::Members), IteratorMode::Start)
    {
        let (key, value) = entry.map_err(StoreError::Read)?;
        let Some((tag, name)) = key
            .split_first()
            .and_then(|(tag, rest)| Some((*tag, <[u8; 32]>::try_from(rest).ok()?)))
        else {
            return Ok(None);
        };
        match tag {
            MEMBER => match borsh::from_slice(&value) {
                Ok(member) => _ = current.insert(PublicKey(name), member),
                Err(_) => return Ok(None),
            },
            EVICTED => match borsh::from_slice(&value) {
                Ok(record) => _ = evicted.insert(PublicKey(name), record),
                Err(_) => return Ok(None),
            },
            ADMISSION => _ = admissions.insert(Hash(name)),
            _ => return Ok(None),
        }
    }
    let mut sessions = OrdMap::new();
    for entry in store
        .db
        .iterator_cf(store.column(Column::Sessions), IteratorMode::Start)
    {
        let (key, value) = entry.map_err(StoreError::Read)?;
        match (<[u8; 32]>::try_from(&*key), borsh::from_slice(&value)) {
            (Ok(id), Ok(record)) => _ = sessions.insert(SessionId(id), record),
            _ => return Ok(None),
        }
    }
    Ok(Some(State::from_parts(
        genesis,
        Members::from_parts(current, evicted, admissions),
        sessions,
    )))
}

/// Makes members and sessions again from all blocks, and writes them.
fn rebuild_state(store: &Store, genesis: &Genesis, newest: Option<&Header>) -> Result<State, StoreError> {
    let head = newest.map_or(0, |header| header.height);
    warn!(
        height = head,
        "members or sessions are not those of the head and are made again from the blocks"
    );
    let mut state = State::genesis(genesis);
    for height in 1..=head {
        let body = store.body(height)?.ok_or_else(|| {
            store.damaged(Damage::Missing {
                index: "body",
                height,
            })
        })?;
        for transaction in &body {
            state.apply(transaction, height).map_err(|_| {
                store.damaged(Damage::Wrong {
                    index: "body",
                    height,
                })
            })?;
        }
    }
    let (_, changes) = state.seal_changes();
    if !fits(&state, newest, genesis) {
        return Err(store.damaged(Damage::State(head)));
    }
    let mut batch = WriteBatch::default();
    clear(store, Column::Members, &mut batch)?;
    clear(store, Column::Sessions, &mut batch)?;
    store.put_state(&mut batch, &state, &changes);
    store.commit(batch)?;
    Ok(state)
}

fn clear(store: &Store, column: Column, batch: &mut WriteBatch) -> Result<(), StoreError> {
    for entry in store.db.iterator_cf(store.column(column), IteratorMode::Start) {
        let (key, _) = entry.map_err(StoreError::Read)?;
        batch.delete_cf(store.column(column), key);
    }
    Ok(())
}
