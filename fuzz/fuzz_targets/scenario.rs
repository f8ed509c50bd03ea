//! A scenario: TOML as a person may have it, taken as the description that the Python face makes of it.
#![no_main]

use ipivrs::hypervisor::policy::Policy;
use ipivrs::scenario::Scenario;
use libfuzzer_sys::fuzz_target;

const KVM: &str = include_str!("../../python/ipivrs/policies/kvm.policy");

fuzz_target!(|text: &str| {
    let Ok(table) = toml::from_str::<serde_json::Value>(text) else { return };
    let Ok(scenario) = Scenario::from_json(&table.to_string()) else { return };
    let policy = Policy::parse(KVM).expect("the shipped policy");
    if let Err(error) = scenario.machine(policy) {
        assert!(!error.to_string().is_empty());
    }
});
