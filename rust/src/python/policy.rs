//! Policies: their names, and their steps for whoever writes them down in another language.

use crate::hypervisor::Mode;
use crate::hypervisor::policy::{
    Act, Condition, ControlChange, HostVector, Op, Policy, Routine, Step, Surrounding, Term,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Map, Value, json};

fn parse(text: &str) -> PyResult<Policy> {
    Policy::parse(text).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The name and the source of a policy.
///
/// Raises:
///     ValueError: It has a mistake: "LINE:COLUMN: what is wrong".
#[pyfunction]
pub(super) fn read_policy(text: &str) -> PyResult<(String, String)> {
    let policy = parse(text)?;
    Ok((policy.name, policy.source))
}

/// The steps of a policy, JSON: {"name", "source", "routines": {NAME: [STEP, ...]}}, with the routines that it has.
///
/// A step has "line", "text" and one of "act" with its arguments, "if" with "otherwise", "next_listed" with "otherwise", "goto".
/// "otherwise" and "goto" number steps from 0.
///
/// Raises:
///     ValueError: It has a mistake: "LINE:COLUMN: what is wrong".
#[pyfunction]
pub(super) fn policy_steps(text: &str) -> PyResult<String> {
    let policy = parse(text)?;
    let routines: Map<String, Value> = Routine::ALL
        .into_iter()
        .filter(|&routine| policy.has(routine))
        .map(|routine| (routine.name().to_owned(), policy.steps(routine).iter().map(step).collect()))
        .collect();
    Ok(json!({"name": policy.name, "source": policy.source, "routines": routines}).to_string())
}

fn step(step: &Step) -> Value {
    let mut value = match &step.op {
        Op::Act(Act::Control(change)) => control(*change),
        Op::Act(Act::SelfIpi(vector)) => json!({"act": "self_ipi", "vector": vector.name()}),
        Op::Act(Act::Ipi(vector)) => json!({"act": "ipi", "vector": vector.name()}),
        Op::Act(Act::Mode(mode)) => json!({"act": "mode", "mode": mode_name(*mode)}),
        Op::Act(Act::Surrounding(Surrounding::StoreEntry(half))) => json!({"act": "store_entry", "half": half.name()}),
        Op::Act(_) => json!({"act": step.text}),
        Op::If { condition: asked, otherwise } => json!({"if": condition(asked), "otherwise": otherwise}),
        Op::NextListed { otherwise } => json!({"next_listed": true, "otherwise": otherwise}),
        Op::Goto(to) => json!({"goto": to}),
    };
    if let Some(value) = value.as_object_mut() {
        value.insert("line".to_owned(), step.line.into());
        value.insert("text".to_owned(), step.text.clone().into());
    }
    value
}

fn control(change: ControlChange) -> Value {
    json!({
        "act": "control",
        "nv": change.nv.map(HostVector::name),
        "ndst_here": change.ndst_here,
        "sn": change.sn,
        "on": change.on,
    })
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::InGuest => "in_guest",
        Mode::Outside => "outside",
    }
}

fn condition(asked: &Condition) -> Value {
    match asked {
        Condition::Term(Term::Nv(vector)) => json!({"term": "nv", "vector": vector.name()}),
        Condition::Term(Term::Mode(mode)) => json!({"term": "mode", "mode": mode_name(*mode)}),
        Condition::Term(term) => json!({"term": term_name(*term)}),
        Condition::Not(inner) => json!({"not": condition(inner)}),
        Condition::And(left, right) => json!({"and": [condition(left), condition(right)]}),
        Condition::Or(left, right) => json!({"or": [condition(left), condition(right)]}),
    }
}

const fn term_name(term: Term) -> &'static str {
    match term {
        Term::On => "on",
        Term::Sn => "sn",
        Term::Nv(_) => "nv",
        Term::NdstHere => "ndst_here",
        Term::Pir => "pir",
        Term::Mode(_) => "mode",
        Term::Event => "event",
        Term::OldOn => "old_on",
        Term::OldSn => "old_sn",
        Term::OldPir => "old_pir",
        Term::OldEvent => "old_event",
        Term::NewOn => "new_on",
        Term::NewSn => "new_sn",
        Term::SamePcpu => "same_pcpu",
        Term::Ipiv => "ipiv",
        Term::DevicePosting => "device_posting",
        Term::Myself => "self",
        Term::Listed => "listed",
        Term::Blocking => "blocking",
    }
}
