//! Verdicts of the shipped policies and of what is left when a line of them is missing.

use super::graph::worst_case;
use super::memory::Scratch;
use super::model::Unwatched;
use super::search::{SPURIOUS_NOTIFICATION, SPURIOUS_WAKEUP, Space, place, search};
use super::*;
use crate::hypervisor::policy::Policy;

const KVM: &str = include_str!("../../../../python/ipivrs/policies/kvm.policy");
const KVM_5_14: &str = include_str!("../../../../python/ipivrs/policies/kvm-5.14.policy");
const PRE_IPIV: &str = include_str!("../../../../python/ipivrs/policies/kvm-pre-ipiv.policy");
const SN_IN_HOST: &str = include_str!("../../../../python/ipivrs/policies/kvm-sn-in-host.policy");

/// Small enough for a debug build.
const SMALL: Bounds = Bounds {
    senders: 1,
    devices: 0,
    software: 1,
    posts: 1,
    preemptions: 0,
    migrations: 1,
    exits: 0,
    pcpus: 2,
    vcpus: 1,
    memory_model: MemoryModel::Sc,
    urgent: false,
    publish: false,
    inhibit: false,
    rewrite_id: false,
    ipiv: true,
};

fn limits(threads: usize) -> Limits {
    Limits { threads, max_states: 50_000_000, max_bytes: 8 << 30 }
}

fn checked(text: &str, bounds: &Bounds, limits: &Limits) -> Verdict {
    let policy = Policy::parse(text).unwrap();
    let model = Model::new(&policy, bounds).unwrap();
    check(&model, limits, &mut |_| true).unwrap()
}

fn kind(text: &str, bounds: &Bounds) -> Option<Kind> {
    let verdict = checked(text, bounds, &limits(1));
    assert!(verdict.undecided.is_none());
    verdict.counterexample.map(|counterexample| counterexample.kind)
}

/// KVM's policy without a line.
fn kvm_without(line: &str) -> String {
    let begin = KVM.find(line).unwrap();
    let end = begin + KVM[begin..].find('\n').unwrap();
    format!("{}{}", &KVM[..begin], &KVM[end..])
}

#[test]
fn shipped_policies() {
    for holds in [KVM, KVM_5_14, SN_IN_HOST] {
        assert_eq!(kind(holds, &SMALL), None);
    }
    assert_eq!(kind(PRE_IPIV, &SMALL), Some(Kind::LostWakeup));
    assert_eq!(kind(PRE_IPIV, &Bounds { senders: 0, devices: 1, ..SMALL }), None, "it was right for devices");
}

#[test]
fn every_line_of_put_blocking_counts() {
    assert_eq!(kind(&kvm_without("    if new on: self_ipi wakeup"), &SMALL), Some(Kind::LostWakeup));
    assert_eq!(kind(&kvm_without("    control nv=wakeup"), &SMALL), Some(Kind::LostWakeup));
    assert_eq!(kind(&kvm_without("    list_add"), &SMALL), Some(Kind::LostWakeup));
    assert_eq!(
        kind(&KVM.replace("control nv=wakeup\n", "control nv=wakeup, sn=1\n"), &SMALL),
        Some(Kind::SnWhileBlocked)
    );
}

#[test]
fn a_software_post_must_set_its_bit() {
    for text in [kvm_without("    set_pir"), KVM.replace("    set_pir\n", "    if on: done\n    set_pir\n")] {
        assert_eq!(kind(&text, &SMALL), Some(Kind::Unposted));
    }
}

/// Whether the vCPU is listed may change before the next step of somebody else's routine.
#[test]
fn others_looks_at_the_list_are_steps_of_their_own() {
    let text = KVM
        .replace("    set_pir\n", "    if listed:\n      set_pir\n      set_on\n      wake\n      done\n    set_pir\n");
    assert_ne!(text, KVM);
    let policy = Policy::parse(&text).unwrap();
    let model = Model::new(&policy, &Bounds { senders: 0, ..SMALL }).unwrap();
    let mut world = model.first();
    let agent = |world: &World| model.moves_of(world).into_iter().position(|it| it == Move::Agent(0)).unwrap();
    let choice = agent(&world);
    let (step, _) = model.tell(&mut world, choice).unwrap();
    assert_eq!(step.step, "if listed");
}

#[test]
fn every_line_of_load_counts() {
    let bounds = Bounds { preemptions: 1, software: 0, ..SMALL };
    assert_eq!(kind(&kvm_without("    if pir: set_on"), &bounds), Some(Kind::LostInterrupt));
    assert_eq!(kind(&kvm_without("      if nv == wakeup: list_del"), &bounds), Some(Kind::TwoLists));
    assert_eq!(kind(KVM, &bounds), None);
}

/// Store buffering: the mode and ON are both read before the other side's store is seen.
#[test]
fn the_fence_at_entry_counts_where_stores_are_buffered() {
    let without = kvm_without("    fence                                       # the mode is seen");
    let tso = Bounds { memory_model: MemoryModel::Tso, ..SMALL };
    assert_eq!(kind(&without, &SMALL), None);
    assert_eq!(kind(&without, &tso), Some(Kind::LostInterrupt));
    assert_eq!(kind(&without, &Bounds { software: 0, senders: 2, ..tso }), None, "hardware does not look at the mode");
    assert_eq!(kind(KVM, &tso), None);
}

/// It is woken, finds nothing and sleeps again, though PIR is not empty.
const NEVER_HARVESTS: &str = r"
policy never-harvests
  load:
    if nv == wakeup: list_del
    control nv=notify, ndst=here, sn=0
    if pir: set_on
  before_entry: if on: clear_on; harvest
  put_blocking:
    list_add
    control nv=wakeup
    if pir: self_ipi wakeup
  on_wakeup: for_listed: wake
";

#[test]
fn endless_waking_is_a_livelock() {
    let verdict = checked(NEVER_HARVESTS, &Bounds { software: 0, migrations: 0, ..SMALL }, &limits(1));
    let counterexample = verdict.counterexample.unwrap();
    assert_eq!(counterexample.kind, Kind::Livelock);
    let begin = counterexample.cycle_from.unwrap();
    let cycle: Vec<&str> = counterexample.steps[begin..].iter().map(|step| step.step.as_str()).collect();
    assert!(cycle.contains(&"sleeps") && cycle.contains(&"wake"), "{cycle:?}");
}

#[test]
fn table_entries_are_stored_whole_or_with_v_last() {
    let bounds = Bounds { publish: true, software: 0, ..SMALL };
    let with = |steps: &str| KVM.replace("    store_entry\n", &format!("    {steps}\n"));
    assert_ne!(with("store_entry low"), KVM);
    assert_eq!(kind(&with("store_entry"), &bounds), None);
    assert_eq!(kind(&with("store_entry low; store_entry high"), &bounds), Some(Kind::WildPost));
    assert_eq!(kind(&with("store_entry high; store_entry low"), &bounds), None);
}

#[test]
fn an_inhibit_must_reach_those_who_send() {
    let inhibit = Bounds { inhibit: true, ..SMALL };
    assert_eq!(kind(KVM, &inhibit), None);
    assert_eq!(kind(&KVM.replace("ipiv_off; intercept_icr", "ipiv_off"), &inhibit), Some(Kind::Escape));
    let rewrite = Bounds { rewrite_id: true, ..SMALL };
    assert_eq!(kind(KVM, &rewrite), None);
    assert_eq!(kind(&KVM.replace("    inhibit\n", ""), &rewrite), Some(Kind::Misdelivery));
}

#[test]
fn devices_that_are_urgent_notify_though_sn_is_set() {
    let device = Bounds { senders: 0, devices: 1, preemptions: 1, ..SMALL };
    let without = kvm_without("    if pir: set_on");
    assert_eq!(kind(&without, &Bounds { software: 0, ..device }), Some(Kind::LostInterrupt));
    assert_eq!(kind(&without, &Bounds { software: 0, urgent: true, ..device }), None);
}

#[test]
fn verdicts_do_not_depend_on_threads() {
    for text in [KVM, PRE_IPIV, &kvm_without("    if new on: self_ipi wakeup")] {
        let one = checked(text, &SMALL, &limits(1));
        for threads in [2, 3, 5] {
            assert_eq!(checked(text, &SMALL, &limits(threads)), one);
        }
    }
}

#[test]
fn what_is_too_large_is_not_decided() {
    let few = Limits { max_states: 1000, ..limits(1) };
    let verdict = checked(KVM, &SMALL, &few);
    assert_eq!(verdict.holds(), None);
    assert_eq!(verdict.undecided.as_deref(), Some("more than 1000 states"));
    let small = Limits { max_bytes: 1 << 20, ..limits(1) };
    assert_eq!(checked(KVM, &Bounds::default(), &small).undecided.as_deref(), Some("more than 1 MiB of memory"));
}

#[test]
fn it_can_be_stopped() {
    let policy = Policy::parse(SN_IN_HOST).unwrap();
    let model = Model::new(&policy, &Bounds { posts: 3, preemptions: 3, ..Bounds::default() }).unwrap();
    assert_eq!(check(&model, &limits(1), &mut |_| false), Err(CheckError::Interrupted));
}

#[test]
fn counterexamples_happen_again_on_real_atomics() {
    for (text, bounds) in [
        (PRE_IPIV, SMALL),
        (&*kvm_without("    if new on: self_ipi wakeup"), SMALL),
        (&*kvm_without("    if pir: set_on"), Bounds { preemptions: 1, ..SMALL }),
        (NEVER_HARVESTS, Bounds { software: 0, ..SMALL }),
    ] {
        let policy = Policy::parse(text).unwrap();
        let model = Model::new(&policy, &bounds).unwrap();
        let counterexample = check(&model, &limits(1), &mut |_| true).unwrap().counterexample.unwrap();
        let choices: Vec<usize> = counterexample.steps.iter().map(|step| step.choice).collect();
        for threads in [false, true] {
            let again = replay(&model, &choices, threads).unwrap();
            assert_eq!(again.steps, counterexample.steps);
            assert_eq!(again.violation, Some(counterexample.kind));
            assert_eq!(again.diagnosis.as_ref(), Some(&counterexample.diagnosis));
            assert!(again.confirmed, "{text}");
        }
    }
}

#[test]
fn store_buffers_cannot_be_forced() {
    let policy = Policy::parse(KVM).unwrap();
    let model = Model::new(&policy, &Bounds { memory_model: MemoryModel::Tso, ..SMALL }).unwrap();
    assert!(replay(&model, &[0, 0], false).unwrap().confirmed);
    assert!(replay(&model, &[0, 0], true).is_err());
}

#[test]
fn a_schedule_that_does_not_fit_is_refused() {
    let policy = Policy::parse(KVM).unwrap();
    let model = Model::new(&policy, &SMALL).unwrap();
    let error = replay(&model, &[0, 99], false).unwrap_err().to_string();
    assert!(error.starts_with("step 2 of the schedule cannot be made: there are "), "{error}");
}

#[test]
fn bounds_and_routines_are_asked_for() {
    let refused = |text: &str, bounds: Bounds| {
        let policy = Policy::parse(text).unwrap();
        Model::new(&policy, &bounds).unwrap_err().to_string()
    };
    assert_eq!(refused(KVM, Bounds { vcpus: 3, ..SMALL }), "vcpus is 3: it can be 1 to 2");
    assert_eq!(refused(KVM, Bounds { exits: 8, ..SMALL }), "exits is 8: it can be 0 to 7");
    assert!(refused(KVM, Bounds { ipiv: false, ..SMALL }).contains("they send with IPI virtualization"));
    let agents = refused(KVM, Bounds { senders: 8, ..SMALL });
    assert_eq!(agents, "senders, devices and software together are 9: they can be 1 to 8");
    let bare = "policy bare\n  load: control nv=notify, ndst=here, sn=0\n";
    let missing = refused(bare, SMALL);
    assert!(missing.starts_with("bare has no routine before_entry, which is needed because "), "{missing}");
    let posts = refused(&format!("{bare}  before_entry:\n"), SMALL);
    assert!(posts.contains("no routine software_post"), "{posts}");
    for (routine, step, why) in [
        ("software_post", "control ndst=here", "software_post runs on a pCPU that is not in the model"),
        ("software_post", "list_del", "software_post is not run by the vCPU that it is about"),
        ("on_wakeup", "stop", "on_wakeup is not run by the vCPU that it is about"),
        ("load", "set_pir", "load posts nothing"),
        ("refresh_apicv", "set_on", "refresh_apicv changes the sender's own controls"),
        ("load", "for_listed: wake", "load is not the handler that walks a wakeup list"),
        ("on_wakeup", "for_listed:\n      for_listed: wake", "on_wakeup holds the list's lock already"),
    ] {
        let strange = KVM.replacen(&format!("  {routine}:"), &format!("  {routine}:\n    {step}"), 1);
        let why_not = refused(&strange, SMALL);
        assert!(why_not.contains(why), "{why_not}");
    }
}

/// Every state of a small model in which senders are told apart by their number only.
fn space_of(model: &Model<'_>) -> Space {
    search(model, &limits(1), &mut |_| true).unwrap()
}

const THREE_SENDERS: Bounds = Bounds { senders: 3, software: 0, preemptions: 1, migrations: 0, ..SMALL };

#[test]
fn twins_move_to_the_same_state() {
    let policy = Policy::parse(KVM).unwrap();
    let model = Model::new(&policy, &THREE_SENDERS).unwrap();
    let (space, memory) = (space_of(&model), Scratch::new(model.senders()));
    let after = |world: &World, it: Move| {
        let mut next = *world;
        let outcome = model.apply(&mut next, &memory, it, &mut Unwatched);
        model.canonical(&mut next);
        (next, outcome, it.optional(world))
    };
    let mut twins = 0;
    for part in &space.parts {
        for world in (0..part.len()).map(|index| model.layout.unpack(part.state(index))) {
            for it in model.moves_of(&world) {
                if let Move::Agent(agent) = it
                    && let Some(twin) = model.twin(&world, usize::from(agent))
                {
                    assert_eq!(after(&world, it), after(&world, Move::Agent(twin as u8)));
                    twins += 1;
                }
            }
        }
    }
    assert!(twins * 20 > space.edges(), "{twins} of {} edges", space.edges());
}

/// The worst case, by handing on along every edge until nothing changes.
#[test]
fn the_worst_case_is_that_of_all_paths() {
    let policy = Policy::parse(KVM).unwrap();
    let model = Model::new(&policy, &THREE_SENDERS).unwrap();
    let space = space_of(&model);
    let mut most: Vec<Vec<(u32, u32)>> = space.parts.iter().map(|part| vec![(0, 0); part.len()]).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for (at, part) in space.parts.iter().enumerate() {
            let mut edges = part.edges.iter();
            for (index, degree) in (0..part.len()).map(|index| (index, part.degree(index))) {
                let here = most[at][index];
                for &edge in edges.by_ref().take(degree.into()) {
                    let (to, index) = place(edge);
                    let there = &mut most[to][index];
                    let more = (
                        there.0.max(here.0 + u32::from(edge & SPURIOUS_NOTIFICATION != 0)),
                        there.1.max(here.1 + u32::from(edge & SPURIOUS_WAKEUP != 0)),
                    );
                    changed |= more != *there;
                    *there = more;
                }
            }
        }
    }
    let worst = most.iter().flatten().fold((0, 0), |worst, one| (worst.0.max(one.0), worst.1.max(one.1)));
    assert!(worst.0 > 0 && worst.1 > 0);
    let expected = WorstCase { spurious_notifications: Some(worst.0), spurious_wakeups: Some(worst.1) };
    assert_eq!(worst_case(&space), expected);
}
