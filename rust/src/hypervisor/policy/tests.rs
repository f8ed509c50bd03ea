//! Policies: the shipped ones, mistakes in the text, and what steps do.

use super::super::shared::{Mode, VcpuWords};
use super::*;
use crate::arch::PidControl;
use crate::memory::Line;
use crate::processor::descriptor;
use std::cell::Cell;

pub(in crate::hypervisor) const KVM: &str = include_str!("../../../../python/ipivrs/policies/kvm.policy");
const SHIPPED: [&str; 4] = [
    KVM,
    include_str!("../../../../python/ipivrs/policies/kvm-5.14.policy"),
    include_str!("../../../../python/ipivrs/policies/kvm-pre-ipiv.policy"),
    include_str!("../../../../python/ipivrs/policies/kvm-sn-in-host.policy"),
];

/// A vCPU alone with its descriptor; what the steps ask of the host is written down.
struct Alone {
    pid: Line<Cell<u64>>,
    words: Line<Cell<u64>>,
    same_pcpu: bool,
    device: bool,
    listed: bool,
    walked: bool,
    log: Vec<String>,
}

impl Alone {
    fn new(control: PidControl) -> Self {
        let line = || std::array::from_fn(|_| Cell::new(0));
        let alone = Self {
            pid: line(),
            words: line(),
            same_pcpu: true,
            device: false,
            listed: false,
            walked: false,
            log: vec![],
        };
        descriptor::initialize(&alone.pid, control);
        alone
    }

    fn control(&self) -> PidControl {
        descriptor::control(&self.pid)
    }

    fn run(&mut self, text: &str, routine: Routine) -> (Finished, Vec<String>) {
        let finished = Policy::parse(text).unwrap().run(routine, self);
        (finished, std::mem::take(&mut self.log))
    }
}

impl Platform for Alone {
    type W = Cell<u64>;
    fn descriptor(&self) -> &Line<Cell<u64>> {
        &self.pid
    }
    fn words(&self) -> VcpuWords<'_, Cell<u64>> {
        VcpuWords::new(&self.words)
    }
    fn here(&self) -> u32 {
        7
    }
    fn same_pcpu(&self) -> bool {
        self.same_pcpu
    }
    fn ipiv(&self) -> bool {
        true
    }
    fn device_posting(&self) -> bool {
        self.device
    }
    fn myself(&self) -> bool {
        false
    }
    fn listed(&self) -> bool {
        self.listed
    }
    fn vector(&self) -> u8 {
        0xFB
    }
    fn harvest(&mut self) {
        self.log.push("harvest".into());
    }
    fn list_add(&mut self) {
        self.listed = true;
        self.log.push("list_add".into());
    }
    fn list_del(&mut self) {
        self.listed = false;
        self.log.push("list_del".into());
    }
    fn next_listed(&mut self) -> bool {
        self.listed && !std::mem::replace(&mut self.walked, true)
    }
    fn self_ipi(&mut self, vector: HostVector) {
        self.log.push(format!("self_ipi {}", vector.name()));
    }
    fn ipi(&mut self, vector: HostVector) {
        self.log.push(format!("ipi {}", vector.name()));
    }
    fn blocking(&self) -> bool {
        false
    }
    fn wake(&mut self) {
        self.log.push("wake".into());
    }
}

const NOTIFY: PidControl = PidControl::new().with_vector(0xF2).with_destination(7);
const WAKEUP: PidControl = PidControl::new().with_vector(0xF1).with_destination(7);

#[test]
fn the_shipped_policies_are_read() {
    for text in SHIPPED {
        let policy = Policy::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(!policy.source.is_empty());
        for routine in [Routine::Load, Routine::BeforeEntry, Routine::OnWakeup, Routine::SoftwarePost] {
            assert!(!policy.steps(routine).is_empty(), "{} has {}", policy.name, routine.name());
        }
    }
}

#[test]
fn load_clears_sn_and_looks_at_pir_again() {
    let mut alone = Alone::new(NOTIFY.with_suppress(true));
    descriptor::post_request(&alone.pid, 0x41);
    alone.run(KVM, Routine::Load);
    assert_eq!(alone.control(), NOTIFY.with_outstanding(true), "what was posted under SN is found by ON");
    let mut alone = Alone::new(NOTIFY);
    descriptor::post_request(&alone.pid, 0x41);
    alone.run(KVM, Routine::Load);
    assert_eq!(alone.control(), NOTIFY, "SN was 0: nothing to do");
}

#[test]
fn load_after_sleep_or_migration_updates_everything() {
    let mut alone = Alone::new(WAKEUP.with_destination(3));
    alone.listed = true;
    let (_, log) = alone.run(KVM, Routine::Load);
    assert_eq!((alone.control(), log), (NOTIFY, vec!["list_del".to_owned()]));
    let mut alone = Alone::new(NOTIFY.with_destination(3));
    alone.same_pcpu = false;
    let (_, log) = alone.run(KVM, Routine::Load);
    assert_eq!((alone.control(), log), (NOTIFY, vec![]));
}

#[test]
fn sleeping_switches_nv_and_tests_what_it_wrote() {
    let mut alone = Alone::new(NOTIFY);
    assert_eq!(alone.run(KVM, Routine::PutBlocking).1, ["list_add"]);
    assert_eq!(alone.control(), WAKEUP);
    let mut alone = Alone::new(NOTIFY.with_outstanding(true));
    assert_eq!(alone.run(KVM, Routine::PutBlocking).1, ["list_add", "self_ipi wakeup"]);
    let mut alone = Alone::new(NOTIFY);
    let (finished, log) = alone.run(SHIPPED[2], Routine::PreBlock);
    assert_eq!(
        (finished.cancelled, log.len(), alone.control()),
        (false, 0, NOTIFY),
        "pre-ipiv: nothing without a device"
    );
    alone.device = true;
    assert_eq!(alone.run(SHIPPED[2], Routine::PreBlock).1, ["list_add"]);
    let mut alone = Alone::new(NOTIFY.with_outstanding(true));
    let (finished, log) = alone.run(SHIPPED[1], Routine::PreBlock);
    assert!(finished.cancelled && log == ["list_add", "list_del"]);
    assert_eq!(alone.control(), NOTIFY.with_outstanding(true), "undone");
}

#[test]
fn entry_shows_the_mode_and_harvests_once() {
    let mut alone = Alone::new(NOTIFY.with_outstanding(true));
    assert_eq!(alone.run(KVM, Routine::BeforeEntry).1, ["harvest"]);
    assert_eq!((alone.control(), alone.words().mode()), (NOTIFY, Mode::InGuest));
    assert!(alone.run(KVM, Routine::BeforeEntry).1.is_empty());
    alone.run(KVM, Routine::AfterExit);
    assert_eq!(alone.words().mode(), Mode::Outside);
}

#[test]
fn software_posts_notify_or_wake_once() {
    let mut alone = Alone::new(NOTIFY);
    assert_eq!(alone.run(KVM, Routine::SoftwarePost), (Finished::default(), vec!["wake".to_owned()]));
    let (finished, log) = alone.run(KVM, Routine::SoftwarePost);
    assert!(finished.coalesced && log.is_empty(), "the bit was set already");
    let mut alone = Alone::new(NOTIFY);
    alone.words().set_mode(Mode::InGuest);
    assert_eq!(alone.run(KVM, Routine::SoftwarePost).1, ["ipi notify"]);
}

#[test]
fn the_wakeup_handler_wakes_who_is_listed_and_on() {
    for (listed, on) in [(true, true), (true, false), (false, true)] {
        let mut alone = Alone::new(WAKEUP.with_outstanding(on));
        alone.listed = listed;
        assert_eq!(!alone.run(KVM, Routine::OnWakeup).1.is_empty(), listed && on);
    }
}

/// A step is one atomic act or one look: an engine may stop between any two.
#[test]
fn routines_go_step_by_step() {
    let policy = Policy::parse(KVM).unwrap();
    let mut alone = Alone::new(NOTIFY.with_outstanding(true));
    let mut frame = Frame::new(&policy, Routine::BeforeEntry);
    let mut texts = Vec::new();
    while let Some(step) = frame.next() {
        texts.push(step.text.clone());
        frame.step(&mut alone);
    }
    assert_eq!(texts, ["mode in_guest", "fence", "if on", "clear_on", "fence", "harvest"]);
    assert_eq!(frame.next().map(|step| step.line), None);
}

fn error(text: &str) -> String {
    Policy::parse(text).unwrap_err().to_string()
}

#[test]
fn mistakes_have_a_place_and_a_hint() {
    assert_eq!(error("polcy x"), "1:1: a policy begins with \"policy NAME\"");
    assert_eq!(error("policy x\n  laod: fence"), "2:3: no routine \"laod\"; did you mean load?");
    assert_eq!(error("policy x\n  load: claer_on"), "2:9: no step \"claer_on\"; did you mean clear_on?");
    assert_eq!(error("policy x\n  load:\n    if onn: fence"), "3:8: no condition \"onn\"; did you mean on?");
    assert!(
        error("policy x\n  load: control nv=f2")
            .starts_with("2:20: no value of a host vector \"f2\"; it is one of notify")
    );
    assert_eq!(
        error("policy x\n  load: control nw=notify"),
        "2:17: no field of the control word \"nw\"; did you mean nv?"
    );
    assert!(error("policy x\n  load: if on and pir: fence").contains(
        "reads the control word (on, sn, nv, ndst) and pir: a step reads one word of memory, so write two ifs"
    ));
    assert!(error("policy x\n  load: if event or mode == outside: fence").contains("reads event and mode:"));
    assert!(error("policy x\n  load: if on fence").starts_with("2:15: \":\" is missing here, not \"fence\""));
    assert!(error("policy x\n  load: if on").starts_with("2:14: "), "behind the end of the line");
    assert!(error("policy x\n  load:\n    fence\n      fence").starts_with("4:7: this line is further right"));
    assert!(error("policy x\n  load:\n    fence\n   fence").starts_with("4:4: this line is in no block"));
    assert!(error("policy x\n  load:\n    if on:\n    fence").contains("a step is missing"));
    assert!(error("policy x\n  load:\n    else: fence").contains("else without an if"));
    assert!(error("policy x\n  load: fence\n  load: fence").contains("3:3: load is there already"));
    assert!(error("policy x\n  load: fence §").starts_with("2:15: '§' begins nothing"));
    assert!(error("").starts_with("1:1: a policy begins"));
    assert!(error(&format!("policy x\n  load: if {}on: fence", "not ".repeat(99))).contains("inside each other"));
    assert!(error(&format!("policy x\n  load: {}fence", "if on: ".repeat(99))).contains("more than 50"));
}

/// Fifty, in each of three ways, and not one more.
#[test]
fn blocks_and_conditions_nest_fifty_deep() {
    let below = |depth: usize| {
        let loops = (0..depth).map(|at| format!("{}for_listed:\n", " ".repeat(at + 4)));
        format!("policy x\n  load:\n{}{}fence", loops.collect::<String>(), " ".repeat(depth + 4))
    };
    let beside = |depth: usize| format!("policy x\n  load: {}fence", "if on: ".repeat(depth));
    let inside = |depth: usize| format!("policy x\n  load: if {}on: fence", "not ".repeat(depth));
    // The routine's own block is the first.
    for text in [&below as &dyn Fn(usize) -> String, &beside] {
        assert_eq!(Policy::parse(&text(49)).map(|_| ()), Ok(()));
        assert!(error(&text(50)).contains("more than 50"));
    }
    // A block and a term are inside it too.
    assert!(Policy::parse(&inside(48)).is_ok());
    assert!(error(&inside(49)).contains("more than 50 conditions inside each other"));
}

#[test]
fn what_a_condition_asks_for() {
    let asks = |text: &str| {
        let policy = Policy::parse(&format!("policy x\n  load: if {text}: fence")).unwrap();
        let Op::If { condition, .. } = &policy.steps(Routine::Load)[0].op else { panic!("no look") };
        (condition.asks_for(Term::Listed), condition.asks_routing_only())
    };
    // Listed is nobody else's to change, as far as a condition knows.
    assert_eq!(asks("listed"), (true, true));
    assert_eq!(asks("not listed"), (true, true));
    assert_eq!(asks("on and listed"), (true, false));
    assert_eq!(asks("listed or on"), (true, false));
    assert_eq!(asks("on"), (false, false));
    assert_eq!(asks("sn and nv == wakeup"), (false, true));
    assert_eq!(asks("not (ndst == here or old on)"), (false, true));
    assert_eq!(asks("sn or on"), (false, false));
    assert_eq!(asks("pir"), (false, false));
}

#[test]
fn conditions_see_where_notifications_go_and_what_was_posted() {
    let text = "policy x
  load:
    if ndst == here: set_on
    if ndst != here: set_sn
  before_entry:
    set_pir
    if old pir: done
    set_on";
    for (destination, expected) in [(7, NOTIFY.with_outstanding(true)), (3, NOTIFY.with_suppress(true))] {
        let mut alone = Alone::new(NOTIFY.with_destination(destination));
        alone.run(text, Routine::Load);
        assert_eq!(alone.control(), expected.with_destination(destination));
    }
    let mut alone = Alone::new(NOTIFY);
    alone.words().set_event(true);
    for expected in [NOTIFY.with_outstanding(true), NOTIFY] {
        alone.run(text, Routine::BeforeEntry);
        assert_eq!(alone.control(), expected);
        descriptor::clear_outstanding(&alone.pid);
    }
}

#[test]
fn comments_end_lines_but_not_in_quotes() {
    let policy = Policy::parse("policy x # one\n  source \"a # b\" # two\n  load: fence # three").unwrap();
    assert_eq!((policy.source.as_str(), policy.steps(Routine::Load).len()), ("a # b", 1));
}

#[test]
fn halves_have_names() {
    assert_eq!([Half::Both, Half::Low, Half::High].map(Half::name), ["both", "low", "high"]);
}

/// The policy's own flag, and giving a vCPU up.
#[test]
fn events_are_found_once() {
    let text = "policy x
  load:
    set_event
    if old event: done
    set_on
  before_entry:
    if event:
      clear_event
      if old event: set_sn
    if not event: stop
    clear_on";
    let mut alone = Alone::new(NOTIFY);
    alone.run(text, Routine::Load);
    assert_eq!(alone.control(), NOTIFY.with_outstanding(true));
    assert!(alone.words().event());
    alone.run(text, Routine::Load);
    let (finished, _) = alone.run(text, Routine::BeforeEntry);
    assert!(finished.stopped);
    assert_eq!(alone.control(), NOTIFY.with_outstanding(true).with_suppress(true), "nothing is done behind stop");
    assert!(!alone.words().event());
}

#[test]
fn surroundings_have_their_routines() {
    let text = "policy x
  publish: store_entry high; store_entry low
  refresh_apicv: ipiv_off; intercept_icr
  set_apic_id: inhibit
  load: if blocking: clear_sn";
    let policy = Policy::parse(text).unwrap();
    let act = |routine, number: usize| policy.steps(routine)[number].op.clone();
    let surrounding = |act| Op::Act(Act::Surrounding(act));
    assert_eq!(act(Routine::Publish, 0), surrounding(Surrounding::StoreEntry(Half::High)));
    assert_eq!(act(Routine::Publish, 1), surrounding(Surrounding::StoreEntry(Half::Low)));
    assert_eq!(act(Routine::RefreshApicv, 1), surrounding(Surrounding::InterceptIcr));
    assert_eq!(act(Routine::SetApicId, 0), surrounding(Surrounding::Inhibit));
    assert!(policy.has(Routine::Load) && !policy.has(Routine::AfterExit));
    assert!(act(Routine::Publish, 0) != act(Routine::Publish, 1));
    assert!(act(Routine::RefreshApicv, 0).is_private() && !act(Routine::Publish, 0).is_private());
    assert!(error("policy x\n  load: inhibit").contains("inhibit belongs to the routine set_apic_id"));
    assert!(error("policy x\n  publish: store_entry hihg").contains("did you mean high?"));
}

#[test]
fn else_and_blocks_nest() {
    let text = "policy x
  load:  if on:
           set_sn
           if sn: set_on
         else: clear_sn
         control on=0, sn=1
  put_preempted:
  after_exit: mode outside";
    let mut alone = Alone::new(NOTIFY);
    alone.run(text, Routine::Load);
    assert_eq!(alone.control(), NOTIFY.with_suppress(true));
    assert!(Policy::parse(text).unwrap().steps(Routine::PutPreempted).is_empty());
}

proptest::proptest! {
    /// Whatever the text, an answer and no panic.
    #[test]
    fn any_text_is_read_or_refused(text in "(policy x\n)?([ ]{0,4}(load|if|else|on|pir|fence|:|;|not|\\(|for_listed|control|nv=|[a-z§\"#]{1,3})[ \n]{0,2}){0,40}") {
        let _ = Policy::parse(&text);
    }
}
