//! `Vcpu`: one vCPU driven by hand.

use super::batch::Columns;
use super::dicts;
use super::outcome::Outcome;
use super::parse::{self, U8, U32, U64};
use super::vm::SharedMachine;
use crate::arch::{AccessKind, ApicRegister, Clause, PidControl, VmcsField};
use crate::measure::clock;
use crate::processor::{Access, ExternalInterrupt, Width, vectors_of};
use numpy::{AllowTypeChange, PyArrayLike1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::hint::black_box;

/// One vCPU of a `Vm`, always in VMX non-root operation.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct Vcpu {
    machine: SharedMachine,
    index: usize,
}

impl Vcpu {
    pub(super) const fn new(machine: SharedMachine, index: usize) -> Self {
        Self { machine, index }
    }

    /// Seconds that WRMSRs of `values` take.
    pub(super) fn time_wrmsr(&self, msr: u32, values: impl Iterator<Item = u64>) -> f64 {
        let mut machine = self.machine.lock();
        let begin = clock();
        for value in values {
            let _ = black_box(machine.wrmsr(self.index, msr, value));
        }
        clock() - begin
    }

    fn bank(&self, bank: ApicRegister) -> Vec<u32> {
        self.machine.lock().virtual_apic(self.index).map(|apic| integers(&apic.vectors(bank))).unwrap_or_default()
    }
}

/// Vectors as a list of integers: Python would take a `Vec<u8>` for bytes.
fn integers(vectors: &[u8]) -> Vec<u32> {
    vectors.iter().copied().map(u32::from).collect()
}

fn access(offset: i128, width: i128, kind: AccessKind) -> PyResult<Access> {
    let width = u32::try_from(width)
        .ok()
        .and_then(Width::from_bytes)
        .ok_or_else(|| PyValueError::new_err(format!("width must be 1, 2, 4 or 8 bytes, not {width}")))?;
    Ok(Access { offset: parse::ranged("offset", offset, 0xFFF)?, width, kind, after_write: false })
}

fn register(offset: i128) -> PyResult<ApicRegister> {
    let offset: u16 = parse::ranged("offset", offset, 0xFFF)?;
    let register = ApicRegister::containing(offset);
    if register.offset() == offset {
        return Ok(register);
    }
    Err(PyValueError::new_err(format!("offset {offset:#x} is no register: registers stand at multiples of 0x10")))
}

fn field(encoding: u32) -> PyResult<VmcsField> {
    VmcsField::from_encoding(encoding).ok_or_else(|| {
        let known: Vec<_> = VmcsField::ALL.iter().map(|field| format!("{:04X}H", field.encoding())).collect();
        PyValueError::new_err(format!("VMCS field {encoding:04X}H is not modelled; these are: {}", known.join(", ")))
    })
}

fn no_descriptor(address: u64) -> PyErr {
    PyValueError::new_err(format!("the descriptor address in the VMCS, {address:#x}, is no descriptor"))
}

#[pymethods]
#[allow(clippy::needless_pass_by_value, reason = "PyO3 hands arrays over by value")]
impl Vcpu {
    /// WRMSR: the guest writes `value` (64 bits, EDX:EAX) to the MSR numbered `msr`.
    ///
    /// The x2APIC registers are MSRs 800H to 8FFH; 830H is the ICR. A write of IA32_APIC_BASE (1BH) exits and the
    /// hypervisor switches the local APIC's mode or injects #GP(0). A notification that becomes due is carried to the
    /// target's local APIC. SDM vol. 3C, "Virtualizing MSR-Based APIC Accesses" 30.5.
    fn wrmsr(&self, msr: U32, value: U64) -> Outcome {
        let mut machine = self.machine.lock();
        let outcome = machine.wrmsr(self.index, msr.0, value.0);
        Outcome::of_write(outcome, |violation| violation.message(machine.memory()))
    }

    /// RDMSR: the outcome's `value` is what the guest reads. IA32_APIC_BASE (1BH) exits and the hypervisor answers.
    /// SDM vol. 3C, 30.5.
    fn rdmsr(&self, msr: U32) -> Outcome {
        let (read, emulated) = self.machine.lock().rdmsr(self.index, msr.0);
        Outcome::of_read(read, Clause::MsrVirtualized).answered(emulated)
    }

    /// A write of `width` bytes (1, 2, 4 or 8) at `offset` (0 to 0xFFF) of the APIC-access page, by an instruction that does
    /// nothing else. SDM vol. 3C, "Virtualizing Writes to the APIC-Access Page" 30.4.3.
    ///
    /// Raises:
    ///     ValueError: No such offset or width.
    #[pyo3(signature = (offset, value, width=4))]
    fn mmio_write(&self, offset: i128, value: U64, width: i128) -> PyResult<Outcome> {
        let access = access(offset, width, AccessKind::Write)?;
        let mut machine = self.machine.lock();
        let outcome = machine.mmio_write(self.index, access, value.0);
        Ok(Outcome::of_write(outcome, |violation| violation.message(machine.memory())))
    }

    /// A read of `width` bytes (1, 2, 4 or 8) at `offset` (0 to 0xFFF) of the APIC-access page. SDM vol. 3C, "Virtualizing
    /// Reads from the APIC-Access Page" 30.4.2.
    ///
    /// Raises:
    ///     ValueError: No such offset or width.
    #[pyo3(signature = (offset, width=4))]
    fn mmio_read(&self, offset: i128, width: i128) -> PyResult<Outcome> {
        let access = access(offset, width, AccessKind::Read)?;
        Ok(Outcome::of_read(self.machine.lock().mmio_read(self.index, access), Clause::ReadVirtualized))
    }

    /// An instruction fetch from `offset` (0 to 0xFFF) of the APIC-access page. SDM vol. 3C, 30.4.2.
    ///
    /// Raises:
    ///     ValueError: No such offset.
    fn mmio_fetch(&self, offset: i128) -> PyResult<Outcome> {
        let access = access(offset, 1, AccessKind::Fetch)?;
        Ok(Outcome::of_read(self.machine.lock().mmio_read(self.index, access), Clause::ReadVirtualized))
    }

    /// WRMSR of each of `values` (one dimension, taken as uint64) to one MSR, in order, as `wrmsr` does it.
    ///
    /// Returns columns with a row for each write: "outcome" (uint8, a position in `OUTCOMES`), "clause" (uint8, a position
    /// in `CLAUSES`), "reason" (uint16) and "qualification" (uint64) of an exit, else 0; "vector" (int16), "destination"
    /// (int64), "coalesced" (int8, 0 or 1), "notification" (int8, a position in `NOTIFICATIONS`) of what was posted, else -1.
    fn wrmsr_batch<'py>(
        &self,
        py: Python<'py>,
        msr: U32,
        values: PyArrayLike1<'py, u64, AllowTypeChange>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let values = values.as_array();
        py.detach(|| {
            let mut columns = Columns::of_rows(values.len());
            self.machine.lock().wrmsr_each(self.index, msr.0, values.iter().copied(), |outcome| columns.push(outcome));
            columns
        })
        .into_dict(py)
    }

    /// A write of each of `values` (one dimension, taken as uint64) at one offset of the APIC-access page, in order, as
    /// `mmio_write` does it. Returns columns as `wrmsr_batch` does.
    ///
    /// Raises:
    ///     ValueError: No such offset or width.
    #[pyo3(signature = (offset, values, width=4))]
    fn mmio_write_batch<'py>(
        &self,
        py: Python<'py>,
        offset: i128,
        values: PyArrayLike1<'py, u64, AllowTypeChange>,
        width: i128,
    ) -> PyResult<Bound<'py, PyDict>> {
        let access = access(offset, width, AccessKind::Write)?;
        let values = values.as_array();
        py.detach(|| {
            let mut columns = Columns::of_rows(values.len());
            self.machine
                .lock()
                .mmio_write_each(self.index, access, values.iter().copied(), |outcome| columns.push(outcome));
            columns
        })
        .into_dict(py)
    }

    /// An interrupt that a device posts in this vCPU's descriptor through the IOMMU, urgent (SN is not looked at) or not;
    /// the notification is carried to the pCPU's local APIC. "Interrupt Posting", Intel VT-d 5.2.3.
    ///
    /// Raises:
    ///     ValueError: The descriptor address in the VMCS is no descriptor.
    #[pyo3(signature = (vector, *, urgent=false))]
    fn device_post(&self, vector: U8, urgent: bool) -> PyResult<Outcome> {
        let mut machine = self.machine.lock();
        let posted = machine.device_post(self.index, vector.0, urgent);
        let address = machine.vmread(self.index, VmcsField::PostedInterruptDescriptorAddress);
        posted.map(Outcome::of_post).ok_or_else(|| no_descriptor(address))
    }

    /// Requests a physical interrupt of this vCPU's pCPU; `external_interrupt` takes it.
    fn physical_interrupt(&self, vector: U8) {
        self.machine.lock().physical_interrupt(self.index, vector.0);
    }

    /// The highest interrupt that the local APIC has pending arrives: posted-interrupt processing ("virtualized"), or VM
    /// exit 1, whose `vector` is the acknowledged one. Returns None if nothing was deliverable. SDM vol. 3C, 30.6.
    fn external_interrupt(&self) -> Option<Outcome> {
        let mut machine = self.machine.lock();
        let interrupt = machine.external_interrupt(self.index);
        let vector = machine.vmread(self.index, VmcsField::PostedInterruptNotificationVector) as u8;
        Outcome::of_external_interrupt(interrupt, vector, |violation| violation.message(machine.memory()))
    }

    /// The 4096 bytes of the virtual-APIC page, a copy. SDM vol. 3C, "Virtual-APIC Registers" 30.1.1.
    #[getter]
    fn virtual_apic_page<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.machine.lock().virtual_apic_page(self.index))
    }

    /// Makes reads or writes of an MSR exit (True) or pass (False); None leaves them as they are. vCPUs of a VM whose
    /// local APICs are in the same mode share one MSR bitmap. SDM vol. 3C, "MSR-Bitmap Address" 25.6.9.
    ///
    /// Raises:
    ///     ValueError: No bitmap covers the MSR: outside 0-1FFFH and C0000000H-C0001FFFH every access exits.
    #[pyo3(signature = (msr, *, read=None, write=None))]
    fn set_intercept(&self, msr: U32, read: Option<bool>, write: Option<bool>) -> PyResult<()> {
        let mut machine = self.machine.lock();
        for (is_write, exits) in [(false, read), (true, write)] {
            if let Some(exits) = exits
                && !machine.set_intercept(self.index, msr.0, is_write, exits)
            {
                return Err(PyValueError::new_err(format!(
                    "MSR {:X}H is in no MSR bitmap, its accesses always exit: give 0 to 1FFFH or C0000000H to C0001FFFH",
                    msr.0
                )));
            }
        }
        Ok(())
    }

    /// Whether reads and writes of an MSR exit: a pair. SDM vol. 3C, "MSR-Bitmap Address" 25.6.9.
    fn intercepts(&self, msr: U32) -> (bool, bool) {
        let machine = self.machine.lock();
        let exits = |write| machine.intercept(self.index, msr.0, write).unwrap_or(true);
        (exits(false), exits(true))
    }

    /// SENDUIPI to the UPID at physical address `upid` (see `Vm.new_upid`) with user vector `user_vector`, 0 to 63.
    fn senduipi(&self, upid: U64, user_vector: U8) -> Outcome {
        let mut machine = self.machine.lock();
        let sent = machine.senduipi(self.index, upid.0, user_vector.0);
        Outcome::of_senduipi(sent, |violation| violation.message(machine.memory()))
    }

    /// VM entry: controls and addresses in the VMCS are checked and take effect, pending virtual interrupts are
    /// evaluated. SDM vol. 3C, "VM-Execution Control Fields" 27.2.1.1.
    ///
    /// Raises:
    ///     ValueError: A check fails (VM-instruction error 7); the message names it. Nothing has changed.
    fn enter(&self) -> PyResult<()> {
        self.machine
            .lock()
            .enter(self.index)
            .map_err(|failure| PyValueError::new_err(format!("VM entry fails: {failure}")))
    }

    /// Posted-interrupt processing of what the local APIC has pending, and nothing else. Returns how many vectors moved
    /// from PIR to VIRR, or None if no notification was pending. SDM vol. 3C, "Posted-Interrupt Processing" 30.6.
    fn process_notification(&self) -> Option<u32> {
        match self.machine.lock().external_interrupt(self.index) {
            ExternalInterrupt::Processed(harvest) => Some(u32::from(harvest.taken)),
            _ => None,
        }
    }

    /// An instruction boundary: a pending notification is processed (30.6), then a recognized virtual interrupt is
    /// delivered (30.2.2). Returns its vector, or None; `exit_reason` tells of a VM exit that came instead.
    fn deliver(&self) -> Option<u8> {
        self.machine.lock().boundary(self.index).delivered
    }

    /// The guest's EOI: WRMSR 80BH in x2APIC mode, a write to offset 0B0H in xAPIC mode. SDM vol. 3C, "EOI
    /// Virtualization" 30.1.4.
    fn eoi(&self) -> Outcome {
        let mut machine = self.machine.lock();
        let outcome = machine.eoi(self.index);
        Outcome::of_write(outcome, |violation| violation.message(machine.memory()))
    }

    /// HLT: the guest sleeps until an interrupt; with HLT exiting = 1 a VM exit, which is returned.
    fn hlt(&self) -> Option<Outcome> {
        self.machine.lock().hlt(self.index).map(Outcome::of_exit)
    }

    /// Number of the vCPU in its VM, from 0.
    #[getter]
    fn index(&self) -> usize {
        self.index
    }

    /// Its APIC ID.
    #[getter]
    fn apic_id(&self) -> u32 {
        self.machine.lock().vcpus()[self.index].apic_id()
    }

    /// The mode of its local APIC: "xAPIC", "x2APIC" or "disabled".
    #[getter]
    fn mode(&self) -> &'static str {
        self.machine.lock().vcpus()[self.index].mode().name()
    }

    /// Its posted-interrupt descriptor as it stands now.
    #[getter]
    fn descriptor(&self) -> PyResult<Descriptor> {
        let machine = self.machine.lock();
        let address = machine.vcpus()[self.index].vp().vmcs.descriptor;
        let (pir, control) = machine.descriptor(self.index).ok_or_else(|| no_descriptor(address))?;
        Ok(Descriptor { address, pir, control })
    }

    /// Changes fields of its descriptor as software does, in one compare-exchange; None leaves a field as it is.
    #[pyo3(signature = (*, on=None, sn=None, nv=None, ndst=None))]
    fn update_descriptor(&self, on: Option<bool>, sn: Option<bool>, nv: Option<U8>, ndst: Option<U32>) {
        self.machine.lock().update_descriptor(self.index, |control| {
            control
                .with_outstanding(on.unwrap_or(control.outstanding()))
                .with_suppress(sn.unwrap_or(control.suppress()))
                .with_vector(nv.map_or(control.vector(), |nv| nv.0))
                .with_destination(ndst.map_or(control.destination(), |ndst| ndst.0))
        });
    }

    /// Whether its pCPU's local APIC has a physical interrupt pending.
    #[getter]
    fn notification_pending(&self) -> bool {
        self.machine.lock().notification_pending(self.index)
    }

    /// A 32-bit register of the virtual-APIC page by its offset: a multiple of 0x10, 0 to 0xFF0.
    ///
    /// Raises:
    ///     ValueError: No register stands there.
    fn register(&self, offset: i128) -> PyResult<u32> {
        let register = register(offset)?;
        Ok(self.machine.lock().register(self.index, register))
    }

    /// Writes a 32-bit register of the virtual-APIC page, as the hypervisor does: nothing is evaluated.
    ///
    /// Raises:
    ///     ValueError: No register stands there.
    fn set_register(&self, offset: i128, value: U32) -> PyResult<()> {
        let register = register(offset)?;
        self.machine.lock().set_register(self.index, register, value.0);
        Ok(())
    }

    /// Vectors set in VIRR, lowest first.
    #[getter]
    fn irr(&self) -> Vec<u32> {
        self.bank(ApicRegister::IRR)
    }

    /// Vectors set in VISR, lowest first.
    #[getter]
    fn isr(&self) -> Vec<u32> {
        self.bank(ApicRegister::ISR)
    }

    /// VTPR.
    #[getter]
    fn tpr(&self) -> u32 {
        self.machine.lock().register(self.index, ApicRegister::TPR)
    }

    /// VPPR.
    #[getter]
    fn ppr(&self) -> u32 {
        self.machine.lock().register(self.index, ApicRegister::PPR)
    }

    /// RVI: requesting virtual interrupt.
    #[getter]
    fn rvi(&self) -> u8 {
        self.machine.lock().vcpus()[self.index].vp().vmcs.rvi
    }

    /// SVI: servicing virtual interrupt.
    #[getter]
    fn svi(&self) -> u8 {
        self.machine.lock().vcpus()[self.index].vp().vmcs.svi
    }

    /// Whether a pending virtual interrupt is recognized. SDM vol. 3C, "Evaluation of Pending Virtual Interrupts" 30.2.1.
    #[getter]
    fn recognized(&self) -> bool {
        self.machine.lock().vcpus()[self.index].vp().recognized()
    }

    /// The basic exit reason of its last VM exit (VMCS 4402H), 0 if it had none.
    #[getter]
    fn exit_reason(&self) -> u64 {
        self.machine.lock().vmread(self.index, VmcsField::ExitReason)
    }

    /// RFLAGS.IF of the guest.
    #[getter]
    fn interrupt_flag(&self) -> bool {
        self.machine.lock().vcpus()[self.index].vp().interrupt_flag
    }

    #[setter]
    fn set_interrupt_flag(&self, value: bool) {
        self.machine.lock().state_mut(self.index).interrupt_flag = value;
    }

    /// Blocking by STI or MOV SS.
    #[getter]
    fn interrupt_shadow(&self) -> bool {
        self.machine.lock().vcpus()[self.index].vp().interrupt_shadow
    }

    #[setter]
    fn set_interrupt_shadow(&self, value: bool) {
        self.machine.lock().state_mut(self.index).interrupt_shadow = value;
    }

    /// Guest activity state: "active", "hlt", "shutdown" or "wait-for-sipi".
    #[getter]
    fn activity(&self) -> &'static str {
        let activity = self.machine.lock().vcpus()[self.index].vp().activity;
        parse::ACTIVITIES.iter().find(|(_, state)| *state == activity).map_or("active", |(name, _)| name)
    }

    /// Raises:
    ///     ValueError: There is no such state.
    #[setter]
    fn set_activity(&self, state: &str) -> PyResult<()> {
        self.machine.lock().state_mut(self.index).activity = parse::activity(state)?;
        Ok(())
    }

    /// VMREAD of the field with this encoding.
    ///
    /// Raises:
    ///     ValueError: The field is not modelled; the message lists those that are.
    fn vmread(&self, encoding: U32) -> PyResult<u64> {
        let field = field(encoding.0)?;
        Ok(self.machine.lock().vmread(self.index, field))
    }

    /// VMWRITE of the field with this encoding. Controls take effect at the next `enter`.
    ///
    /// Raises:
    ///     ValueError: The field is not modelled or read-only, or the value is wider than the field.
    fn vmwrite(&self, encoding: U32, value: U64) -> PyResult<()> {
        let field = field(encoding.0)?;
        self.machine
            .lock()
            .vmwrite(self.index, field, value.0)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    fn __repr__(&self) -> String {
        format!("<Vcpu {}: APIC ID {}, {}>", self.index, self.apic_id(), self.mode())
    }
}

/// A posted-interrupt descriptor as it stood when it was read. SDM vol. 3C, "Posted-Interrupt Processing" 30.6.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct Descriptor {
    /// Physical address.
    #[pyo3(get)]
    address: u64,
    pir: [u64; 4],
    control: PidControl,
}

#[pymethods]
impl Descriptor {
    /// PIR: the vectors requested, lowest first.
    #[getter]
    fn pir(&self) -> Vec<u32> {
        integers(&vectors_of(self.pir))
    }

    /// ON: a notification is outstanding.
    #[getter]
    fn on(&self) -> bool {
        self.control.outstanding()
    }

    /// SN: notifications are suppressed.
    #[getter]
    fn sn(&self) -> bool {
        self.control.suppress()
    }

    /// NV: notification vector.
    #[getter]
    fn nv(&self) -> u8 {
        self.control.vector()
    }

    /// NDST: notification destination.
    #[getter]
    fn ndst(&self) -> u32 {
        self.control.destination()
    }

    /// Everything, in plain types.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = dicts::dict!(py, "address" => self.address, "pir" => self.pir());
        dict.update(dicts::control(py, self.control)?.as_mapping())?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let pir: Vec<_> = vectors_of(self.pir).iter().map(|vector| format!("{vector:#x}")).collect();
        format!(
            "<Descriptor pir=[{}] on={} sn={} nv={:#x} ndst={:#x}>",
            pir.join(", "),
            u8::from(self.control.outstanding()),
            u8::from(self.control.suppress()),
            self.control.vector(),
            self.control.destination()
        )
    }
}
