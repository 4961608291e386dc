//! `blosm-testnet`: networks of real nodes on one machine, and the demo that drives a car past them.

use std::process::ExitCode;

fn main() -> ExitCode {
    blosm_testnet::cli::main()
}
