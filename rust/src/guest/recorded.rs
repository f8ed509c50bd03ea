//! The program of a vCPU that does at recorded times what a recording says it did.

use super::program::{Instruction, Program};
use super::sends::Send;
use crate::arch::apic_register::SVR_ENABLED;
use crate::arch::{ApicMode, ApicRegister};

/// What a vCPU did, act by act; times are cycles since the start of the run, and do not fall.
///
/// Where an act takes longer than in the recording, those after it are late, and catch up as soon as they can.
#[derive(Clone, Debug)]
pub struct RecordedLife {
    program: Program,
    mode: ApicMode,
}

impl RecordedLife {
    /// Nothing yet, with the local APIC in this mode.
    #[must_use]
    pub fn new(mode: ApicMode) -> Self {
        Self { program: Program::default(), mode }
    }

    /// It sends an interrupt at `time`, and switches the mode of its local APIC before that if the write needs another.
    pub fn send(&mut self, time: u64, send: &Send) {
        self.until(time);
        let mode = send.via.mode();
        if mode != self.mode {
            self.mode = mode;
            self.program.code.extend([Instruction::Apic { mode }, Instruction::LogicalId]);
        }
        self.program.code.push(Instruction::Command { icr: send.icr, via: send.via });
    }

    /// It halts at `time`, and goes on at `until` if no interrupt ends the halt before.
    pub fn halt(&mut self, time: u64, until: u64) {
        self.until(time);
        self.program.code.push(Instruction::Sleep { until });
    }

    /// It runs on until `time`.
    pub fn until(&mut self, time: u64) {
        self.program.code.push(Instruction::Until { time });
    }

    /// The program.
    #[must_use]
    pub fn program(self) -> Program {
        self.program
    }
}

impl Program {
    /// What a recorded vCPU does after a start-up IPI, before its life goes on: it enables its local APIC by software.
    #[must_use]
    pub fn start_up() -> Self {
        let enable = Instruction::Register { offset: ApicRegister::SVR.offset(), value: SVR_ENABLED };
        Self { code: vec![Instruction::LogicalId, enable], loops: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Icr;
    use crate::guest::testing::next;
    use crate::guest::{Action, Cursor, GuestCode, Via};

    fn code(life: RecordedLife) -> GuestCode {
        let programs = [life.program(), Program::end_of_interrupt(), Program::start_up()];
        GuestCode::new(&programs, vec![0], &[1; 256], Some(2))
    }

    fn send(via: Via) -> Send {
        Send { order: 0, icr: Icr::from_x2apic(1 << 32 | 0xFB), via }
    }

    #[test]
    fn it_waits_as_long_as_it_did_and_sends_what_it_sent() {
        let mut life = RecordedLife::new(ApicMode::X2Apic);
        life.send(100, &send(Via::X2ApicIcr));
        let code = code(life);
        let mut cursor = Cursor::new(&code, 0, 1);
        for now in [0, 99] {
            assert_eq!(next(&mut cursor, &code, now, ApicMode::X2Apic), Action::Until { time: 100 });
        }
        assert_eq!(next(&mut cursor, &code, 100, ApicMode::X2Apic), Action::Internal);
        let sent = Action::Send { icr: send(Via::X2ApicIcr).icr, via: Via::X2ApicIcr };
        assert_eq!(next(&mut cursor, &code, 100, ApicMode::X2Apic), sent);
        assert_eq!(next(&mut cursor, &code, 100, ApicMode::X2Apic), Action::Idle);
    }

    #[test]
    fn the_mode_is_switched_where_a_write_needs_another() {
        let mut life = RecordedLife::new(ApicMode::XApic);
        life.send(0, &send(Via::Mmio));
        life.send(0, &send(Via::SelfIpiMsr));
        life.send(0, &send(Via::X2ApicIcr));
        let switches = life.program.code.iter().filter(|step| matches!(step, Instruction::Apic { .. })).count();
        assert_eq!(switches, 1);
        let code = code(life);
        let mut cursor = Cursor::new(&code, 0, 1);
        let acts: Vec<_> = (0..3).map(|_| next(&mut cursor, &code, 0, ApicMode::XApic)).collect();
        let high = Action::Write { offset: 0x310, value: 1 << 24 };
        assert_eq!(acts, [Action::Internal, high, Action::Send { icr: send(Via::Mmio).icr, via: Via::Mmio }]);
    }

    /// The same program from the beginning would send everything again.
    #[test]
    fn after_a_start_up_ipi_life_goes_on() {
        let mut life = RecordedLife::new(ApicMode::XApic);
        life.send(0, &send(Via::Mmio));
        life.halt(10, 20);
        let code = code(life);
        let mut cursor = Cursor::new(&code, 0, 1);
        let all = |cursor: &mut Cursor, count| -> Vec<_> {
            (0..count).map(|_| next(cursor, &code, 10, ApicMode::XApic)).collect()
        };
        assert!(matches!(all(&mut cursor, 3)[..], [_, Action::Write { .. }, Action::Send { .. }]));
        assert_eq!(all(&mut cursor, 2), [Action::Internal, Action::Sleep { until: 20 }]);
        cursor.restart(&code, 0);
        let ldr = Action::Write { offset: 0xD0, value: 1 << 24 };
        let svr = Action::Write { offset: 0xF0, value: SVR_ENABLED };
        let back = Action::Return { interrupts: true, computing: 0 };
        assert_eq!(all(&mut cursor, 4), [ldr, svr, back, Action::Idle]);
        cursor.restart(&code, 0);
        assert_eq!(all(&mut cursor, 3), [ldr, svr, Action::Idle], "also when it is at its end");
    }

    #[test]
    fn a_reset_between_the_halves_of_a_command_sends_it_anew() {
        let mut life = RecordedLife::new(ApicMode::XApic);
        life.send(0, &send(Via::Mmio));
        let code = code(life);
        let mut cursor = Cursor::new(&code, 0, 1);
        let all = |cursor: &mut Cursor, count| -> Vec<_> {
            (0..count).map(|_| next(cursor, &code, 0, ApicMode::XApic)).collect()
        };
        assert!(matches!(all(&mut cursor, 2)[1], Action::Write { offset: 0x310, .. }));
        cursor.restart(&code, 0);
        assert!(matches!(all(&mut cursor, 5)[3..], [Action::Write { offset: 0x310, .. }, Action::Send { .. }]));
    }
}
