//! The sealer: what it takes, what it seals, and what it answers.

use blosm_ledger::*;

use crate::world::*;

#[test]
fn seals_what_waits_and_nothing_else() {
    let directory = directory();
    let mut ledger = authority(&directory);
    assert!(ledger.is_authority());
    assert_eq!(ledger.seal(NOW, 0, false).unwrap(), None);
    let block = seal(&mut ledger, [admit(0), admit(1), open(1, 1)]);
    assert_eq!(block.height(), 1);
    assert_eq!(block.block.header.previous_hash, chain_id());
    assert_eq!(block.block.transactions, [admit(0), admit(1), open(1, 1)]);
    assert_eq!(
        (block.block.header.member_count, block.block.header.nonce),
        (2, 1)
    );
    assert_eq!(ledger.head().hash, block.hash());
    assert_eq!(ledger.pending(), 0);
    assert_eq!(ledger.seal(NOW, 0, false).unwrap(), None);
    let empty = ledger.seal(NOW, 0, true).unwrap().unwrap();
    assert_eq!((empty.height(), empty.block.header.tx_count), (2, 0));
    assert_eq!(empty.block.header.tx_root, merkle::empty_root());
    assert_eq!(empty.block.header.sessions_root, block.block.header.sessions_root);
}

#[test]
fn answers_the_same_transaction_with_its_height() {
    let directory = directory();
    let mut ledger = authority(&directory);
    assert_eq!(ledger.submit(admit(0)), Ok(Submitted::Pending));
    assert_eq!(ledger.submit(admit(0)), Ok(Submitted::Pending));
    assert_eq!(ledger.pending(), 1);
    seal(&mut ledger, []);
    seal(&mut ledger, [admit(1)]);
    assert_eq!(
        ledger.submit(admit(0)),
        Ok(Submitted::AlreadySealed { height: 1 })
    );
    let found = ledger.transaction(&admit(1).hash()).unwrap().unwrap();
    assert_eq!(
        found,
        SealedTransaction {
            height: 2,
            index: 0,
            transaction: admit(1)
        }
    );
    assert_eq!(ledger.transaction(&admit(2).hash()).unwrap(), None);
}

#[test]
fn checks_against_what_waits_already() {
    let directory = directory();
    let mut ledger = authority(&directory);
    seal(&mut ledger, [admit(0), admit(1), admit(2), open(1, 1)]);
    assert_eq!(ledger.submit(hand_over(1, 1, 0, 2)), Ok(Submitted::Pending));
    let passed = Refusal::EpochPassed { named: 0, now: 1 };
    assert_eq!(ledger.submit(abort(1, 1, 0)), Err(passed));
    assert!(passed.is_final());
    // The new owner goes on before the hand-over is sealed.
    assert_eq!(ledger.submit(hand_over(1, 2, 1, 1)), Ok(Submitted::Pending));
    let block = seal(&mut ledger, []);
    assert_eq!(block.block.header.tx_count, 2);
    let record = ledger.state().session(&session(1)).unwrap();
    assert_eq!((record.owner, record.epoch), (public(1), 2));
}

#[test]
fn a_hand_over_may_come_after_its_signer_is_gone_but_not_before_its_open() {
    let directory = directory();
    let mut ledger = authority(&directory);
    seal(&mut ledger, [admit(0), admit(1), admit(2)]);
    seal(&mut ledger, [evict(1)]);
    assert_eq!(ledger.submit(hand_over(1, 1, 0, 2)), Err(Refusal::UnknownSession));
    assert!(!Refusal::UnknownSession.is_final());
    seal(&mut ledger, [open(1, 1), hand_over(1, 1, 0, 2)]);
    assert_eq!(ledger.state().session(&session(1)).unwrap().owner, public(2));
    assert!(ledger.state().members().evicted(&public(1)).unwrap().lost);
}

#[test]
fn wrong_transactions_are_refused_with_a_reason() {
    let directory = directory();
    let mut ledger = authority(&directory);
    seal(&mut ledger, [admit(0), admit(1)]);
    let mut forged = open(1, 1);
    forged.signature = Signature([1; 64]);
    assert_eq!(
        ledger.submit(forged),
        Err(Refusal::Invalid(TransactionError::Signature))
    );
    let other = Transaction::sign(&key(1), Hash::ZERO, 0, open(1, 1).payload);
    assert_eq!(
        ledger.submit(other),
        Err(Refusal::Invalid(TransactionError::OtherNetwork(Hash::ZERO)))
    );
    let endless = Transaction {
        max_height: None,
        ..evict(1)
    };
    assert_eq!(
        ledger.submit(endless),
        Err(Refusal::Invalid(TransactionError::NoMaxHeight))
    );
    let expiring = Transaction {
        max_height: Some(5),
        ..open(1, 1)
    };
    assert_eq!(
        ledger.submit(expiring),
        Err(Refusal::Invalid(TransactionError::MaxHeight))
    );
    let named = Open::of(&token(1, 1), "No Service");
    let refusal = ledger.submit(sign(1, Payload::Open(named))).unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Invalid(TransactionError::Field(FieldError { field: "service", .. }))
    ));
    assert_eq!(refusal.reason(), "field");
    assert_eq!(ledger.pending(), 0);
}

#[test]
fn a_session_is_opened_by_nobody_but_its_opener() {
    let directory = directory();
    let mut ledger = authority(&directory);
    seal(&mut ledger, [admit(0), admit(1), admit(2)]);
    let open = Open::of(&token(1, 1), "counter");
    // Node 2 has seen the opening, or the token itself, which tells no more; or it makes something up.
    let stolen = [
        open.clone(),
        Open {
            token_hash: token(1, 2).hash(),
            ..open.clone()
        },
        Open {
            session: token(1, 2).session(),
            ..open.clone()
        },
    ];
    let refused = Refusal::Invalid(TransactionError::OtherSession);
    assert_eq!((refused.is_final(), refused.reason()), (true, "mismatch"));
    for stolen in stolen {
        assert_eq!(ledger.submit(sign(2, Payload::Open(stolen))), Err(refused));
    }
    // The opener's own word for it, with another sender.
    let mut named = sign(1, Payload::Open(open.clone()));
    named.sender = public(2);
    assert_eq!(ledger.submit(named), Err(refused));
    assert_eq!(ledger.pending(), 0);
    seal(&mut ledger, [sign(1, Payload::Open(open))]);
    let record = ledger.state().session(&session(1)).unwrap();
    assert_eq!((record.opener, record.owner), (public(1), public(1)));
}

#[test]
fn followers_judge_but_do_not_seal() {
    let directory = directory();
    let mut ledger = follower(&directory);
    assert_eq!(ledger.submit(admit(0)), Err(Refusal::NotSealer));
    assert!(matches!(ledger.seal(NOW, 0, true), Err(LedgerError::NotSealer)));
    assert_eq!(ledger.judge(&admit(0)), Ok(Submitted::Pending));
    assert_eq!(ledger.judge(&open(1, 1)), Err(Refusal::NeverAdmitted(public(1))));
}

#[test]
fn what_is_sealed_is_no_news() {
    let directory = directory();
    let mut ledger = authority(&directory);
    ledger.submit(admit(0)).unwrap();
    assert_eq!(ledger.judge(&admit(0)), Ok(Submitted::Pending));
    let block = ledger.seal(NOW, 0, false).unwrap().unwrap();
    let sealed = Submitted::AlreadySealed {
        height: block.height(),
    };
    assert_eq!(ledger.judge(&admit(0)), Ok(sealed));
    assert_eq!(ledger.submit(admit(0)), Ok(sealed));
}

#[test]
fn what_expires_while_it_waits_is_dropped_and_told() {
    let small = Genesis {
        params: Params {
            max_block_txs: 1,
            ..Params::default()
        },
        ..genesis()
    };
    let directory = directory();
    let mut ledger = Ledger::open(directory.path(), small.clone(), Some(key(0))).unwrap();
    // By the documented bytes: the domain, then the transaction without its signature.
    let resign = |transaction: Transaction, until: u64| {
        let mut transaction = Transaction {
            chain_id: small.chain_id(),
            max_height: Some(until),
            ..transaction
        };
        let bytes = transaction.encode();
        let unsigned = [b"BLOSM/transaction/v1\0", &bytes[..bytes.len() - 64]].concat();
        transaction.signature = key(0).sign(&unsigned);
        transaction
    };
    // Both are valid for the next block only, and only one fits.
    let (first, second) = (resign(admit(0), 1), resign(admit(1), 1));
    ledger.submit(first.clone()).unwrap();
    ledger.submit(second.clone()).unwrap();
    let block = ledger.seal(NOW, 0, false).unwrap().unwrap();
    assert_eq!(block.block.transactions, [first]);
    assert_eq!(ledger.take_dropped(), [(second.hash(), Refusal::Expired(1))]);
    assert!(ledger.take_dropped().is_empty());
    assert_eq!(ledger.pending(), 0);
}

#[test]
fn what_an_imported_block_makes_invalid_is_dropped_and_the_rest_waits_on() {
    let (one, two) = (directory(), directory());
    let (mut ledger, mut elsewhere) = (authority(&one), authority(&two));
    let start = seal(&mut elsewhere, [admit(0), admit(1), admit(2), open(1, 1)]);
    ledger.import(start).unwrap();
    ledger.submit(abort(1, 1, 0)).unwrap();
    ledger.submit(open(2, 2)).unwrap();
    let block = seal(&mut elsewhere, [hand_over(1, 1, 0, 2)]);
    ledger.import(block).unwrap();
    let passed = Refusal::EpochPassed { named: 0, now: 1 };
    assert_eq!(ledger.take_dropped(), [(abort(1, 1, 0).hash(), passed)]);
    assert_eq!(seal(&mut ledger, []).block.transactions, [open(2, 2)]);
}

#[test]
fn a_full_block_leaves_the_rest_for_the_next() {
    let small = Genesis {
        params: Params {
            max_block_txs: 2,
            ..Params::default()
        },
        ..genesis()
    };
    let chain_id = small.chain_id();
    let directory = directory();
    let mut ledger = Ledger::open(directory.path(), small, Some(key(0))).unwrap();
    for i in 0..5 {
        let transaction = Transaction::sign(&key(0), chain_id, 0, admit(i).payload);
        ledger.submit(transaction).unwrap();
    }
    let counts: Vec<_> = std::iter::from_fn(|| ledger.seal(NOW, 0, false).unwrap())
        .map(|block| block.block.header.tx_count)
        .collect();
    assert_eq!(counts, [2, 2, 1]);
    assert_eq!(ledger.state().members().len(), 5);
}

#[test]
fn blocks_fit_into_their_limit_in_bytes() {
    let small = Genesis {
        params: Params {
            max_block_bytes: 16 * 1024,
            ..Params::default()
        },
        ..genesis()
    };
    let chain_id = small.chain_id();
    let (theirs, ours) = (directory(), directory());
    let mut ledger = Ledger::open(theirs.path(), small.clone(), Some(key(0))).unwrap();
    let mut follower = Ledger::open(ours.path(), small, None).unwrap();
    for i in 0..200 {
        ledger
            .submit(Transaction::sign(&key(0), chain_id, 0, admit(i).payload))
            .unwrap();
    }
    let mut blocks = 0;
    while let Some(block) = ledger.seal(NOW, 0, false).unwrap() {
        let bytes = block.encode().len();
        assert!(bytes <= 16 * 1024, "{bytes}");
        follower.import(block).unwrap();
        blocks += 1;
    }
    assert!(blocks > 3);
    assert_eq!(follower.state().members().len(), 200);
}

#[test]
fn ranges_are_bounded_but_never_empty_handed() {
    let directory = directory();
    let (ledger, blocks) = sealed_story(&directory);
    assert_eq!(ledger.range(1, 100, usize::MAX).unwrap(), blocks);
    assert_eq!(ledger.range(0, 3, usize::MAX).unwrap(), blocks[..3]);
    assert_eq!(ledger.range(5, 100, 0).unwrap(), blocks[4..5]);
    let two = blocks[4].encode().len() + blocks[5].encode().len();
    assert_eq!(ledger.range(5, 100, two).unwrap(), blocks[4..6]);
    assert!(ledger.range(13, 100, usize::MAX).unwrap().is_empty());
    assert!(ledger.range(u64::MAX, 100, usize::MAX).unwrap().is_empty());
    assert_eq!(
        ledger.block_by_hash(&blocks[3].hash()).unwrap().as_ref(),
        Some(&blocks[3])
    );
    assert_eq!(ledger.block_by_hash(&Hash::ZERO).unwrap(), None);
    assert_eq!(ledger.block(0).unwrap(), None);
}

#[test]
fn an_authority_that_meets_its_own_second_block_stops_sealing() {
    let directory = directory();
    let mut ledger = authority(&directory);
    let block = seal(&mut ledger, [admit(0)]);
    let other = |n| reseal(block.clone(), |block| block.header.timestamp_ms += n);
    let meets = |ledger: &mut Ledger, n| {
        let met = ledger.import(other(n));
        assert!(matches!(met, Err(ImportError::Equivocation { .. })));
    };
    let is_halted = |ledger: &mut Ledger| {
        assert_eq!(ledger.submit(admit(1)), Err(Refusal::Halted));
        assert!(matches!(ledger.seal(NOW, 0, true), Err(LedgerError::Halted)));
    };
    meets(&mut ledger, 1);
    meets(&mut ledger, 1);
    is_halted(&mut ledger);
    // What it holds it still tells.
    assert_eq!(ledger.import(block.clone()).unwrap(), Imported::Known);
    drop(ledger);
    let mut ledger = authority(&directory);
    is_halted(&mut ledger);
    let [kept] = ledger.evidence() else {
        panic!("the same proof counts once")
    };
    assert_eq!(
        (kept.height, kept.ours, kept.theirs),
        (1, block.hash(), other(1).hash())
    );
    assert_eq!(kept.certificate, other(1).certificate);
    ledger.resume().unwrap();
    assert!(!ledger.is_halted());
    drop(ledger);
    let mut ledger = authority(&directory);
    seal(&mut ledger, [admit(1)]);
    // What was answered is answered; what is new is not, however much there was.
    meets(&mut ledger, 1);
    assert!(!ledger.is_halted());
    for n in 2..40 {
        meets(&mut ledger, n);
        assert!(ledger.is_halted());
        assert!(ledger.evidence().len() <= MAX_EVIDENCE);
        ledger.resume().unwrap();
    }
}

#[test]
fn several_authorities_can_be_followed_but_not_sealed_alone() {
    let four = Genesis {
        authorities: (0..4).map(public).collect(),
        ..genesis()
    };
    let directory = directory();
    assert!(matches!(
        Ledger::open(directory.path(), four.clone(), Some(key(0))),
        Err(LedgerError::ManyAuthorities(4))
    ));
    let mut ledger = Ledger::open(directory.path(), four.clone(), Some(key(9))).unwrap();
    let chain_id = four.chain_id();
    let alone = Chain::new(four)
        .propose(&key(0), NOW, 0, [])
        .block
        .sealed()
        .clone();
    assert!(matches!(
        ledger.import(alone.clone()),
        Err(ImportError::Certificate(CertificateError::Quorum {
            found: 1,
            needed: 3
        }))
    ));
    let vote = vote_bytes(chain_id, 1, 2, alone.hash());
    let mut signatures: Vec<_> = (1..4).map(|i| (public(i), key(i).sign(&vote))).collect();
    signatures.sort_by_key(|(key, _)| *key);
    let sealed = SealedBlock {
        certificate: Certificate { round: 2, signatures },
        ..alone
    };
    assert!(matches!(
        ledger.import(sealed).unwrap(),
        Imported::Extended(Head { height: 1, .. })
    ));
}
