//! Running a policy's routines.

use super::super::shared::VcpuWords;
use super::Policy;
use super::language::{Act, Condition, ControlChange, HostVector, Op, Reads, Routine, Step, Term};
use crate::arch::PidControl;
use crate::memory::{Line, Word};
use crate::processor::descriptor;

/// What a routine acts on. The subject is the vCPU that the routine is about; under `for_listed` it is the listed one.
pub trait Platform {
    /// The words of memory.
    type W: Word;
    /// The subject's descriptor.
    fn descriptor(&self) -> &Line<Self::W>;
    /// The subject's shared words.
    fn words(&self) -> VcpuWords<'_, Self::W>;
    /// NDST of the pCPU that executes the step.
    fn here(&self) -> u32;
    /// The subject ran on this pCPU last.
    fn same_pcpu(&self) -> bool;
    /// The subject can use IPI virtualization.
    fn ipiv(&self) -> bool;
    /// Its VM has a device that posts.
    fn device_posting(&self) -> bool;
    /// The subject is the vCPU that this pCPU runs.
    fn myself(&self) -> bool;
    /// The subject is on a wakeup list.
    fn listed(&self) -> bool;
    /// The vector that is posted.
    fn vector(&self) -> u8;
    /// VIRR |= PIR, PIR := 0.
    fn harvest(&mut self);
    /// Adds the subject to this pCPU's wakeup list.
    fn list_add(&mut self);
    /// Takes the subject off the wakeup list it is on.
    fn list_del(&mut self);
    /// The next listed vCPU becomes the subject; false after the last.
    fn next_listed(&mut self) -> bool;
    /// A physical interrupt to this pCPU.
    fn self_ipi(&mut self, vector: HostVector);
    /// A physical interrupt to the subject's pCPU.
    fn ipi(&mut self, vector: HostVector);
    /// Wakes the subject's thread.
    fn wake(&mut self);
}

/// A routine under way: which step is next, and what its acts have seen.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'p> {
    steps: &'p [Step],
    next: u16,
    seen: Finished,
    old: PidControl,
    new: PidControl,
}

/// What a routine leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// `cancel_block`: the vCPU shall not sleep.
    pub cancelled: bool,
    /// The bit that `set_pir` set was set already: two interrupts became one.
    pub coalesced: bool,
}

impl Policy {
    /// Runs a routine from its first step to its last.
    #[inline]
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn run<P: Platform>(&self, routine: Routine, platform: &mut P) -> Finished {
        let mut frame = Frame::new(self, routine);
        while frame.step(platform) {}
        frame.seen
    }
}

impl<'p> Frame<'p> {
    /// The routine before its first step.
    #[must_use]
    pub fn new(policy: &'p Policy, routine: Routine) -> Self {
        Self {
            steps: policy.steps(routine),
            next: 0,
            seen: Finished::default(),
            old: PidControl::new(),
            new: PidControl::new(),
        }
    }

    /// The step that comes next.
    #[must_use]
    pub fn next(&self) -> Option<&'p Step> {
        self.steps.get(usize::from(self.next))
    }

    /// What the routine leaves behind, so far.
    #[must_use]
    pub const fn finished(&self) -> Finished {
        self.seen
    }

    /// Executes one step: one atomic act, or one look. Returns whether there was one.
    #[inline]
    pub fn step<P: Platform>(&mut self, platform: &mut P) -> bool {
        while let Some(step) = self.next() {
            self.next += 1;
            match &step.op {
                Op::Goto(to) => {
                    self.next = *to;
                    continue;
                }
                Op::Act(act) => self.act(*act, platform),
                Op::If { condition, otherwise } => {
                    if !self.holds(condition, platform) {
                        self.next = *otherwise;
                    }
                }
                Op::NextListed { otherwise } => {
                    if !platform.next_listed() {
                        self.next = *otherwise;
                    }
                }
            }
            return true;
        }
        false
    }

    fn act<P: Platform>(&mut self, act: Act, platform: &mut P) {
        match act {
            Act::SetOn => self.control(platform.descriptor(), |control| control.with_outstanding(true)),
            Act::ClearOn => self.control(platform.descriptor(), |control| control.with_outstanding(false)),
            Act::SetSn => self.control(platform.descriptor(), |control| control.with_suppress(true)),
            Act::ClearSn => self.control(platform.descriptor(), |control| control.with_suppress(false)),
            Act::Control(change) => {
                let here = platform.here();
                self.control(platform.descriptor(), |control| change.applied(control, here));
            }
            Act::SetPir => self.seen.coalesced = descriptor::post_request(platform.descriptor(), platform.vector()),
            Act::Harvest => platform.harvest(),
            Act::Fence => <P::W as Word>::fence(),
            Act::ListAdd => platform.list_add(),
            Act::ListDel => platform.list_del(),
            Act::SelfIpi(vector) => platform.self_ipi(vector),
            Act::Ipi(vector) => platform.ipi(vector),
            Act::Wake => platform.wake(),
            Act::CancelBlock => self.seen.cancelled = true,
            Act::Mode(mode) => platform.words().set_mode(mode),
            Act::Done => self.next = u16::MAX,
        }
    }

    /// One locked change of the control word.
    fn control<W: Word>(&mut self, pid: &Line<W>, change: impl Fn(PidControl) -> PidControl) {
        self.old = descriptor::update_control(pid, &change);
        self.new = change(self.old);
    }

    fn holds<P: Platform>(&self, condition: &Condition, platform: &P) -> bool {
        // One load of the one word that the condition reads.
        let (mut control, mut pir, mut mode) = (PidControl::new(), false, None);
        match condition.first_read() {
            Some(Reads::Control) => control = descriptor::control(platform.descriptor()),
            Some(Reads::Pir) => pir = descriptor::requests(platform.descriptor()) != [0; 4],
            Some(Reads::Mode) => mode = Some(platform.words().mode()),
            None => {}
        }
        condition.holds(&|term| match term {
            Term::On => control.outstanding(),
            Term::Sn => control.suppress(),
            Term::Nv(vector) => control.vector() == vector.vector(),
            Term::NdstHere => control.destination() == platform.here(),
            Term::Pir => pir,
            Term::Mode(asked) => mode == Some(asked),
            Term::OldOn => self.old.outstanding(),
            Term::OldSn => self.old.suppress(),
            Term::OldPir => self.seen.coalesced,
            Term::NewOn => self.new.outstanding(),
            Term::NewSn => self.new.suppress(),
            Term::SamePcpu => platform.same_pcpu(),
            Term::Ipiv => platform.ipiv(),
            Term::DevicePosting => platform.device_posting(),
            Term::Myself => platform.myself(),
            Term::Listed => platform.listed(),
        })
    }
}

impl ControlChange {
    fn applied(self, control: PidControl, here: u32) -> PidControl {
        control
            .with_vector(self.nv.map_or(control.vector(), HostVector::vector))
            .with_destination(if self.ndst_here { here } else { control.destination() })
            .with_suppress(self.sn.unwrap_or(control.suppress()))
            .with_outstanding(self.on.unwrap_or(control.outstanding()))
    }
}
