//! What the build says of itself: commit and compiler, for `ipivrs --version` and `ipivrs info`.
//!
//! The commit is that of the checkout this package is the root of; a source package is of none, also where somebody
//! unpacked it inside a repository of their own.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Only the Python face tells: without it a commit is no reason to build again.
    if std::env::var_os("CARGO_FEATURE_PYTHON").is_none() {
        return;
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=IPIVRS_RUSTC={version}");
    let commit = commit().unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=IPIVRS_COMMIT={commit}");
}

/// The commit that is checked out here. Whatever changes when another one is, makes cargo ask again.
fn commit() -> Option<String> {
    if !output("git", &["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    // The log grows with each commit and checkout. It can be turned off, then the branch itself is watched.
    if !watch("logs/HEAD") {
        watch("HEAD");
        if let Some(branch) = output("git", &["symbolic-ref", "--quiet", "HEAD"]) {
            // A path that is not there would have cargo build every time.
            let _ = watch(&branch) || watch("packed-refs");
        }
    }
    Some(commit)
}

/// Has cargo watch a file of git's; whether it is there. In a linked worktree it is not below `.git`.
fn watch(name: &str) -> bool {
    let path = output("git", &["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
    if let Some(path) = &path {
        println!("cargo::rerun-if-changed={path}");
    }
    path.is_some()
}

/// What a command prints, or none if it cannot be run or fails.
fn output(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
