//! A scenario: a machine, its guests and their programs, as a description that comes from outside, and the machine made
//! of it.
//!
//! The description is JSON whose form Python checks (`ipivrs.Scenario`); here it is read once more and made real.

use crate::arch::ApicMode;
use crate::arch::capability::{
    AllowedSettings, AllowedTertiary, IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2,
    IA32_VMX_PROCBASED_CTLS3,
};
use crate::engine::machine::{Chaos, Device, Guest, MachineConfig, MachineError};
use crate::guest::{GuestCode, Mode, Program, ProgramError, Statement, Workload, WorkloadPrograms};
use crate::hypervisor::policy::{Policy, PolicyError};
use crate::hypervisor::{Apicv, VmConfig};
use crate::processor::{Capabilities, Model};
use serde::Deserialize;
use thiserror::Error;

/// `KVM_MAX_VCPU_IDS`.
const KVM_MAX_VCPU_IDS: u32 = 4096;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What random numbers begin with.
    pub seed: u64,
    /// The processor.
    pub processor: Processor,
    /// The host.
    pub host: HostDescription,
    /// What happens at random.
    pub chaos: ChaosDescription,
    /// VMs.
    pub vm: Vec<VmDescription>,
    /// Devices.
    pub device: Vec<DeviceDescription>,
}

/// A processor: a model by name, and capability MSRs that differ from it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// The name of a [`Model`].
    pub model: String,
    /// IA32_VMX_PINBASED_CTLS (481H).
    pub pinbased_ctls: Option<u64>,
    /// IA32_VMX_PROCBASED_CTLS (482H).
    pub procbased_ctls: Option<u64>,
    /// IA32_VMX_PROCBASED_CTLS2 (48BH).
    pub procbased_ctls2: Option<u64>,
    /// IA32_VMX_PROCBASED_CTLS3 (492H).
    pub procbased_ctls3: Option<u64>,
    /// MAXPHYADDR.
    pub max_phys_addr_bits: Option<u8>,
}

/// The host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDescription {
    /// pCPUs.
    pub pcpus: u32,
    /// Steps of a guest in a time slice.
    pub time_slice: u32,
    /// The mode of its local APICs.
    pub apic: Mode,
    /// `enable_apicv`.
    pub enable_apicv: bool,
    /// `enable_ipiv`.
    pub enable_ipiv: bool,
    /// What a rewritten xAPIC ID does.
    pub apic_id_rewrite: IdRewrite,
}

/// What a guest's write of its xAPIC ID does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdRewrite {
    /// The inhibit APIC_ID_MODIFIED.
    Inhibit,
    /// Nothing, as in v4 of the series.
    Naive,
}

/// What happens at random.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see Chaos")]
pub struct ChaosDescription {
    pub preempt: bool,
    pub migrate: bool,
    pub toggle_apicv: bool,
    pub hot_add: u32,
}

/// A VM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDescription {
    /// vCPUs.
    pub vcpus: u32,
    /// The mode that their local APICs are in at first.
    pub apic: Mode,
    /// KVM_CAP_MAX_VCPU_ID.
    pub max_vcpu_ids: Option<u32>,
    /// Last PID-pointer index, if it is not to be the table's last.
    pub last_index: Option<u16>,
    /// A device is assigned.
    pub assigned_device: bool,
    /// Whether all vCPUs but the first wait for a start-up IPI.
    pub wait_for_sipi: bool,
    /// A ready-made guest.
    pub workload: Option<Workload>,
    /// Programs of vCPUs.
    pub group: Vec<GroupDescription>,
    /// Handlers.
    pub handler: Vec<HandlerDescription>,
    /// What programs call their signals and locks, by number from 2 on; for messages.
    #[serde(default)]
    pub names: Vec<String>,
}

/// vCPUs with one program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDescription {
    /// Their numbers.
    pub vcpus: Vec<u32>,
    /// Their program.
    pub program: Vec<Statement>,
}

/// The handler of a vector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerDescription {
    /// Vector.
    pub vector: u8,
    /// What it does.
    pub program: Vec<Statement>,
}

/// A device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see Device")]
pub struct DeviceDescription {
    pub vm: u32,
    pub vcpu: Option<u32>,
    pub vectors: Vec<u8>,
    pub posts: Option<u64>,
    pub urgent: bool,
    pub gap: u32,
}

/// Why a scenario cannot be made real.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// It is not of the form.
    #[error("the description of the scenario cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// The policy has a mistake.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// No such processor.
    #[error("no processor {0:?}")]
    Model(String),
    /// The machine is impossible.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// It would never end.
    #[error(
        "no program and no device of this scenario ends by itself: say for how many seconds it shall run, by `seconds = 1` \
         at the top of the file, --seconds 1 in the shell, or seconds=1 in Python"
    )]
    Endless,
}

/// A step on the way to a field of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldStep {
    /// A name in a table.
    Name(&'static str),
    /// A place in a list.
    Place(u32),
}

impl ScenarioError {
    /// The field that it is about, and what is wrong with that; none if it is about no field of its own.
    #[must_use]
    pub fn field(&self) -> Option<(Vec<FieldStep>, String)> {
        use FieldStep::{Name, Place};
        let of_vm = |vm| vec![Name("vm"), Place(vm)];
        Some(match self {
            Self::Endless => (vec![Name("seconds")], self.to_string()),
            Self::Machine(MachineError::Vm { vm, error }) => {
                let msr = error.capability_msr().and_then(capability_field);
                (msr.map_or_else(|| of_vm(*vm), |msr| vec![Name("processor"), Name(msr)]), error.to_string())
            }
            Self::Machine(MachineError::Program { vm, error }) => (of_vm(*vm), error.to_string()),
            Self::Machine(MachineError::Callers { vm, error }) => (of_vm(*vm), error.to_string()),
            _ => return None,
        })
    }
}

/// The field of [`Processor`] that is this MSR.
const fn capability_field(msr: u32) -> Option<&'static str> {
    match msr {
        IA32_VMX_PINBASED_CTLS => Some("pinbased_ctls"),
        IA32_VMX_PROCBASED_CTLS => Some("procbased_ctls"),
        IA32_VMX_PROCBASED_CTLS2 => Some("procbased_ctls2"),
        IA32_VMX_PROCBASED_CTLS3 => Some("procbased_ctls3"),
        _ => None,
    }
}

impl Scenario {
    /// Reads a description.
    ///
    /// # Errors
    /// It is not of the form.
    pub fn from_json(text: &str) -> Result<Self, ScenarioError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The machine that it describes, under a policy.
    ///
    /// # Errors
    /// No such processor, or an impossible program.
    pub fn machine(&self, policy: Policy) -> Result<MachineConfig, ScenarioError> {
        let capabilities = self.processor.capabilities()?;
        let guests = (0..).zip(&self.vm).map(|(number, vm)| self.guest(number, vm, capabilities));
        Ok(MachineConfig {
            pcpus: self.host.pcpus,
            time_slice: self.host.time_slice,
            host_apic: self.host.apic.into(),
            naive_apic_ids: self.host.apic_id_rewrite == IdRewrite::Naive,
            policy,
            guests: guests.collect::<Result<_, _>>()?,
            devices: self.device.iter().map(DeviceDescription::device).collect(),
            chaos: Chaos {
                preempt: self.chaos.preempt,
                migrate: self.chaos.migrate,
                toggle_apicv: self.chaos.toggle_apicv,
                hot_add: self.chaos.hot_add,
            },
            seed: self.seed,
        })
    }

    fn guest(&self, number: u32, vm: &VmDescription, capabilities: Capabilities) -> Result<Guest, MachineError> {
        let spare = if number == 0 { self.chaos.hot_add } else { 0 };
        let apic = ApicMode::from(vm.apic);
        let capacity = vm.vcpus + spare;
        let config = VmConfig {
            vm: number,
            apicv: Apicv { active: self.host.enable_apicv, enable_ipiv: self.host.enable_ipiv },
            max_vcpu_ids: Some(vm.max_vcpu_ids.unwrap_or(KVM_MAX_VCPU_IDS.max(capacity))),
            last_pid_index: vm.last_index,
            spare_vcpus: spare,
            scheduled: true,
            host_apic: self.host.apic.into(),
            capabilities,
            ..VmConfig::new(vm.vcpus, apic)
        };
        let code = vm.code(capacity).map_err(|error| MachineError::Program { vm: number, error })?;
        let device = vm.assigned_device || self.device.iter().any(|device| device.vm == number);
        Ok(Guest { config, code, device, wait_for_sipi: vm.wait_for_sipi, names: vm.names.clone() })
    }
}

impl Processor {
    fn capabilities(&self) -> Result<Capabilities, ScenarioError> {
        let model = Model::ALL.into_iter().find(|model| model.name() == self.model);
        let base = model.ok_or_else(|| ScenarioError::Model(self.model.clone()))?.capabilities();
        let settings = |raw: Option<u64>, base| raw.map_or(base, AllowedSettings::from_bits);
        Ok(Capabilities {
            max_phys_addr_bits: self.max_phys_addr_bits.unwrap_or(base.max_phys_addr_bits),
            pin: settings(self.pinbased_ctls, base.pin),
            primary: settings(self.procbased_ctls, base.primary),
            secondary: settings(self.procbased_ctls2, base.secondary),
            tertiary: self.procbased_ctls3.map_or(base.tertiary, AllowedTertiary),
        })
    }
}

impl DeviceDescription {
    fn device(&self) -> Device {
        Device {
            vm: self.vm,
            vcpu: self.vcpu,
            vectors: self.vectors.clone(),
            posts: self.posts,
            urgent: self.urgent,
            gap: self.gap,
        }
    }
}

impl VmDescription {
    /// The programs of `vcpus` vCPUs: the workload's, over them the groups', and a handler for each vector.
    fn code(&self, vcpus: u32) -> Result<GuestCode, ProgramError> {
        let mut written = match self.workload {
            Some(workload) => workload.programs(vcpus),
            None => WorkloadPrograms { vcpus: vec![Vec::new(); vcpus as usize], handlers: Vec::new() },
        };
        for group in &self.group {
            for &vcpu in &group.vcpus {
                if let Some(program) = written.vcpus.get_mut(vcpu as usize) {
                    program.clone_from(&group.program);
                }
            }
        }
        written.handlers.extend(self.handler.iter().map(|handler| (handler.vector, handler.program.clone())));
        // Number 0 is the handler of whoever has none of its own.
        let mut programs = vec![Program::end_of_interrupt()];
        let (mut main, mut handlers) = (Vec::new(), [0; 256]);
        for statements in &written.vcpus {
            let program = Program::new(statements)?;
            let number = programs.iter().skip(1).position(|known| *known == program).map(|at| at + 1);
            main.push(number.unwrap_or(programs.len()) as u32);
            if number.is_none() {
                programs.push(program);
            }
        }
        for (vector, statements) in &written.handlers {
            handlers[usize::from(*vector)] = programs.len() as u32;
            programs.push(Program::new(statements)?);
        }
        Ok(GuestCode::new(&programs, main, &handlers, None))
    }
}
