//! The sessions of this node: who owns each, where its container runs, how it moves.
//!
//! ```text
//!            Sessions (slots by id, neighbours, shared containers)
//!  gateway ──enter──> Slot.gate <──set── Actor (one task per session) ──> journal, engine
//!  peers, API ──Command──────────────────> │   ^
//!                                          v   │ Applied, Acquire
//!                                       incoming::run (a destination's attempt) ──> chunks of the source (Grants)
//!  Submitter ──> proposer: every Open, HandOver and Release that the chain does not hold yet
//! ```
//! The rules that decide are in `blosm_migrate::session` and are pure; what is here carries them out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blosm_migrate::placement::Amount;
use blosm_migrate::service::Service;

mod actor;
mod assess;
mod brought;
mod budget;
mod census;
mod drain;
mod eviction;
mod grants;
mod handle;
mod incoming;
mod journal;
mod judge;
mod launch;
mod leftovers;
mod limits;
mod link;
mod measure;
mod methods;
mod notice;
mod progress;
mod registry;
mod report;
mod reports;
mod room;
mod rounds;
mod shared;
mod submit;
mod taken;
mod view;
mod wire;

pub(crate) use actor::MoveOrder;
pub use assess::Assessment;
pub(crate) use brought::Brought;
pub(crate) use budget::Budget;
pub(crate) use census::Census;
pub(crate) use drain::Drain;
pub use drain::{DrainError, DrainView, SessionDrain};
pub use eviction::EvictError;
pub(crate) use handle::OpenError;
pub use handle::{MigrateError, SessionsHandle};
pub(crate) use incoming::migration_failures;
pub use journal::{JournalClosed, JournalHandle};
pub(crate) use limits::Slots;
pub(crate) use link::Links;
pub use methods::MethodView;
pub(crate) use methods::Methods;
pub use progress::Progress;
pub use report::{
    LedgerFigures, LinkFigures, MigrationOutcome, MigrationReport, Phases, RequestFigures, Round, SCHEMA,
    SealedTransaction, VerdictDetail,
};
pub use reports::{Event, Reports};
pub use view::{AmountView, EngineView, ResourcesView, SessionView};
pub(crate) use wire::{MoveReason, encode, micros};

/// Repository of the images that hand-overs make. They are removed when nobody needs them any more.
pub(crate) const IMAGE_REPOSITORY: &str = "blosm-session";
/// Repository of pinned bases whose own name means another image in this engine.
pub(crate) const BASE_REPOSITORY: &str = "blosm-base";

/// Milliseconds since the epoch by this machine's wall clock, for reports only.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

/// REQ_res: what a container of the service is declared to need.
pub(crate) fn amount(service: &Service) -> Amount {
    Amount {
        memory: service.resources.memory,
        cpu_milli: service.resources.cpu_milli,
        gpus: service.resources.gpu,
        gpu_memory: service.resources.gpu_memory,
    }
}
