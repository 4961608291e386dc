//! Compiles the gate (one file, standard library only) into a static binary that the library embeds.
//!
//! A container image must not depend on the C library of the machine that it is built on, and Cargo's own flags for
//! the workspace stay as they are: so the compiler is called here directly.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "gate/gate.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let binary = PathBuf::from(variable("OUT_DIR")).join("gate");
    let status = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "gate", "-O"])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["--target", &variable("TARGET")])
        .arg("-o")
        .arg(&binary)
        .arg(SOURCE)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("{SOURCE} did not compile ({status}): a static build needs libc.a (Debian: libc6-dev)")
        }
        Err(error) => panic!("the Rust compiler did not start: {error}"),
    }
}
