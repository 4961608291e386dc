//! Who may board: uses, expiry, revocation, and what is left of it after a crash.

use blosm_ledger::{Admit, Evict, Genesis, Location, Params, Payload, SecretKey, State, Transaction};
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: u64 = 1_700_000_000_000;

/// An authority's chain and its invites.
struct Desk {
    dir: TempDir,
    invites: Invites,
    state: State,
    height: u64,
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn node(seed: u8) -> PublicKey {
    key(seed).public()
}

fn genesis() -> Genesis {
    Genesis {
        name: "road".into(),
        authorities: vec![node(0)],
        recovery: node(200),
        time_ms: 1,
        params: Params::default(),
    }
}

impl Desk {
    fn new() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        Desk {
            invites: Invites::open(dir.path()).unwrap(),
            dir,
            state: State::genesis(&genesis()),
            height: 0,
        }
    }

    fn issue(&self, uses: u32) -> Hash {
        let terms = Terms {
            uses,
            life: DAY,
            label: "site=A".into(),
        };
        let (secret, _) = self.invites.issue(NOW, terms, self.state.members()).unwrap();
        secret.id()
    }

    fn board(&self, now: u64, invite: &Hash, seed: u8) -> Result<Hash, Denial> {
        let label = format!("host{seed}");
        self.invites
            .board(now, invite, &node(seed), &label, self.state.members())
    }

    /// The block that holds the admission.
    fn seal(&mut self, seed: u8, admission: Hash) {
        self.apply(Payload::Admit(Admit {
            key: node(seed),
            admission,
            addresses: vec![],
            gateway: "http://10.0.0.1:8080".into(),
            metrics: None,
            location: Location { lat_e7: 1, lon_e7: 2 },
            radius_m: 300,
            label: format!("host{seed}"),
        }));
    }

    fn apply(&mut self, payload: Payload) {
        self.height += 1;
        let transaction = Transaction::sign(&key(0), genesis().chain_id(), self.height - 1, payload);
        self.state.apply(&transaction, self.height).unwrap();
    }

    /// The process dies and starts again: the file and the chain are all that is left.
    fn crash(&mut self) {
        self.invites = Invites::open(self.dir.path()).unwrap();
    }

    fn view(&self, invite: &Hash) -> InviteView {
        let list = self.invites.list(NOW, self.state.members());
        list.into_iter().find(|view| view.id == *invite).unwrap()
    }
}

#[test]
fn an_invite_admits_as_many_as_it_says() {
    let mut desk = Desk::new();
    let invite = desk.issue(2);
    for seed in [1, 2] {
        let admission = desk.board(NOW, &invite, seed).unwrap();
        desk.seal(seed, admission);
        desk.invites.landed(&admission);
    }
    assert_eq!(desk.board(NOW, &invite, 3), Err(Denial::UsedUp { uses: 2 }));
    assert_eq!(desk.view(&invite).state, "used_up");
    let mut used: Vec<_> = desk.view(&invite).used_by;
    used.sort_unstable();
    let mut expected = vec![node(1), node(2)];
    expected.sort_unstable();
    assert_eq!(used, expected);
}

#[test]
fn a_use_on_its_way_is_nobody_elses_and_one_that_fails_is_given_back() {
    let desk = Desk::new();
    let invite = desk.issue(1);
    let first = desk.board(NOW, &invite, 1).unwrap();
    assert_eq!(desk.board(NOW, &invite, 2), Err(Denial::UsedUp { uses: 1 }));
    // The same node again is the same use.
    assert_eq!(desk.board(NOW, &invite, 1), Ok(first));
    desk.invites.landed(&first);
    assert!(desk.board(NOW, &invite, 2).is_ok());
}

#[test]
fn a_crash_before_the_seal_loses_no_use_and_one_after_it_doubles_none() {
    let mut desk = Desk::new();
    let invite = desk.issue(1);
    let admission = desk.board(NOW, &invite, 1).unwrap();
    desk.crash();
    assert_eq!(desk.view(&invite).used_by, []);
    // The use was never made: it is there for whoever comes, here the same node.
    assert_eq!(desk.board(NOW, &invite, 1), Ok(admission));
    desk.seal(1, admission);
    desk.crash();
    assert_eq!(desk.view(&invite).used_by, [node(1)]);
    assert_eq!(desk.board(NOW, &invite, 2), Err(Denial::UsedUp { uses: 1 }));
}

#[test]
fn it_ends_by_the_authoritys_clock() {
    let desk = Desk::new();
    let invite = desk.issue(1);
    let end = NOW + 24 * 3600 * 1000;
    assert!(
        desk.invites
            .judge(end - 1, &invite, &node(1), desk.state.members())
            .is_ok()
    );
    assert_eq!(
        desk.board(end, &invite, 1),
        Err(Denial::Expired { expires_unix_ms: end })
    );
    assert_eq!(desk.invites.list(end, desk.state.members())[0].state, "expired");
}

#[test]
fn a_revoked_one_admits_nobody_and_takes_nobody_away() {
    let mut desk = Desk::new();
    let invite = desk.issue(5);
    let admission = desk.board(NOW, &invite, 1).unwrap();
    desk.seal(1, admission);
    let prefix = invite.short(8);
    let view = desk.invites.revoke(NOW, &prefix, desk.state.members()).unwrap();
    assert_eq!((view.state, view.used_by), ("revoked", vec![node(1)]));
    assert_eq!(desk.board(NOW, &invite, 2), Err(Denial::Revoked));
    desk.crash();
    assert_eq!(desk.board(NOW, &invite, 2), Err(Denial::Revoked));
    assert!(desk.state.members().contains(&node(1)));
    for (prefix, count) in [("", 0), ("zz", 0)] {
        let error = desk
            .invites
            .revoke(NOW, prefix, desk.state.members())
            .unwrap_err();
        assert!(
            matches!(error, InvitesError::Which { count: found, .. } if found == count),
            "{error}"
        );
    }
}

#[test]
fn an_evicted_node_needs_another_invite() {
    let mut desk = Desk::new();
    let (invite, other) = (desk.issue(5), desk.issue(5));
    let admission = desk.board(NOW, &invite, 1).unwrap();
    desk.seal(1, admission);
    desk.invites.landed(&admission);
    desk.apply(Payload::Evict(Evict {
        key: node(1),
        reason: "moved away".into(),
        lost: false,
    }));
    let denial = desk.board(NOW, &invite, 1).unwrap_err();
    assert_eq!(
        denial,
        Denial::Evicted {
            height: 2,
            reason: "moved away".into()
        }
    );
    assert_eq!(desk.view(&invite).used_by, [node(1)], "the use stays used");
    let again = desk.board(NOW, &other, 1).unwrap();
    assert_ne!(again, admission);
    desk.seal(1, again);
    assert!(desk.state.members().contains(&node(1)));
}

#[test]
fn labels_are_told_apart_on_the_chain_and_on_the_way_there() {
    let mut desk = Desk::new();
    let invite = desk.issue(5);
    let members = desk.state.members().clone();
    let first = desk
        .invites
        .board(NOW, &invite, &node(1), "host1", &members)
        .unwrap();
    assert_eq!(
        desk.invites.board(NOW, &invite, &node(2), "host1", &members),
        Err(Denial::Busy)
    );
    desk.seal(1, first);
    desk.invites.landed(&first);
    assert_eq!(
        desk.invites
            .board(NOW, &invite, &node(2), "host1", desk.state.members()),
        Err(Denial::LabelTaken {
            label: "host1".into(),
            owner: node(1)
        })
    );
}

#[test]
fn the_file_holds_no_secret_and_no_damage_is_taken_for_nothing() {
    let desk = Desk::new();
    let terms = Terms {
        uses: 1,
        life: DAY,
        label: String::new(),
    };
    let (secret, view) = desk.invites.issue(NOW, terms, desk.state.members()).unwrap();
    let path = desk.dir.path().join(FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&view.id.to_string()));
    assert!(!text.contains(&hex::encode(borsh::to_vec(&secret).unwrap())));
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let error = Invites::open(desk.dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("invites.json can't be understood") && error.contains("remove it"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn ended_invites_make_room_and_open_ones_do_not() {
    let desk = Desk::new();
    let first = desk.issue(1);
    for _ in 1..MAX_INVITES {
        desk.issue(1);
    }
    let terms = || Terms {
        uses: 1,
        life: DAY,
        label: String::new(),
    };
    let error = desk
        .invites
        .issue(NOW, terms(), desk.state.members())
        .unwrap_err();
    assert!(matches!(error, InvitesError::Full));
    desk.invites
        .revoke(NOW, &first.to_string(), desk.state.members())
        .unwrap();
    desk.invites.issue(NOW, terms(), desk.state.members()).unwrap();
    assert_eq!(desk.invites.list(NOW, desk.state.members()).len(), MAX_INVITES);
    assert_eq!(desk.board(NOW, &first, 1), Err(Denial::Unknown));
}

#[test]
fn terms_that_make_no_sense_are_refused() {
    let desk = Desk::new();
    for (uses, life, label, field) in [
        (0, DAY, "", "uses"),
        (MAX_USES + 1, DAY, "", "uses"),
        (1, Duration::ZERO, "", "expires"),
        (1, MAX_LIFE + DAY, "", "expires"),
        (1, DAY, "a\u{1b}[2J", "label"),
    ] {
        let terms = Terms {
            uses,
            life,
            label: label.into(),
        };
        let error = desk.invites.issue(NOW, terms, desk.state.members()).unwrap_err();
        assert!(
            matches!(error, InvitesError::Terms { field: found, .. } if found == field),
            "{error}"
        );
    }
}
