//! A way through the states, told step by step.

use super::memory::{Memory, Scratch, Shared};
use super::model::{Actor, Model, Move, Outcome, Unwatched, Watch};
use super::state::{AgentPlace, HostPlace, Physical, Place, World};
use crate::hypervisor::RESCHEDULE_VECTOR;
use crate::hypervisor::policy::{HostVector, Routine};

/// One step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// Who: its column in a drawing.
    pub actor: String,
    /// The pCPU on which a vCPU's thread does it.
    pub pcpu: Option<u8>,
    /// What: the policy's words, or what hardware and scheduler do.
    pub step: String,
    /// The routine and the line of the policy's words.
    pub line: Option<(Routine, u32)>,
    /// What is different afterwards.
    pub changes: Vec<String>,
    /// Which of the moves that could be made it is.
    pub choice: usize,
}

/// The policy's steps that a move goes through.
#[derive(Debug, Default)]
struct Steps(Vec<(Routine, u16)>);

impl Watch for Steps {
    fn step(&mut self, routine: Routine, number: u16) {
        self.0.push((routine, number));
    }
}

impl Model<'_> {
    /// The moves that a state has.
    #[must_use]
    pub fn moves_of(&self, world: &World) -> Vec<Move> {
        let mut moves = Vec::new();
        self.moves(world, &mut |it| moves.push(it));
        moves
    }

    /// The first move that leads to a state, but for which of several agents of one kind is which; it is made.
    pub(super) fn choice_to(&self, world: &mut World, to: &World) -> Option<usize> {
        let memory = Scratch::new(self.senders());
        let (choice, next) = self.moves_of(world).into_iter().enumerate().find_map(|(choice, it)| {
            let mut next = *world;
            self.apply(&mut next, &memory, it, &mut Unwatched);
            let mut canonical = next;
            self.canonical(&mut canonical);
            (canonical == *to).then_some((choice, next))
        })?;
        *world = next;
        Some(choice)
    }

    /// Makes the `choice`-th move and tells of it. None: there is no such move.
    pub(super) fn tell(&self, world: &mut World, choice: usize) -> Option<(TraceStep, Outcome)> {
        let it = *self.moves_of(world).get(choice)?;
        Some(self.tell_on(world, &Scratch::new(self.senders()), it, choice))
    }

    /// The same on words that are shared.
    pub(super) fn tell_on_shared(
        &self,
        world: &mut World,
        memory: &Shared,
        it: Move,
        choice: usize,
    ) -> (TraceStep, Outcome) {
        self.tell_on(world, memory, it, choice)
    }

    fn tell_on<M: Memory>(&self, world: &mut World, memory: &M, it: Move, choice: usize) -> (TraceStep, Outcome) {
        let before = *world;
        let mut steps = Steps::default();
        let outcome = self.apply(world, memory, it, &mut steps);
        let words = |&(routine, number): &(Routine, u16)| {
            self.policy.steps(routine).get(usize::from(number)).map(|step| (routine, step.line, step.text.clone()))
        };
        let policy: Vec<_> = steps.0.iter().filter_map(words).collect();
        let own = self.own_words(&before, world, it);
        let texts = own.into_iter().chain(policy.iter().map(|(_, _, text)| text.clone()));
        let pcpu = match it.actor() {
            Actor::Vcpu(vcpu) | Actor::Buffer(vcpu) => {
                let pcpu = |world: &World| world.vcpus[usize::from(vcpu)].on_pcpu();
                let loaded = |world: &World| world.pcpus.iter().any(|pcpu| pcpu.current() == vcpu + 1);
                if loaded(&before) { Some(pcpu(&before)) } else { loaded(world).then(|| pcpu(world)) }
            }
            _ => None,
        };
        let told = TraceStep {
            actor: self.name(it.actor()),
            pcpu,
            step: texts.collect::<Vec<_>>().join("; "),
            line: policy.first().map(|&(routine, line, _)| (routine, line)),
            changes: self.changes(&before, world),
            choice,
        };
        (told, outcome)
    }

    fn name(&self, actor: Actor) -> String {
        match actor {
            Actor::Vcpu(number) => format!("vCPU {number}"),
            Actor::Pcpu(number) => format!("pCPU {number}"),
            Actor::Agent(number) => self.agent_name(usize::from(number)),
            Actor::Host => "host".to_owned(),
            Actor::Buffer(number) => format!("store buffer of vCPU {number}"),
        }
    }

    pub(super) fn agent_name(&self, number: usize) -> String {
        let (senders, devices) = (usize::from(self.bounds.senders), usize::from(self.bounds.devices));
        if number < senders {
            format!("sender {number}")
        } else if number < senders + devices {
            format!("device {}", number - senders)
        } else {
            format!("software {}", number - senders - devices)
        }
    }

    /// What a move is beside the policy's steps.
    fn own_words(&self, before: &World, after: &World, it: Move) -> Option<String> {
        let words = match it {
            Move::Load { pcpu, migrates: true, .. } => format!("migrates to pCPU {pcpu}"),
            Move::Load { pcpu, .. } => format!("is scheduled in on pCPU {pcpu}"),
            Move::Halt(_) => "HLT: VM exit".to_owned(),
            Move::Exit(_) => "VM exit".to_owned(),
            Move::Preempt(_) => "is preempted".to_owned(),
            Move::Take(vcpu) => {
                let pcpu = usize::from(before.vcpus[usize::from(vcpu)].on_pcpu());
                let vector = highest(before, pcpu);
                if after.vcpus[usize::from(vcpu)].place() == Place::ClearOn {
                    format!("takes {vector:02X}H: posted-interrupt processing")
                } else {
                    format!("takes {vector:02X}H: VM exit")
                }
            }
            Move::Interrupt(pcpu) => format!("takes {:02X}H in root mode", highest(before, usize::from(pcpu))),
            Move::Flush(_) => "the oldest store reaches memory".to_owned(),
            Move::Handler(_) => return None,
            Move::Thread(vcpu) => return thread_words(before, after, usize::from(vcpu)).map(str::to_owned),
            Move::Agent(agent) => return self.agent_words(before, after, usize::from(agent)),
            Move::Host => return host_words(before).map(str::to_owned),
        };
        Some(words)
    }

    fn agent_words(&self, before: &World, after: &World, number: usize) -> Option<String> {
        let (was, is) = (before.agents[number], after.agents[number]);
        let vector = self.vector_of(number);
        let target = &before.vcpus[self.target(number)];
        let words = match (was.place(), is.place()) {
            (AgentPlace::Begin, _) if was.request() => "VM exit: APICv is inhibited".to_owned(),
            (AgentPlace::Begin | AgentPlace::Found, AgentPlace::Posted) => format!("posts {vector:02X}H: PIR"),
            (AgentPlace::Begin, AgentPlace::Found) => "reads the table entry: valid".to_owned(),
            (AgentPlace::Begin, AgentPlace::Software) if self.is_sender(number) => "VM exit for its IPI".to_owned(),
            (AgentPlace::Begin, AgentPlace::Begin) if self.is_sender(number) && was.ipiv_off() => {
                if was.intercepted() {
                    "VM exit for its IPI; nobody has that APIC ID".to_owned()
                } else {
                    "writes the ICR: it is the physical one".to_owned()
                }
            }
            (AgentPlace::Begin, AgentPlace::Begin) if self.is_sender(number) => {
                if before.global.entry_low() {
                    "reads the table entry: V, and half an address".to_owned()
                } else {
                    "reads the table entry: not valid, the IPI exits and is dropped".to_owned()
                }
            }
            (AgentPlace::Posted, AgentPlace::InFlight) => {
                format!("sends the notification {:02X}H to pCPU {}", nv(is.flight_wakeup()), is.flight_to())
            }
            (AgentPlace::Posted, _) if target.sn() => "sends nothing: SN is 1".to_owned(),
            (AgentPlace::Posted, _) => "sends nothing: ON is 1".to_owned(),
            (AgentPlace::InFlight, _) => {
                format!("{:02X}H arrives at pCPU {}", nv(was.flight_wakeup()), was.flight_to())
            }
            _ => return None,
        };
        Some(words)
    }

    /// The vectors of agents, as a set.
    pub(super) fn vectors(&self, bits: u8) -> String {
        let named = |agent: usize| format!("{:02X}H", self.vector_of(agent));
        let all: Vec<String> = (0..8).filter(|agent| bits >> agent & 1 != 0).map(named).collect();
        if all.is_empty() { "empty".to_owned() } else { all.join(" ") }
    }

    /// What differs between two states, in words.
    fn changes(&self, before: &World, after: &World) -> Vec<String> {
        let mut all = Vec::new();
        for number in 0..self.vcpus() {
            let (was, is) = (before.vcpus[number], after.vcpus[number]);
            let mut tell = |what: &str, was: String, is: String| {
                if was != is {
                    all.push(format!("vCPU {number}: {what} {was} -> {is}"));
                }
            };
            let bit = |value: bool| u8::from(value).to_string();
            tell("PIR", self.vectors(was.pir()), self.vectors(is.pir()));
            tell("ON", bit(was.on()), bit(is.on()));
            tell("SN", bit(was.sn()), bit(is.sn()));
            let named = |wakeup: bool| if wakeup { HostVector::Wakeup } else { HostVector::Notify }.name().to_owned();
            tell("NV", named(was.nv_wakeup()), named(is.nv_wakeup()));
            tell("NDST", format!("pCPU {}", was.ndst()), format!("pCPU {}", is.ndst()));
            tell("VIRR", self.vectors(was.virr()), self.vectors(is.virr()));
            let mode = |in_guest: bool| if in_guest { "in_guest" } else { "outside" }.to_owned();
            tell("mode", mode(was.in_guest()), mode(is.in_guest()));
            if is.buffered() > was.buffered() {
                tell("mode in the store buffer", mode(was.newest_mode()), mode(is.newest_mode()));
            }
            tell("event", bit(was.event()), bit(is.event()));
            let task = |interruptible: bool| if interruptible { "interruptible" } else { "running" }.to_owned();
            tell("task", task(was.interruptible()), task(is.interruptible()));
            tell("is", resting(was.place()).to_owned(), resting(is.place()).to_owned());
            let delivered = (was.pir() | was.virr()) & !(is.pir() | is.virr());
            if delivered != 0 {
                all.push(format!("vCPU {number}: {} delivered", self.vectors(delivered)));
            }
        }
        for number in 0..self.pcpus() {
            let (was, is) = (before.pcpus[number], after.pcpus[number]);
            for (was, is, vector) in [
                (was.notify(), is.notify(), HostVector::Notify.vector()),
                (was.wakeup(), is.wakeup(), HostVector::Wakeup.vector()),
                (was.reschedule(), is.reschedule(), RESCHEDULE_VECTOR),
            ] {
                if was != is {
                    all.push(format!("pCPU {number}: {vector:02X}H {}", if is { "pending" } else { "taken" }));
                }
            }
            for vcpu in (0..self.vcpus()).filter(|vcpu| (was.list() ^ is.list()) >> vcpu & 1 != 0) {
                let how = if is.list() >> vcpu & 1 != 0 { "joins" } else { "leaves" };
                all.push(format!("vCPU {vcpu} {how} the wakeup list of pCPU {number}"));
            }
        }
        let (was, is) = (before.global, after.global);
        let table = [(was.entry_low(), is.entry_low(), "31:0"), (was.entry_high(), is.entry_high(), "63:32")];
        for (was, is, bits) in table {
            if was != is {
                all.push(format!("table entry of vCPU 0: bits {bits} written"));
            }
        }
        if was.id_rewritten() != is.id_rewritten() {
            all.push("vCPU 0 has its new APIC ID".to_owned());
        }
        for agent in 0..self.agents() {
            let (was, is) = (before.agents[agent], after.agents[agent]);
            let name = self.agent_name(agent);
            if !was.request() && is.request() {
                all.push(format!("{name} is asked to leave its guest"));
            }
            if was.ipiv_off() != is.ipiv_off() {
                all.push(format!("{name}: IPI virtualization off"));
            }
            if was.intercepted() != is.intercepted() {
                all.push(format!("{name}: writes of the ICR exit"));
            }
        }
        all
    }
}

const fn nv(wakeup: bool) -> u8 {
    if wakeup { HostVector::Wakeup.vector() } else { HostVector::Notify.vector() }
}

fn highest(world: &World, pcpu: usize) -> u8 {
    let pcpu = world.pcpus[pcpu];
    if pcpu.reschedule() { RESCHEDULE_VECTOR } else { nv(!pcpu.notify()) }
}

const fn thread_words(before: &World, after: &World, vcpu: usize) -> Option<&'static str> {
    let words = match before.vcpus[vcpu].place() {
        Place::Root => "goes to enter its guest",
        Place::ClearOn => "posted-interrupt processing: ON := 0",
        Place::Harvest => "posted-interrupt processing: takes 64 bits of PIR",
        Place::SetTask => "set_current_state(TASK_INTERRUPTIBLE)",
        Place::SetRunning => "set_current_state(TASK_RUNNING)",
        Place::Schedule => "schedule(): is to sleep",
        Place::LieDown if matches!(after.vcpus[vcpu].place(), Place::Asleep) => "sleeps",
        Place::LieDown => "was woken before it slept",
        _ => return None,
    };
    Some(words)
}

const fn host_words(before: &World) -> Option<&'static str> {
    match before.global.host() {
        HostPlace::Inhibit => Some("inhibits APICv"),
        HostPlace::Inhibited | HostPlace::IdInhibited => Some("no sender is in its guest with the old controls"),
        HostPlace::WriteId => Some("the guest writes the xAPIC ID of vCPU 0"),
        HostPlace::Publish | HostPlace::SetApicId | HostPlace::Done => None,
    }
}

/// What others would say of a thread.
pub(super) const fn resting(place: Place) -> &'static str {
    match place {
        Place::Queued => "queued",
        Place::Asleep => "asleep",
        Place::Stopped => "given up",
        Place::Guest | Place::ClearOn | Place::Harvest => "in its guest",
        _ => "in root mode",
    }
}

/// The interrupts that a pCPU has.
pub(super) fn pending(world: &World, pcpu: usize) -> Vec<String> {
    let pcpu = world.pcpus[pcpu];
    [(pcpu.reschedule(), Physical::Reschedule), (pcpu.notify(), Physical::Notify), (pcpu.wakeup(), Physical::Wakeup)]
        .into_iter()
        .filter(|&(is, _)| is)
        .map(|(_, which)| match which {
            Physical::Reschedule => format!("{RESCHEDULE_VECTOR:02X}H"),
            other => format!("{:02X}H", nv(other == Physical::Wakeup)),
        })
        .collect()
}
