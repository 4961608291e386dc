//! Properties of the canonical bytes and of Merkle proofs.

use blosm_ledger::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::world::{chain_id, genesis, key};

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn public() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 32]>().prop_map(SessionId)
}

fn text(max: usize) -> impl Strategy<Value = String> {
    vec(proptest::char::range(' ', '~'), 0..=max).prop_map(String::from_iter)
}

fn service() -> impl Strategy<Value = String> {
    "[a-z0-9-]{1,40}"
}

fn admit() -> impl Strategy<Value = Payload> {
    let place = (-900_000_000..=900_000_000, -1_800_000_000..=1_800_000_000);
    (
        public(),
        hash(),
        vec(text(100), 0..=8),
        text(128),
        option::of(text(128)),
        place,
        any::<u32>(),
        text(64),
    )
        .prop_map(
            |(key, admission, addresses, gateway, metrics, (lat_e7, lon_e7), radius_m, label)| {
                let location = Location { lat_e7, lon_e7 };
                Payload::Admit(Admit {
                    key,
                    admission,
                    addresses,
                    gateway,
                    metrics,
                    location,
                    radius_m,
                    label,
                })
            },
        )
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let names = (
        public(),
        vec(text(64), 0..=4),
        text(64),
        service(),
        hash(),
        text(16),
    );
    let sizes = (any::<[u64; 4]>(), any::<[u32; 2]>(), any::<[u8; 32]>());
    (names, sizes).prop_map(
        |(
            (source, addresses, container_id, service, declaration_hash, architecture),
            (sizes, usage, digest),
        )| {
            Metadata {
                source,
                addresses,
                container_id,
                service,
                declaration_hash,
                total_size: sizes[0],
                writable_size: sizes[1],
                memory: sizes[2],
                cpu_usage: usage[0],
                gpu_usage: usage[1],
                gpu_memory: sizes[3],
                architecture,
                config_digest: digest,
            }
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let hard = prop_oneof![
        Just(HardFailure::Architecture),
        Just(HardFailure::Runtime),
        Just(HardFailure::Disk),
        Just(HardFailure::Reservation),
        Just(HardFailure::GpuDevice),
    ];
    (any::<[bool; 5]>(), option::of(hard)).prop_map(|([memory, cpu, gpu, service, accepted], hard)| Verdict {
        memory,
        cpu,
        gpu,
        service,
        hard,
        accepted,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let reason = prop_oneof![
        Just(ReleaseReason::Client),
        Just(ReleaseReason::Idle),
        Just(ReleaseReason::Operator),
        Just(ReleaseReason::StateLost),
    ];
    prop_oneof![
        admit(),
        (public(), text(128), any::<bool>()).prop_map(|(key, reason, lost)| Payload::Evict(Evict {
            key,
            reason,
            lost
        })),
        (session(), service(), hash()).prop_map(|(session, service, token_hash)| Payload::Open(Open {
            session,
            service,
            token_hash
        })),
        (session(), any::<u64>(), metadata(), vec(public(), 0..=16)).prop_map(
            |(session, epoch, metadata, invited)| Payload::Announce(Announce {
                session,
                epoch,
                metadata,
                invited
            })
        ),
        (session(), any::<u64>(), any::<[u8; 16]>(), verdict()).prop_map(
            |(session, epoch, attempt, verdict)| {
                Payload::Claim(Claim {
                    session,
                    epoch,
                    attempt,
                    verdict,
                })
            }
        ),
        (session(), any::<u64>(), option::of(hash()), public(), hash()).prop_map(
            |(session, epoch, claim, destination, manifest_root)| {
                Payload::HandOver(HandOver {
                    session,
                    epoch,
                    claim,
                    destination,
                    manifest_root,
                })
            }
        ),
        (session(), any::<u64>(), option::of(hash())).prop_map(|(session, epoch, claim)| Payload::Abort(
            Abort {
                session,
                epoch,
                claim
            }
        )),
        (session(), any::<u64>(), reason).prop_map(|(session, epoch, reason)| Payload::Release(Release {
            session,
            epoch,
            reason
        })),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (0u8..5, any::<u64>(), payload())
        .prop_map(|(i, head, mut payload)| {
            let key = key(i);
            if let Payload::Open(open) = &mut payload {
                open.session = SessionId::of(key.public(), open.token_hash);
            }
            Transaction::sign(&key, chain_id(), head, payload)
        })
        .prop_filter("within the limit", |transaction| {
            transaction.encode().len() <= MAX_TX_BYTES
        })
}

fn sealed_block() -> impl Strategy<Value = SealedBlock> {
    (
        vec(transaction(), 0..6),
        any::<[u64; 4]>(),
        any::<[[u8; 32]; 3]>(),
    )
        .prop_map(|(transactions, n, h)| {
            let header = Header {
                version: HEADER_VERSION,
                chain_id: chain_id(),
                height: n[0],
                timestamp_ms: n[1],
                previous_hash: Hash(h[0]),
                tx_root: Block::tx_root(&transactions),
                tx_count: transactions.len() as u32,
                nonce: n[2],
                proposer: key(0).public(),
                authorities_hash: genesis().authorities_hash(),
                next_authorities_hash: genesis().authorities_hash(),
                members_root: Hash(h[1]),
                member_count: 3,
                sessions_root: Hash(h[2]),
                confirmed_height: n[3],
                #[cfg(feature = "next")]
                addition: None,
            };
            let certificate = Certificate::of_one(&key(0), chain_id(), header.height, header.hash());
            SealedBlock {
                block: Block { header, transactions },
                certificate,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn transactions_round_trip_and_verify(transaction in transaction()) {
        let bytes = transaction.encode();
        let decoded = Transaction::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded, &transaction);
        prop_assert_eq!(decoded.verify(chain_id()), Ok(()));
        prop_assert_eq!(decoded.hash(), transaction.hash());
    }

    #[test]
    fn no_byte_more_or_less_is_a_transaction(transaction in transaction(), cut in any::<prop::sample::Index>(), more: u8) {
        let mut bytes = transaction.encode();
        prop_assert!(Transaction::decode(&bytes[..cut.index(bytes.len())]).is_err());
        bytes.push(more);
        prop_assert!(Transaction::decode(&bytes).is_err());
    }

    #[test]
    fn a_flipped_bit_is_noticed(transaction in transaction(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = transaction.encode();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(decoded) = Transaction::decode(&bytes) {
            // One encoding per value: other bytes are another value, and the signature covers all of it.
            prop_assert_eq!(decoded.encode(), bytes);
            prop_assert!(decoded.verify(chain_id()).is_err());
            prop_assert_ne!(decoded.hash(), transaction.hash());
        }
    }

    #[test]
    fn blocks_round_trip(block in sealed_block()) {
        let bytes = block.encode();
        let decoded = SealedBlock::decode(&bytes).unwrap();
        prop_assert_eq!(decoded, block);
        let mut more = bytes.clone();
        more.push(0);
        prop_assert!(SealedBlock::decode(&more).is_err());
    }

    #[test]
    fn cut_or_changed_blocks_decode_to_nothing_or_to_themselves(
        block in sealed_block(),
        place in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut bytes = block.encode();
        let place = place.index(bytes.len());
        prop_assert!(SealedBlock::decode(&bytes[..place]).is_err());
        bytes[place] = byte;
        if let Ok(decoded) = SealedBlock::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..4000)) {
        let _ = Transaction::decode(&bytes);
        let mut versioned = bytes.clone();
        if versioned.len() >= 2 {
            versioned[..2].copy_from_slice(&HEADER_VERSION.to_le_bytes());
        }
        let _ = SealedBlock::decode(&versioned);
        let _ = Token::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn tokens_round_trip(seed: [u8; 32], nonce: [u8; 32], service in service()) {
        let token = Token::mint(&SecretKey::from_seed(&seed), chain_id(), &service, nonce);
        let parsed = Token::parse(&token.encode()).unwrap();
        prop_assert_eq!(parsed.session(), token.session());
        prop_assert_eq!(SessionId::of(parsed.opener(), parsed.hash()), token.session());
        prop_assert!(parsed.verify(chain_id(), &service));
        let other = service + "x";
        prop_assert!(!parsed.verify(chain_id(), &other));
    }

    #[test]
    fn merkle_proofs_hold_for_their_leaf_only(
        leaves in vec(vec(any::<u8>(), 0..70), 1..80),
        index in any::<prop::sample::Index>(),
        other in any::<u32>(),
    ) {
        let count = leaves.len() as u32;
        let index = index.index(leaves.len()) as u32;
        let root = merkle::root(&leaves);
        let proof = merkle::prove(&leaves, index).unwrap();
        prop_assert!(merkle::verify(&root, count, &proof, &leaves[index as usize]));
        let mut moved = proof.clone();
        moved.index = other;
        let same = leaves.get(other as usize) == leaves.get(index as usize) && other < count;
        prop_assert!(same || !merkle::verify(&root, count, &moved, &leaves[index as usize]));
        let mut changed = leaves[index as usize].clone();
        changed.push(0);
        prop_assert!(!merkle::verify(&root, count, &proof, &changed));
    }

    #[test]
    fn any_proof_is_survived(index: u32, count: u32, path in vec(hash(), 0..40), data in vec(any::<u8>(), 0..70)) {
        let proof = merkle::Proof { index, path };
        prop_assert!(!merkle::verify(&Hash::ZERO, count, &proof, &data));
    }

    #[test]
    fn rounding_is_close_and_stable(value: u64) {
        let rounded = round_up_sixteenth(value);
        prop_assert!(rounded >= value);
        prop_assert!(rounded - value <= value / 16 || rounded == u64::MAX);
        prop_assert_eq!(round_up_sixteenth(rounded), rounded);
    }
}

#[test]
fn the_largest_head_does_not_overflow_an_expiry() {
    let payload = Payload::Evict(Evict {
        key: key(1).public(),
        reason: String::new(),
        lost: false,
    });
    let transaction = Transaction::sign(&key(0), chain_id(), u64::MAX, payload);
    assert_eq!(transaction.max_height, Some(u64::MAX));
    let mut state = State::genesis(&genesis());
    assert_eq!(
        state.apply(&transaction, 1),
        Err(Refusal::ExpiresTooLate(u64::MAX))
    );
}
