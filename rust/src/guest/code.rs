//! The programs of one guest, as its vCPUs read them.

use super::program::{Instruction, Program};

/// The programs of one guest: who runs which, and all their instructions in one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestCode {
    /// Programs one after another, each with an end behind it. What idles stands at place 0, which is an end too.
    list: Vec<Instruction>,
    programs: Vec<Place>,
    main: Vec<u32>,
    /// Of each vector.
    handlers: Vec<Entry>,
    start_up: Option<Entry>,
    signals: u32,
    calls: bool,
}

/// The instructions of one guest, as whoever reads many of them holds them.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a>(&'a [Instruction]);

impl<'a> Listing<'a> {
    #[inline]
    pub(super) fn at(self, place: u32) -> Option<&'a Instruction> {
        self.0.get(place as usize)
    }
}

/// Where a program begins, and how many loops it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u32,
    pub(super) loops: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    entry: Entry,
    ends: bool,
    endless: bool,
}

impl Default for GuestCode {
    fn default() -> Self {
        Self::new(&[], Vec::new(), &[], None)
    }
}

impl GuestCode {
    /// Where a vCPU is that has no program, or whose program is at its end.
    pub(super) const IDLE: u32 = 0;
    /// Where the second half of an interrupt command is written.
    pub(super) const SECOND_HALF: u32 = 1;

    /// `main` is the number of each vCPU's program: one beyond the list has none and idles. `handlers` are those of the
    /// vectors from 0 on: for one beyond the list nothing runs. `start_up` runs after a start-up IPI before the vCPU
    /// goes on where it was; none: it begins anew.
    #[must_use]
    pub fn new(programs: &[Program], main: Vec<u32>, handlers: &[u32], start_up: Option<u32>) -> Self {
        let mut list = vec![Instruction::End, Instruction::SecondHalf];
        let mut places = Vec::with_capacity(programs.len());
        for program in programs {
            let start = list.len() as u32;
            list.extend(program.code.iter().map(|instruction| instruction.clone().moved_by(start)));
            list.push(Instruction::End);
            let endless = program.endless();
            let ends = !endless && !program.is_empty();
            places.push(Place { entry: Entry { start, loops: program.loops }, ends, endless });
        }
        let entry = |number: u32| places.get(number as usize).map(|place| place.entry);
        let nothing = Entry { start: Self::IDLE, loops: 0 };
        Self {
            handlers: handlers.iter().map(|&number| entry(number).unwrap_or(nothing)).collect(),
            start_up: start_up.and_then(entry),
            signals: programs.iter().map(Program::signals).max().unwrap_or(0),
            calls: programs.iter().any(Program::calls),
            list,
            main,
            programs: places,
        }
    }

    fn main(&self, vcpu: u32) -> Option<&Place> {
        self.programs.get(*self.main.get(vcpu as usize)? as usize)
    }

    /// Whether a vCPU's own program ends by itself: it has one, without a loop that ends only with the run.
    #[must_use]
    pub fn ends(&self, vcpu: u32) -> bool {
        self.main(vcpu).is_some_and(|place| place.ends)
    }

    /// Whether a vCPU's own program has a loop that ends only with the run.
    #[must_use]
    pub fn is_endless(&self, vcpu: u32) -> bool {
        self.main(vcpu).is_some_and(|place| place.endless)
    }

    /// vCPUs that have a number here for their program.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.main.len() as u32
    }

    /// One more than the highest number of a signal or a lock in any program.
    #[must_use]
    pub const fn signals(&self) -> u32 {
        self.signals
    }

    /// Whether a program calls functions on other vCPUs.
    #[must_use]
    pub const fn calls(&self) -> bool {
        self.calls
    }

    /// How many vectors its programs send.
    #[must_use]
    pub fn vectors(&self) -> usize {
        let mut sent = [false; 256];
        for vector in self.list.iter().filter_map(Instruction::vector) {
            sent[usize::from(vector)] = true;
        }
        sent.into_iter().filter(|&sent| sent).count()
    }

    pub(super) fn entry_of(&self, vcpu: u32) -> Option<Entry> {
        self.main(vcpu).map(|place| place.entry)
    }

    #[inline]
    pub(super) fn handler(&self, vector: u8) -> Option<Entry> {
        self.handlers.get(usize::from(vector)).copied()
    }

    pub(super) const fn start_up(&self) -> Option<Entry> {
        self.start_up
    }

    /// All instructions.
    #[inline]
    #[must_use]
    pub fn listing(&self) -> Listing<'_> {
        Listing(&self.list)
    }

    /// Whether from a place on there is nothing but computation, in a loop that ends only with the run.
    pub(super) fn only_computes(&self, place: u32) -> bool {
        let computes = |instruction: &&Instruction| matches!(instruction, Instruction::Compute { .. });
        let first = place as usize;
        let Some(left) = self.list.get(first..) else { return false };
        let end = first + left.iter().take_while(computes).count();
        let Some(Instruction::LoopEnd { start, times: None, .. }) = self.list.get(end) else { return false };
        self.list.get(*start as usize..end).is_some_and(|body| body.iter().all(|instruction| computes(&instruction)))
    }

    /// The instruction at a place; nothing is behind the last program's end.
    #[inline]
    pub(super) fn at(&self, place: u32) -> Option<&Instruction> {
        self.listing().at(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Branch, Delivery, Statement, Target};

    fn program(statements: &[Statement]) -> Program {
        Program::new(statements).unwrap()
    }

    fn repeat(times: Option<u64>, body: Vec<Statement>) -> Statement {
        Statement::Loop { times, body }
    }

    #[test]
    fn jumps_lead_to_the_same_instructions_wherever_a_program_stands() {
        let choice = Statement::Choose { branches: vec![Branch { weight: 1, body: vec![Statement::Hlt] }] };
        let written = program(&[repeat(Some(2), vec![Statement::Eoi, choice])]);
        let code = GuestCode::new(&[written.clone(), written.clone()], vec![1], &[0], None);
        let Entry { start, loops } = code.entry_of(0).unwrap();
        assert_eq!((start, loops), (3 + written.code.len() as u32, 1));
        assert_eq!(code.at(start + 4), Some(&Instruction::Goto(start + 5)));
        assert_eq!(code.at(start + 5), Some(&Instruction::LoopEnd { number: 0, start: start + 1, times: Some(2) }));
        assert_eq!(code.at(start + 2), Some(&Instruction::Choose { branches: vec![(1, start + 3)] }));
        assert_eq!(code.at(start + written.code.len() as u32), Some(&Instruction::End));
        assert_eq!(code.handler(0).map(|entry| entry.start), Some(2));
        assert_eq!((code.at(GuestCode::IDLE), code.handler(1)), (Some(&Instruction::End), None));
    }

    #[test]
    fn a_loop_that_only_computes_is_known_from_each_of_its_places() {
        let compute = Statement::Compute { cycles: 10 };
        let known = |times, body: &[Statement]| {
            let written = program(&[repeat(times, body.to_vec()), Statement::Eoi]);
            let code = GuestCode::new(std::slice::from_ref(&written), vec![0], &[], None);
            (0..=written.code.len() as u32 + 2).filter(|&place| code.only_computes(place)).collect::<Vec<_>>()
        };
        // At 2 the loop begins.
        assert_eq!(known(None, &[compute.clone(), compute.clone()]), [3, 4, 5]);
        assert!(known(Some(9), std::slice::from_ref(&compute)).is_empty());
        assert!(known(None, &[Statement::Eoi, compute.clone()]).is_empty());
        assert!(known(None, &[compute, Statement::Eoi]).is_empty());
    }

    #[test]
    fn vectors_count_once() {
        let send = |vector| Statement::Send { vector, to: Target::Vcpu(0), mode: Delivery::Fixed, logical: false };
        let call = Statement::Call { to: Target::Others, vector: 0x51 };
        let one = program(&[send(0x41), send(0x42), Statement::SelfIpi { vector: 0x43 }]);
        let other = program(&[send(0x42), call]);
        assert_eq!(GuestCode::new(&[one, other], vec![], &[], None).vectors(), 4);
        assert_eq!(GuestCode::default().vectors(), 0);
    }

    #[test]
    fn a_program_ends_if_it_has_instructions_and_no_endless_loop() {
        let endless = program(&[repeat(None, vec![Statement::Eoi])]);
        let programs = [program(&[]), endless, program(&[Statement::Hlt])];
        let code = GuestCode::new(&programs, vec![0, 1, 2, 7], &[], None);
        assert_eq!([0, 1, 2, 3, 4].map(|vcpu| code.ends(vcpu)), [false, false, true, false, false]);
        assert_eq!([0, 1, 2, 3, 4].map(|vcpu| code.is_endless(vcpu)), [false, true, false, false, false]);
        assert_eq!(code.vcpus(), 4);
    }
}
