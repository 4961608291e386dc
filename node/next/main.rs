//! The `blosm` command of a later version: see the feature `next`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blosm_node::cli::main()
}
