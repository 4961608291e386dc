//! Canonical bytes and hashes of fixed objects. A change here is a change of the wire format and of every chain: it
//! needs a new version, not a new file.

use blosm_ledger::*;

use crate::world::*;

const GOLDEN: &str = include_str!("golden.txt");

/// One line per object: name, canonical bytes, hash.
fn lines() -> Vec<String> {
    let line = |name: &str, bytes: Vec<u8>, hash: String| format!("{name} {} {hash}", hex::encode(bytes));
    let mut lines = Vec::new();
    let four = Genesis {
        authorities: (0..4).map(public).collect(),
        params: Params {
            confirmation: Confirmation::Required,
            ..Params::default()
        },
        ..genesis()
    };
    for (name, genesis) in [("genesis", genesis()), ("genesis-of-four", four)] {
        lines.push(line(
            name,
            borsh::to_vec(&genesis).unwrap(),
            genesis.chain_id().to_string(),
        ));
        lines.push(line(
            "authorities",
            vec![],
            genesis.authorities_hash().to_string(),
        ));
    }
    let token = token(1, 1);
    lines.push(line(
        "token",
        token.encode().into_bytes(),
        token.session().to_string(),
    ));
    for transaction in story() {
        lines.push(line(
            transaction.payload.kind(),
            transaction.encode(),
            transaction.hash().to_string(),
        ));
    }
    lines.push(line(
        "vote",
        vote_bytes(chain_id(), 3, 1, Hash([4; 32])),
        String::new(),
    ));
    let directory = directory();
    let (_, blocks) = sealed_story(&directory);
    for block in [&blocks[0], &blocks[11]] {
        lines.push(line("block", block.encode(), block.hash().to_string()));
    }
    lines
}

#[test]
fn bytes_and_hashes_have_not_changed() {
    let ours = lines();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(golden.len(), ours.len(), "the objects are:\n{}", ours.join("\n"));
    for (ours, golden) in ours.iter().zip(golden) {
        assert_eq!(ours.trim_end(), golden);
    }
}

#[test]
fn golden_transactions_and_blocks_decode_to_themselves() {
    for line in GOLDEN.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = || hex::decode(words[1]).unwrap();
        match words[0] {
            "genesis" | "genesis-of-four" | "authorities" | "token" | "vote" => {}
            "block" => {
                let block = SealedBlock::decode(&bytes()).unwrap();
                assert_eq!(
                    (block.encode(), block.hash().to_string().as_str()),
                    (bytes(), words[2])
                );
            }
            kind => {
                let transaction = Transaction::decode(&bytes()).unwrap();
                assert_eq!(transaction.payload.kind(), kind);
                assert_eq!(transaction.verify(chain_id()), Ok(()));
                assert_eq!(
                    (transaction.encode(), transaction.hash().to_string().as_str()),
                    (bytes(), words[2])
                );
            }
        }
    }
}

#[test]
fn reserved_and_unknown_kinds_are_told_apart_from_wrong_bytes() {
    let bytes = open(1, 1).encode();
    let kind = 32 + 32 + 1;
    assert_eq!(bytes[kind], 2);
    for (tag, name) in RESERVED_KINDS {
        let mut reserved = bytes.clone();
        reserved[kind] = tag;
        assert_eq!(
            Transaction::decode(&reserved),
            Err(DecodeError::UnknownKind(UnknownKind(tag))),
            "{name}"
        );
    }
    for tag in [15, 200, 255] {
        let mut unknown = bytes.clone();
        unknown[kind] = tag;
        assert_eq!(
            Transaction::decode(&unknown),
            Err(DecodeError::UnknownKind(UnknownKind(tag)))
        );
    }
    assert_eq!(
        DecodeError::UnknownKind(UnknownKind(8)).newer(),
        Some(Newer::Kind(8))
    );
    assert_eq!(Transaction::decode(&bytes[..kind]), Err(DecodeError::Malformed));
    let huge = vec![0u8; MAX_TX_BYTES + 1];
    assert_eq!(
        Transaction::decode(&huge),
        Err(DecodeError::TooLarge {
            found: MAX_TX_BYTES + 1,
            limit: MAX_TX_BYTES
        })
    );
}
