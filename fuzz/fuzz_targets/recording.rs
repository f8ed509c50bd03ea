//! What both targets that read recordings do with a file.

use ipivrs::intake::{self, Options};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Reads `file` as a recording; what comes out of it must be consistent, and what is refused must say why.
pub fn read(target: &str, file: &[u8]) {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        folder.join(format!("ipivrs-fuzz-{target}-{}", std::process::id()))
    });
    std::fs::write(path, file).expect("the fuzzed file");
    match intake::read(path, &Options::default()) {
        Ok(recording) => {
            let ipis = &recording.ipis;
            let rows = ipis.time_ns.len();
            assert_eq!([ipis.sender.len(), ipis.destination.len(), ipis.icr_low.len(), ipis.via.len()], [rows; 4]);
            assert!(ipis.sender.iter().all(|&sender| (sender as usize) < recording.vcpus.len()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
