//! The ledger runs on a thread of its own, and its state is read from many.

use blosm_ledger::*;

fn sendable<T: Send + 'static>() {}
fn shareable<T: Send + Sync + Clone + 'static>() {}

#[test]
fn the_ledger_moves_to_a_thread_and_its_state_is_shared() {
    sendable::<Ledger>();
    shareable::<State>();
    shareable::<Chain>();
    shareable::<SecretKey>();
}
