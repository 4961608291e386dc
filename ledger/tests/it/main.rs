//! Integration tests of the ledger: what other crates see of it, on a real database.

#![allow(clippy::unwrap_used, missing_docs)]

mod codec_golden;
mod codec_props;
mod confirmed;
mod import;
mod merkle_golden;
mod reopen;
mod sealing;
mod threads;
mod world;
