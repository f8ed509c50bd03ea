//! The text of a policy: parsed, or refused at a place that the text has.
#![no_main]

use ipivrs::hypervisor::policy::Policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Policy::parse(text) {
        let lines = text.lines().count() as u32 + 1;
        assert!((1..=lines).contains(&error.line), "line {} of {lines}: {error}", error.line);
        assert!(error.column >= 1 && !error.to_string().is_empty());
    }
});
