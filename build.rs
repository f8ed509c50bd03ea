//! What the build says of itself: commit and compiler, for `ipivrs --version` and `ipivrs info`.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=IPIVRS_COMMIT={commit}");
    println!("cargo::rustc-env=IPIVRS_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
    // Grows with each commit; a source package has none.
    let log = ".git/logs/HEAD";
    if Path::new(log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What a command prints, or none if it cannot be run or fails.
fn output(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
