//! Running a policy's routines.

use super::super::shared::VcpuWords;
use super::Policy;
use super::language::{Act, Condition, ControlChange, HostVector, Op, Reads, Routine, Step, Surrounding, Term};
use crate::arch::PidControl;
use crate::memory::{Line, Word};
use crate::processor::descriptor;
use bitfield_struct::bitfield;

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
    /// The subject is inside `kvm_vcpu_block`.
    fn blocking(&self) -> bool;
    /// A step is about to be taken: engines that count what it costs do so here.
    #[inline]
    fn stepping(&mut self, _op: &Op) {}
    /// Acts beyond the descriptor. Engines that do them as KVM does leave them out.
    fn surrounding(&mut self, _act: Surrounding) {}
}

/// A routine under way: which step is next, and what its acts have seen.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'p> {
    steps: &'p [Step],
    at: Saved,
}

/// What a routine under way has to remember from one step to the next.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Saved {
    /// Number of the next step.
    pub next: u16,
    /// `cancel_block`.
    pub cancelled: bool,
    /// `old pir`.
    pub old_pir: bool,
    /// `old event`.
    pub old_event: bool,
    /// `old on`.
    pub old_on: bool,
    /// `old sn`.
    pub old_sn: bool,
    /// `new on`.
    pub new_on: bool,
    /// `new sn`.
    pub new_sn: bool,
    /// `stop`.
    pub stopped: bool,
    #[bits(8)]
    reserved: u8,
}

/// What a routine leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// `cancel_block`: the vCPU shall not sleep.
    pub cancelled: bool,
    /// The bit that `set_pir` set was set already: two interrupts became one.
    pub coalesced: bool,
    /// `stop`: the vCPU never goes on.
    pub stopped: bool,
}

impl Policy {
    /// Runs a routine from its first step to its last.
    #[inline]
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn run<P: Platform>(&self, routine: Routine, platform: &mut P) -> Finished {
        let mut frame = Frame::new(self, routine);
        while frame.step(platform) {}
        frame.finished()
    }
}

impl<'p> Frame<'p> {
    /// The routine before its first step.
    #[must_use]
    pub fn new(policy: &'p Policy, routine: Routine) -> Self {
        Self::resume(policy, routine, Saved::new())
    }

    /// The routine as it was left.
    #[must_use]
    #[inline]
    pub fn resume(policy: &'p Policy, routine: Routine, at: Saved) -> Self {
        Self { steps: policy.steps(routine), at }
    }

    /// What it takes to go on later.
    #[must_use]
    #[inline]
    pub const fn save(&self) -> Saved {
        self.at
    }

    /// The step that comes next.
    #[must_use]
    #[inline]
    pub fn next(&self) -> Option<&'p Step> {
        self.steps.get(usize::from(self.at.next()))
    }

    /// What the routine leaves behind, so far.
    #[must_use]
    pub const fn finished(&self) -> Finished {
        Finished { cancelled: self.at.cancelled(), coalesced: self.at.old_pir(), stopped: self.at.stopped() }
    }

    /// Executes one step: one atomic act, or one look. Returns whether there was one.
    #[inline]
    pub fn step<P: Platform>(&mut self, platform: &mut P) -> bool {
        while let Some(step) = self.next() {
            self.at.set_next(self.at.next() + 1);
            if let Op::Goto(to) = step.op {
                self.at.set_next(to);
                continue;
            }
            platform.stepping(&step.op);
            match &step.op {
                Op::Goto(_) => {}
                Op::Act(act) => self.act(*act, platform),
                Op::If { condition, otherwise } => {
                    if !self.holds(condition, platform) {
                        self.at.set_next(*otherwise);
                    }
                }
                Op::NextListed { otherwise } => {
                    if !platform.next_listed() {
                        self.at.set_next(*otherwise);
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
            Act::SetPir => self.at.set_old_pir(descriptor::post_request(platform.descriptor(), platform.vector())),
            Act::Harvest => platform.harvest(),
            Act::Fence => <P::W as Word>::fence(),
            Act::ListAdd => platform.list_add(),
            Act::ListDel => platform.list_del(),
            Act::SelfIpi(vector) => platform.self_ipi(vector),
            Act::Ipi(vector) => platform.ipi(vector),
            Act::Wake => platform.wake(),
            Act::SetEvent => self.at.set_old_event(platform.words().set_event(true)),
            Act::ClearEvent => self.at.set_old_event(platform.words().set_event(false)),
            Act::Surrounding(act) => platform.surrounding(act),
            Act::CancelBlock => self.at.set_cancelled(true),
            Act::Stop => {
                self.at.set_stopped(true);
                self.at.set_next(u16::MAX);
            }
            Act::Mode(mode) => platform.words().set_mode(mode),
            Act::Done => self.at.set_next(u16::MAX),
        }
    }

    /// One locked change of the control word.
    fn control<W: Word>(&mut self, pid: &Line<W>, change: impl Fn(PidControl) -> PidControl) {
        let old = descriptor::update_control(pid, &change);
        let new = change(old);
        self.at.set_old_on(old.outstanding());
        self.at.set_old_sn(old.suppress());
        self.at.set_new_on(new.outstanding());
        self.at.set_new_sn(new.suppress());
    }

    fn holds<P: Platform>(&self, condition: &Condition, platform: &P) -> bool {
        // One load of the one word that the condition reads.
        let (mut control, mut pir, mut mode, mut event) = (PidControl::new(), false, None, false);
        match condition.first_read() {
            Some(Reads::Control) => control = descriptor::control(platform.descriptor()),
            Some(Reads::Pir) => pir = descriptor::requests(platform.descriptor()) != [0; 4],
            Some(Reads::Mode) => mode = Some(platform.words().mode()),
            Some(Reads::Event) => event = platform.words().event(),
            None => {}
        }
        condition.holds(&|term| match term {
            Term::On => control.outstanding(),
            Term::Sn => control.suppress(),
            Term::Nv(vector) => control.vector() == vector.vector(),
            Term::NdstHere => control.destination() == platform.here(),
            Term::Pir => pir,
            Term::Mode(asked) => mode == Some(asked),
            Term::OldOn => self.at.old_on(),
            Term::OldSn => self.at.old_sn(),
            Term::OldPir => self.at.old_pir(),
            Term::NewOn => self.at.new_on(),
            Term::NewSn => self.at.new_sn(),
            Term::SamePcpu => platform.same_pcpu(),
            Term::Ipiv => platform.ipiv(),
            Term::DevicePosting => platform.device_posting(),
            Term::Myself => platform.myself(),
            Term::Listed => platform.listed(),
            Term::Blocking => platform.blocking(),
            Term::Event => event,
            Term::OldEvent => self.at.old_event(),
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
