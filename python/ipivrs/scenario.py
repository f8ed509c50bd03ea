"""Scenarios: a processor, a host, VMs with what their guests do, and what happens at random.

The same in TOML and in Python; `Scenario.load` reads a file and names the line of every mistake.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ipivrs import profiles
from ipivrs.guest_checks import check_names, check_once
from ipivrs.names import Apic, Engine, IdRewrite, ProcessorModel
from ipivrs.options import real_number, whole_number
from ipivrs.policies import beside
from ipivrs.profiles import Profile
from ipivrs.progress import Progress
from ipivrs.scenario_text import FieldError, load
from ipivrs.simulation import ScenarioResult, simulate, simulate_in_virtual_time
from ipivrs.statements import AnyStatement, Cycles, Flag, LegalVector, Path_, Table, VcpuNumber, lowered, targets

MOST_SECONDS = 10_000_000
"""A run takes at most so many seconds; nobody waits for more."""

MOST_SEED = 2**64 - 1
"""Seeds are 0 to this."""

Count = Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)]
Msr = Annotated[int, Field(ge=0, le=2**64 - 1, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False, strict=True)]

_MOST_VCPUS = 65_536
_MOST_THREADS = 256
_MOST_EVENTS = 100_000_000
_RANGE_PARTS = 2


class Processor(Table):
    """The processor: a model by name, and values of capability MSRs that differ from it.

    `procbased_ctls3` has IPI virtualization in bit 4 (IA32_VMX_PROCBASED_CTLS3, SDM appendix A.3.4).
    """

    model: ProcessorModel = "sapphire-rapids"
    pinbased_ctls: Msr | None = None
    procbased_ctls: Msr | None = None
    procbased_ctls2: Msr | None = None
    procbased_ctls3: Msr | None = None
    max_phys_addr_bits: Annotated[int, Field(ge=36, le=52, strict=True)] | None = None


class Host(Table):
    """The host: pCPUs, their time slices, and KVM's module parameters.

    `time_slice` is in steps of a guest on threads, and in units of the profile's `time_slice_unit` in virtual time.
    On threads there are at most 256 pCPUs. `policy` is the name of a shipped policy or the path of a file,
    from the folder of the scenario's file if it stands in one.
    `apic_id_rewrite`: "inhibit" as KVM does, or "naive" as v4 of the series did.
    """

    pcpus: Annotated[int, Field(ge=1, le=_MOST_VCPUS, strict=True)] = 2
    time_slice: Annotated[int, Field(ge=1, le=2**32 - 1, strict=True)] = 10_000
    apic: Apic = "x2apic"
    policy: str = "kvm"
    enable_apicv: Flag = True
    enable_ipiv: Flag = True
    apic_id_rewrite: IdRewrite = "inhibit"


class Chaos(Table):
    """What the host does at random: early ends of time slices, migration, APICv switched off and on, vCPUs added.

    `hot_add`: so many at most, one by one; in virtual time one every 5,000,000 cycles or more.
    """

    preempt: Flag = False
    migrate: Flag = False
    toggle_apicv: Flag = False
    hot_add: Annotated[int, Field(ge=0, le=65_535, strict=True)] = 0


class Ping(Table):
    """kvm-unit-tests' vmexit/ipi: vCPU 0 sends to vCPU 1 and waits until it is handled."""

    name: Literal["ping"] = "ping"
    rounds: Count = 100_000
    vector: LegalVector = 0xE0


class IpiMicrobenchmark(Table):
    """The IPI benchmark of ynorov@caviumnetworks.com: vCPU 0 sends and waits, the others are idle."""

    name: Literal["ipi-microbenchmark"] = "ipi-microbenchmark"
    case: Literal["dry-run", "self-ipi", "normal-ipi", "broadcast-ipi", "broadcast-lock"] = "normal-ipi"
    rounds: Count = 100_000


class TlbShootdown(Table):
    """Every vCPU works (`work` cycles), then has all others flush (`flush` cycles) and waits for them.

    A call to a vCPU that has not answered an earlier one joins it and sends no IPI, as in Linux.
    """

    name: Literal["tlb-shootdown"] = "tlb-shootdown"
    rounds: Count = 10_000
    work: Cycles = 20_000
    flush: Cycles = 500


class Hackbench(Table):
    """Message passing between pairs of vCPUs: an idle receiver gets a reschedule IPI.

    A message takes both sides `work` cycles: a receiver that has fallen behind is rarely idle again, and sent few IPIs.
    """

    name: Literal["hackbench"] = "hackbench"
    messages: Count = 50_000
    work: Cycles = 2_000


class Storm(Table):
    """Everyone to everyone at random; without `rounds` until the run ends.

    With `halts` all vCPUs but the first also halt, until somebody interrupts them: vCPU 0 then sends the most.
    """

    name: Literal["storm"] = "storm"
    rounds: Count | None = None
    halts: Flag = True
    mode_switches: Flag = False


Workload = Annotated[Ping | IpiMicrobenchmark | TlbShootdown | Hackbench | Storm, Field(discriminator="name")]
"""A ready-made guest."""


def _numbers(value: Any) -> Any:  # noqa: ANN401
    """VCPU numbers: one, a list, or ranges such as "0-3,8"."""
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        ends = part.strip().split("-")
        if not all(end.strip().isdecimal() for end in ends) or len(ends) > _RANGE_PARTS:
            raise PydanticCustomError(
                "vcpus", 'must be numbers or ranges such as "0-3,8", not {value}', {"value": repr(value)}
            )
        first, last = int(ends[0]), int(ends[-1])
        if first > last:
            message = "the range {first}-{last} runs backwards: write {last}-{first}"
            raise PydanticCustomError("vcpus", message, {"first": first, "last": last})
        if last >= _MOST_VCPUS:
            raise PydanticCustomError("vcpus", "vCPUs are numbered 0 to 65535")
        numbers.extend(range(first, last + 1))
    return numbers


def _each_once(numbers: list[int]) -> list[int]:
    twice = next((number for number, count in Counter(numbers).items() if count > 1), None)
    if twice is not None:
        raise PydanticCustomError("vcpus", "vCPU {number} is there twice", {"number": twice})
    return numbers


class Group(Table):
    """vCPUs with one program."""

    vcpus: Annotated[list[VcpuNumber], BeforeValidator(_numbers), AfterValidator(_each_once), Field(min_length=1)]
    program: list[AnyStatement]


class Handler(Table):
    """What the guest does when a vector is delivered; without one it ends the interrupt (EOI)."""

    vector: LegalVector
    program: list[AnyStatement]


class VM(Table):
    """A VM of a scenario: what it is to be. `ipivrs.Vm` is another thing, a machine that is there and driven by hand.

    `max_vcpu_ids` is KVM_CAP_MAX_VCPU_ID, the size of its PID-pointer table; by default KVM's 4096, or an entry for
    each vCPU where these are more. `last_index` makes LAST_PID_POINTER_INDEX another than the table's last. With
    `assigned_device` KVM switches NV for it whatever else it can do. With `wait_for_sipi` all vCPUs but the first wait
    for INIT and a start-up IPI.
    """

    vcpus: Annotated[int, Field(ge=1, le=_MOST_VCPUS, strict=True)] = 2
    apic: Apic = "x2apic"
    max_vcpu_ids: Annotated[int, Field(ge=1, le=_MOST_VCPUS, strict=True)] | None = None
    last_index: Annotated[int, Field(ge=0, le=65_535, strict=True)] | None = None
    assigned_device: Flag = False
    wait_for_sipi: Flag = False
    workload: Workload | None = None
    group: list[Group] = Field(default=[])
    handler: list[Handler] = Field(default=[])

    @model_validator(mode="after")
    def _fits(self) -> "VM":
        if self.apic == "xapic" and self.vcpus > 255:  # noqa: PLR2004 (IDs 0 to 254; 255 is broadcast)
            raise PydanticCustomError("vcpus", "vcpus must be 255 or less in xAPIC mode: its APIC IDs have 8 bits")
        if self.max_vcpu_ids is not None and self.vcpus > self.max_vcpu_ids:
            message = "must be {vcpus} or more, one for each vCPU, not {max}"
            context = {"vcpus": self.vcpus, "max": self.max_vcpu_ids, "at": ("max_vcpu_ids",)}
            raise PydanticCustomError("vcpus", message, context)
        for number, group in enumerate(self.group):
            highest = max(group.vcpus)
            if highest >= self.vcpus:
                message = "group names vCPU {highest}, and the VM has 0 to {last}"
                context = {"highest": highest, "last": self.vcpus - 1, "at": ("group", number, "vcpus")}
                raise PydanticCustomError("group", message, context)
        return self

    @model_validator(mode="after")
    def _programs_go_together(self) -> "VM":
        in_groups = ((vcpu, ("group", at, "vcpus")) for at, group in enumerate(self.group) for vcpu in group.vcpus)
        check_once("vCPU {}", in_groups)
        check_once("vector {:#x}", ((each.vector, ("handler", at, "vector")) for at, each in enumerate(self.handler)))
        check_names(programs(self))
        return self


def programs(vm: VM) -> Iterator[tuple[Path_, list[AnyStatement]]]:
    """The programs of a VM's groups and handlers, each with its path in the table of the VM."""
    yield from ((("group", at, "program"), group.program) for at, group in enumerate(vm.group))
    yield from ((("handler", at, "program"), handler.program) for at, handler in enumerate(vm.handler))


class Device(Table):
    """A device that posts through the IOMMU from a thread of its own.

    `vcpu`: one, or all in turn. `posts`: how many, or until the run ends. `gap`: spins between two. An `urgent`
    interrupt does not ask SN.
    """

    vm: Annotated[int, Field(ge=0, le=255, strict=True)] = 0
    vcpu: VcpuNumber | None = None
    vectors: list[LegalVector] = Field(default=[0x61], min_length=1)
    posts: Count | None = None
    urgent: Flag = False
    gap: Annotated[int, Field(ge=0, le=2**31, strict=True)] = 100


class Scenario(Table):
    """A machine and its guests.

    ipivrs.Scenario(vm=[ipivrs.VM(vcpus=4, workload=ipivrs.Storm())], seconds=2).run()

    `seconds`: after so long endless loops end, each with the round that it is in, and programs that end by themselves
    run on; without it, and without an endless loop, the programs end the run.

    Raises:
        ValueError: A field is missing, unknown or out of its range.
    """

    title: str = ""
    seed: Annotated[int, Field(ge=0, le=MOST_SEED, strict=True)] = 1
    seconds: Seconds | None = None
    processor: Processor = Processor()
    host: Host = Host()
    chaos: Chaos = Chaos()
    vm: list[VM] = Field(min_length=1)
    device: list[Device] = Field(default=[])

    @model_validator(mode="after")
    def _devices_have_targets(self) -> "Scenario":
        for number, device in enumerate(self.device):
            at = ("device", number)
            if device.vm >= len(self.vm):
                message = "device.vm must be 0 to {last}, not {vm}"
                context = {"last": len(self.vm) - 1, "vm": device.vm, "at": (*at, "vm")}
                raise PydanticCustomError("device", message, context)
            if device.vcpu is not None and device.vcpu >= self.vm[device.vm].vcpus:
                message = "device.vcpu must be 0 to {last}, not {vcpu}"
                context = {"last": self.vm[device.vm].vcpus - 1, "vcpu": device.vcpu, "at": (*at, "vcpu")}
                raise PydanticCustomError("device", message, context)
        return self

    @model_validator(mode="after")
    def _targets_exist(self) -> "Scenario":
        for number, vm in enumerate(self.vm):
            last = vm.vcpus - 1 + (self.chaos.hot_add if number == 0 else 0)
            for path, program in programs(vm):
                for at, to in targets(program, ("vm", number, *path)):
                    if isinstance(to, int) and to > last:
                        message = "to = {to} names a vCPU, and VM {vm} has 0 to {last}; nobody's ID is dest = {to}"
                        context = {"vm": number, "to": to, "last": last, "at": at}
                        raise PydanticCustomError("target", message, context)
        return self

    @classmethod
    def load(cls, path: "str | Path") -> "Scenario":
        """Read a scenario from a TOML file; a policy's path in it begins at the file's folder.

        Raises:
            ScenarioError: The file, the line, the field, and what is allowed.
        """
        return in_folder(load(cls, Path(path)), Path(path).parent)

    def run(
        self,
        *,
        seconds: float | None = None,
        policy: str | None = None,
        engine: Engine = "threads",
        profile: str | Profile | None = None,
        log: int = 0,
        progress: Progress | None = None,
    ) -> ScenarioResult:
        """Run it, on threads or in virtual time.

        Args:
            seconds: After so many seconds, 0 to 10,000,000, endless loops end; by default the scenario's own
                `seconds`. Simulated seconds in virtual time.
            policy: Name of a shipped policy or path of a file; by default the scenario's own.
            engine: "threads", or "virtual-time": a deterministic simulation, the same again for the same seed.
            profile: Virtual time: what acts cost. A shipped profile's name, a file, or a `Profile`.
            log: Virtual time: how many events the result keeps, 0 to 100,000,000.
            progress: Called some times a second with what is counted ("milliseconds", in virtual time "cycles"), how
                many went by, and of how many (0: nobody knows).

        Raises:
            PolicyError: The policy has a mistake: file, line and column.
            ProfileError: The profile has a mistake.
            ValueError: The machine is impossible, or would never end: the field. An option is out of its range, or of
                the other engine.
        """
        whole_number("log", log, 0, _MOST_EVENTS)
        limit = self.seconds if seconds is None else real_number("seconds", seconds, 0, MOST_SECONDS)
        protocol = policy or self.host.policy
        if engine == "virtual-time":
            costs = profiles.DEFAULT if profile is None else profile
            vcpus = (self.vm[0].vcpus + self.chaos.hot_add, *(vm.vcpus for vm in self.vm[1:]))
            return simulate_in_virtual_time(
                self.description(),
                self.title,
                protocol,
                limit,
                profile=costs,
                log=log,
                pcpus=self.host.pcpus,
                vcpus=vcpus,
                progress=progress,
            )
        if engine != "threads":
            raise ValueError(f'engine must be "threads" or "virtual-time", not {engine!r}')
        if profile is not None or log:
            raise ValueError('profile and log are for engine="virtual-time"')
        if refused := self.refused_by(engine):
            raise FieldError(*refused)
        return simulate(self.description(), self.title, protocol, limit, progress=progress)

    def refused_by(self, engine: Engine) -> tuple[tuple[str, ...], str] | None:
        """A field that an engine cannot do, and why; None if it can run this scenario."""
        if engine == "threads" and self.host.pcpus > _MOST_THREADS:
            allowed = f"must be {_MOST_THREADS} or less on threads, not {self.host.pcpus}"
            return ("host", "pcpus"), f'{allowed}: engine="virtual-time" takes more'
        return None

    def description(self) -> str:
        """The scenario as the core reads it."""
        whole = self.model_dump(exclude={"title", "seconds", "vm"})
        whole["host"].pop("policy")
        whole["vm"] = [_vm_description(vm) for vm in self.vm]
        return json.dumps(whole)


def in_folder(scenario: Scenario, folder: Path) -> Scenario:
    """What stands in a file of this folder, with its policy's path as it is from the current directory."""
    host = scenario.host.model_copy(update={"policy": beside(scenario.host.policy, folder)})
    return scenario if host == scenario.host else scenario.model_copy(update={"host": host})


def _vm_description(vm: VM) -> dict[str, Any]:
    names: dict[str, int] = {}

    def number(name: str) -> int:
        # 0 and 1 are for ready-made guests.
        return names.setdefault(name, len(names) + 2)

    whole = vm.model_dump(exclude={"group", "handler"})
    groups = [{"vcpus": group.vcpus, "program": lowered(group.program, number)} for group in vm.group]
    handlers = [{"vector": handler.vector, "program": lowered(handler.program, number)} for handler in vm.handler]
    return whole | {"group": groups, "handler": handlers, "names": list(names)}
