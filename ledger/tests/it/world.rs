//! A small fixed world: keys, a genesis, transactions of every kind, and ledgers in temporary directories.

use blosm_ledger::*;
use tempfile::TempDir;

pub(crate) const NOW: u64 = 1_700_000_000_000;

pub(crate) fn key(i: u8) -> SecretKey {
    SecretKey::from_seed(&[i; 32])
}

pub(crate) fn public(i: u8) -> PublicKey {
    key(i).public()
}

pub(crate) fn genesis() -> Genesis {
    Genesis {
        name: "roadside".into(),
        authorities: vec![public(0)],
        recovery: public(99),
        time_ms: NOW - 1000,
        params: Params::default(),
    }
}

pub(crate) fn chain_id() -> Hash {
    genesis().chain_id()
}

pub(crate) fn sign(i: u8, payload: Payload) -> Transaction {
    Transaction::sign(&key(i), chain_id(), 0, payload)
}

/// Node `opener`'s token number `i`.
pub(crate) fn token(i: u8, opener: u8) -> Token {
    Token::mint(&key(opener), chain_id(), "counter", [i; 32])
}

/// Node 1's session number `i`.
pub(crate) fn session(i: u8) -> SessionId {
    token(i, 1).session()
}

pub(crate) fn admit(i: u8) -> Transaction {
    admit_with(i, i)
}

pub(crate) fn admit_with(i: u8, admission: u8) -> Transaction {
    let admit = Admit {
        key: public(i),
        admission: Hash([admission; 32]),
        addresses: vec![format!("/ip4/10.77.0.{i}/tcp/4401")],
        gateway: format!("http://10.77.0.{i}:8080"),
        metrics: (i % 2 == 1).then(|| format!("http://10.77.0.{i}:9100/metrics")),
        location: Location {
            lat_e7: 374_500_000,
            lon_e7: 1_266_500_000,
        },
        radius_m: 300,
        label: format!("host{i}"),
    };
    sign(0, Payload::Admit(admit))
}

pub(crate) fn evict(i: u8) -> Transaction {
    sign(
        0,
        Payload::Evict(Evict {
            key: public(i),
            reason: "machine gone".into(),
            lost: true,
        }),
    )
}

pub(crate) fn open(s: u8, opener: u8) -> Transaction {
    sign(opener, Payload::Open(Open::of(&token(s, opener), "counter")))
}

pub(crate) fn announce(s: u8, owner: u8, epoch: u64) -> Transaction {
    let metadata = Metadata {
        source: public(owner),
        addresses: vec![format!("/ip4/10.77.0.{owner}/tcp/4401")],
        container_id: "4f".repeat(32),
        service: "counter".into(),
        declaration_hash: Hash([7; 32]),
        total_size: 5_000_001,
        writable_size: 70_001,
        memory: 33_000_000,
        cpu_usage: 101,
        gpu_usage: 0,
        gpu_memory: 0,
        architecture: "amd64".into(),
        config_digest: [6; 32],
    };
    let announce = Announce {
        session: session(s),
        epoch,
        metadata: metadata.rounded(),
        invited: vec![public(2), public(3)],
    };
    sign(owner, Payload::Announce(announce))
}

pub(crate) fn claim(s: u8, by: u8, epoch: u64) -> Transaction {
    let verdict = Verdict {
        memory: true,
        cpu: false,
        gpu: true,
        service: true,
        hard: Some(HardFailure::Disk),
        accepted: false,
    };
    sign(
        by,
        Payload::Claim(Claim {
            session: session(s),
            epoch,
            attempt: [by; 16],
            verdict,
        }),
    )
}

pub(crate) fn hand_over(s: u8, owner: u8, epoch: u64, destination: u8) -> Transaction {
    let hand_over = HandOver {
        session: session(s),
        epoch,
        claim: Some(claim(s, destination, epoch).hash()),
        destination: public(destination),
        manifest_root: Hash([9; 32]),
    };
    sign(owner, Payload::HandOver(hand_over))
}

pub(crate) fn abort(s: u8, owner: u8, epoch: u64) -> Transaction {
    sign(
        owner,
        Payload::Abort(Abort {
            session: session(s),
            epoch,
            claim: None,
        }),
    )
}

pub(crate) fn release(s: u8, owner: u8, epoch: u64) -> Transaction {
    sign(
        owner,
        Payload::Release(Release {
            session: session(s),
            epoch,
            reason: ReleaseReason::Idle,
        }),
    )
}

/// One transaction of every kind, in an order that the state takes.
pub(crate) fn story() -> Vec<Transaction> {
    vec![
        admit(0),
        admit(1),
        admit(2),
        admit(3),
        open(1, 1),
        announce(1, 1, 0),
        claim(1, 2, 0),
        hand_over(1, 1, 0, 2),
        abort(1, 2, 1),
        release(1, 2, 2),
        evict(3),
        open(2, 2),
    ]
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn authority(directory: &TempDir) -> Ledger {
    Ledger::open(directory.path(), genesis(), Some(key(0))).unwrap()
}

pub(crate) fn follower(directory: &TempDir) -> Ledger {
    Ledger::open(directory.path(), genesis(), Some(key(1))).unwrap()
}

/// Submits and seals each list as one block.
pub(crate) fn seal(ledger: &mut Ledger, transactions: impl IntoIterator<Item = Transaction>) -> SealedBlock {
    for transaction in transactions {
        assert_eq!(ledger.submit(transaction), Ok(Submitted::Pending));
    }
    let now = NOW + ledger.head().height * 10;
    ledger
        .seal(now, ledger.confirmed_height(), false)
        .unwrap()
        .unwrap()
}

/// A chain of one block for every transaction of the story.
pub(crate) fn sealed_story(directory: &TempDir) -> (Ledger, Vec<SealedBlock>) {
    let mut ledger = authority(directory);
    let blocks = story()
        .into_iter()
        .map(|transaction| seal(&mut ledger, [transaction]))
        .collect();
    (ledger, blocks)
}

/// Signs a changed block as the authority would.
pub(crate) fn reseal(mut sealed: SealedBlock, change: impl FnOnce(&mut Block)) -> SealedBlock {
    change(&mut sealed.block);
    sealed.certificate = Certificate::of_one(&key(0), chain_id(), sealed.height(), sealed.hash());
    sealed
}

/// Puts other transactions into a block and makes header and seal fit, roots of the state excepted.
pub(crate) fn with_transactions(sealed: SealedBlock, transactions: Vec<Transaction>) -> SealedBlock {
    reseal(sealed, |block| {
        block.header.tx_count = transactions.len() as u32;
        block.header.tx_root = Block::tx_root(&transactions);
        block.transactions = transactions;
    })
}
