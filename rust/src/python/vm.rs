//! `Vm`: a machine driven by hand.

use super::parse::{self, U8, U32, U64};
use super::vcpu::Vcpu;
use crate::engine::manual::Machine;
use crate::hypervisor::{Apicv, VmConfig};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine that several Python threads may hold.
#[derive(Clone)]
pub(super) struct SharedMachine(Arc<Mutex<Machine>>);

impl SharedMachine {
    pub(super) fn lock(&self) -> MutexGuard<'_, Machine> {
        // No method of the machine leaves it half changed, so one that panicked is as good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A virtual machine, driven one step at a time: vCPU k runs on pCPU k, always in guest mode.
///
/// For a machine whose guests run by themselves describe it: `ipivrs.VM` is a VM of an `ipivrs.Scenario`.
///
/// Set up as KVM does it: one posted-interrupt descriptor per vCPU, its entry in the PID-pointer table at its APIC ID,
/// notification vector F2H, MSR bitmap and controls of the local APIC's mode.
///
/// Args:
///     vcpus: Number of vCPUs, 1 to 65536.
///     apic: The mode their local APICs start in: "x2apic" or "xapic".
///     ipi_virtualization: KVM's enable_ipiv.
///     apicv: APICv is active: APIC-register virtualization, virtual-interrupt delivery, posted interrupts.
///     apic_ids: APIC ID of each vCPU, 0 to 65535 (0 to 254 in xAPIC mode); by default 0, 1, ...
///     last_index: Last PID-pointer index, 0 to 65535; by default the highest APIC ID.
///
/// Raises:
///     ValueError: A value is out of its range, or two vCPUs have one APIC ID.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct Vm(SharedMachine);

#[pymethods]
impl Vm {
    #[new]
    #[pyo3(signature = (vcpus=2, *, apic="x2apic", ipi_virtualization=true, apicv=true, apic_ids=None, last_index=None))]
    fn new(
        py: Python<'_>,
        vcpus: i128,
        apic: &str,
        ipi_virtualization: bool,
        apicv: bool,
        apic_ids: Option<Vec<U32>>,
        last_index: Option<i128>,
    ) -> PyResult<Self> {
        let count: u32 = parse::vcpus(vcpus)?;
        let mut config = VmConfig::new(count, parse::apic(apic)?);
        config.apicv = Apicv { active: apicv, enable_ipiv: ipi_virtualization };
        config.last_pid_index = last_index.map(|last| parse::ranged("last_index", last, 65_535)).transpose()?;
        if let Some(ids) = apic_ids {
            if ids.len() != count as usize {
                let message = format!("apic_ids has {} IDs for {count} vCPUs: give one for each", ids.len());
                return Err(PyValueError::new_err(message));
            }
            config.apic_ids = ids.into_iter().map(|id| id.0).collect();
        }
        let machine = py.detach(|| Machine::new(&config)).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(SharedMachine(Arc::new(Mutex::new(machine)))))
    }

    /// Number of vCPUs.
    fn __len__(&self) -> usize {
        self.0.lock().vcpus().len()
    }

    /// The vCPU with this number, counted from 0.
    ///
    /// Raises:
    ///     IndexError: There is no such vCPU.
    fn vcpu(&self, vcpu: i128) -> PyResult<Vcpu> {
        let count = self.0.lock().vcpus().len();
        match usize::try_from(vcpu) {
            Ok(index) if index < count => Ok(Vcpu::new(self.0.clone(), index)),
            _ => Err(PyIndexError::new_err(format!("no vCPU {vcpu}: this VM has vCPUs 0 to {}", count - 1))),
        }
    }

    /// Last PID-pointer index, the highest virtual APIC ID that the processor looks up.
    #[getter]
    fn last_index(&self) -> u16 {
        self.0.lock().last_index()
    }

    /// The 64-bit PID-pointer table entry at a virtual APIC ID: bit 0 valid, bits 5:1 reserved, the rest the
    /// descriptor's physical address. SDM vol. 3C, "IPI Virtualization" 30.1.6.
    ///
    /// Raises:
    ///     IndexError: The table ends before that entry.
    fn table_entry(&self, apic_id: U32) -> PyResult<u64> {
        self.0.lock().table_entry(apic_id.0).ok_or_else(|| Self::beyond(apic_id.0))
    }

    /// Writes a 64-bit PID-pointer table entry, as one store.
    ///
    /// Raises:
    ///     IndexError: The table ends before that entry.
    fn set_table_entry(&self, apic_id: U32, value: U64) -> PyResult<()> {
        if self.0.lock().set_table_entry(apic_id.0, value.0) { Ok(()) } else { Err(Self::beyond(apic_id.0)) }
    }

    /// A new user posted-interrupt descriptor (UPID) with this notification vector and destination; returns its
    /// physical address, for `Vcpu.senduipi`.
    ///
    /// Raises:
    ///     ValueError: The memory for UPIDs (a thousand of them) is used up.
    fn new_upid(&self, vector: U8, destination: U32) -> PyResult<u64> {
        self.0.lock().new_upid(vector.0, destination.0).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// The two 64-bit words of the UPID at `address`: control (ON bit 0, SN bit 1, NV bits 23:16, NDST bits 63:32) and
    /// requests, a bit for each user vector.
    ///
    /// Raises:
    ///     ValueError: There is no UPID at that address.
    fn upid(&self, address: U64) -> PyResult<(u64, u64)> {
        let words = self.0.lock().upid(address.0);
        words.map(|[control, requests]| (control, requests)).ok_or_else(|| Self::no_upid(address.0))
    }

    /// Writes the two 64-bit words of the UPID at `address`: control and requests.
    ///
    /// Raises:
    ///     ValueError: There is no UPID at that address.
    fn set_upid(&self, address: U64, control: U64, requests: U64) -> PyResult<()> {
        let found = self.0.lock().set_upid(address.0, [control.0, requests.0]);
        if found { Ok(()) } else { Err(Self::no_upid(address.0)) }
    }

    fn __repr__(&self) -> String {
        let machine = self.0.lock();
        format!("<Vm of {} vCPUs, last PID-pointer index {}>", machine.vcpus().len(), machine.last_index())
    }
}

impl Vm {
    fn no_upid(address: u64) -> PyErr {
        PyValueError::new_err(format!("no UPID at {address:#x}: new_upid makes them"))
    }

    fn beyond(apic_id: u32) -> PyErr {
        PyIndexError::new_err(format!(
            "the PID-pointer table has no entry {apic_id}: make the VM with a larger last_index"
        ))
    }
}
