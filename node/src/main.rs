//! The `blosm` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    blosm_node::cli::main()
}
