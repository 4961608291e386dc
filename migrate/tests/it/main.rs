//! Tests of the crate's public face that need no engine.

#![allow(clippy::unwrap_used, missing_docs)]

mod cuts;
mod faults;
mod rounds;
mod source;
mod transfer_props;
