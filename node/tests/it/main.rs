//! The node's configuration and commands from outside, with real files and the real binary.

#![allow(clippy::unwrap_used, missing_docs)]

mod commands;
mod config;
mod confirmed;
mod drain;
mod join;
mod leave;
mod rights;
mod road;
mod run_errors;
mod scratch;
mod sim;
mod site;
mod tokens;
