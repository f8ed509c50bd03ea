"""What outside the ICR kept a recorded VM from using IPI virtualization: APICv inhibits, a rewritten ID, the host.

Sources: Linux's arch/x86/include/asm/kvm_host.h (enum kvm_apicv_inhibit), arch/x86/kvm/lapic.c and vmx/vmx.c.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ipivrs.advice import Advice
from ipivrs.remedy import Remedy, remedy

if TYPE_CHECKING:
    from ipivrs.results import InhibitChange, RecordedVcpu, RunResult

_APICV = "Any one reason deactivates APICv, and IPI virtualization with it, for all vCPUs of the VM."
_SOURCE = "Linux, arch/x86/include/asm/kvm_host.h, enum kvm_apicv_inhibit"

# In the order of enum kvm_apicv_inhibit since Linux 6.2: those that KVM heeds on Intel.
_REASONS = (
    ("DISABLED", "Load kvm_intel with enable_apicv=1, on a processor that has APICv."),
    ("HYPERV", "Give the Windows guest hv-apicv (QEMU; also called hv-avic): it then uses no AutoEOI of SynIC."),
    ("ABSENT", "Let KVM have the local APICs (QEMU: kernel-irqchip=on or split)."),
    ("BLOCKIRQ", "End the debugger's single steps with interrupts blocked (KVM_GUESTDBG_BLOCKIRQ)."),
    ("PHYSICAL_ID_ALIASED", "Give each vCPU its own physical APIC ID: with IDs above 255, leave xAPIC mode."),
    ("APIC_ID_MODIFIED", "Keep the guest from writing its xAPIC ID: it must stay the vCPU's ID."),
    ("APIC_BASE_MODIFIED", "Keep the guest from moving its APIC page away from FEE00000H."),
)
_SAME_IN_ALL_KERNELS = 2
_NUMBERED_ANEW = (6, 2)
_ENABLE_IPIV = (5, 19)

_REWRITTEN = Advice(
    "are of a VM in which a vCPU wrote another xAPIC ID",
    "KVM inhibits APICv for good when an xAPIC ID is not the vCPU's ID (APIC_ID_MODIFIED).",
    _REASONS[5][1],
)
_OLD_KERNEL = Advice(
    "are of a host whose kernel has no enable_ipiv",
    "KVM uses IPI virtualization since Linux 5.19.",
    "Run Linux 5.19 or later on the host.",
)
_OTHER_VENDOR = Advice(
    "are of a host whose processor is not Intel's",
    "IPI virtualization is Intel's; AMD's AVIC has rules of its own.",
    "Read the numbers as those of an Intel host.",
)


def remedies(result: "RunResult", sends: int) -> list[Remedy]:
    """What else must change before those IPIs need no exit that the emulator says need none."""
    fine = np.isin(result.ipis["fate"], [result.fate_names.index(name) for name in ("virtualized", "self")])
    found = list(_inhibited(result, fine, sends))
    if not result.recording["inhibits"]:
        found += _rewritten(result, fine, sends)
    return [*found, *_host(result, int(fine.sum()), sends)]


def _inhibited(result: "RunResult", fine: NDArray[np.bool_], sends: int) -> Iterator[Remedy]:
    """One remedy for each reason that stood while such IPIs were sent."""
    kernel = release(result.recording["machine"]["kernel"])
    with_others: dict[int, int] = {}
    alone: dict[int, int] = {}
    for inhibits, count in _by_inhibits(result, fine):
        reasons = [bit for bit in range(inhibits.bit_length()) if inhibits >> bit & 1]
        for reason in reasons:
            tally = alone if len(reasons) == 1 else with_others
            tally[reason] = tally.get(reason, 0) + count
    for reason in sorted(alone.keys() | with_others.keys()):
        name, change, caveat = _called(reason, kernel)
        only, shared = alone.get(reason, 0), with_others.get(reason, 0)
        why = Advice(f"were sent while APICv was inhibited: {name}", _APICV, change)
        caveat = "; ".join(filter(None, [caveat, f"{shared} of them have other reasons too" if shared else ""]))
        yield remedy(why, f"{_APICV} ({_SOURCE})", only + shared, sends, gain=only, sent_instead=only, caveat=caveat)


def _by_inhibits(result: "RunResult", fine: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """How many of the IPIs were sent under which inhibits (not 0)."""
    vcpus = result.recording["vcpus"]
    changes: dict[int | None, list[InhibitChange]] = {}
    for change in result.recording["inhibits"]:
        changes.setdefault(change["process"], []).append(change)
    for process, of_process in changes.items():
        ours = np.array([process is None or vcpu["process"] in (process, None) for vcpu in vcpus])
        times = result.ipis["time_ns"][fine & ours[result.ipis["sender"]]]
        of_process.sort(key=lambda change: change["time_ns"])
        # Before the first change, all was as after it but for the reason that changed.
        first = of_process[0]
        states = [first["inhibits"] ^ 1 << first["reason"], *(change["inhibits"] for change in of_process)]
        at = np.searchsorted([change["time_ns"] for change in of_process], times, side="right")
        for state, count in zip(*np.unique(at, return_counts=True), strict=True):
            if states[int(state)]:
                yield states[int(state)], int(count)


def _called(reason: int, kernel: tuple[int, int] | None) -> tuple[str, str, str]:
    """KVM's name of a reason, what to change, and what that rests on."""
    if reason >= _SAME_IN_ALL_KERNELS and kernel is not None and kernel < _NUMBERED_ANEW:
        older = f"reason {reason} of Linux {kernel[0]}.{kernel[1]}"
        return older, f"Look {older} up in its enum kvm_apicv_inhibit: it is not numbered as today.", ""
    if reason >= len(_REASONS):
        return f"reason {reason}", "KVM heeds no such reason on Intel: look it up in enum kvm_apicv_inhibit.", ""
    taken = "the reasons are taken to be numbered as since Linux 6.2: the recording does not tell its kernel"
    return (*_REASONS[reason], taken if kernel is None and reason >= _SAME_IN_ALL_KERNELS else "")


def _rewritten(result: "RunResult", fine: NDArray[np.bool_], sends: int) -> Iterator[Remedy]:
    """A vCPU wrote an ID that KVM does not expect, and no event says what KVM made of it."""
    vcpus = result.recording["vcpus"]
    vms = {vcpu["vm"] for vcpu in vcpus if _is_rewritten(vcpu)}
    if vms:
        of_these = np.array([vcpu["vm"] in vms for vcpu in vcpus])
        count = int((fine & of_these[result.ipis["sender"]]).sum())
        caveat = "those before the write are counted too: kvm:kvm_apicv_inhibit_changed would tell them apart"
        source = f"{_REWRITTEN.rule} (Linux, arch/x86/kvm/lapic.c, kvm_lapic_xapic_id_updated)"
        yield remedy(_REWRITTEN, source, count, sends, gain=count, sent_instead=count, caveat=caveat)


def _is_rewritten(vcpu: "RecordedVcpu") -> bool:
    return vcpu["id_written"] is not None and vcpu["id_written"] != vcpu["apic_id"] % 2**8


def _host(result: "RunResult", fine: int, sends: int) -> Iterator[Remedy]:
    machine = result.recording["machine"]
    if result.recording["side"] != "host":
        return
    if machine["cpuid"] is not None and not machine["cpuid"].startswith("GenuineIntel"):
        source = f"{_OTHER_VENDOR.rule} (SDM vol. 3C 30.1.6)"
        yield remedy(_OTHER_VENDOR, source, fine, sends, gain=None, sent_instead=None)
    kernel = release(machine["kernel"])
    if kernel is not None and kernel < _ENABLE_IPIV:
        source = f"{_OLD_KERNEL.rule} (Linux, arch/x86/kvm/vmx/vmx.c)"
        caveat = "whether its processor has the feature is not in the recording: `ipivrs info` tells, there"
        yield remedy(_OLD_KERNEL, source, fine, sends, gain=fine, sent_instead=fine, caveat=caveat)


def release(kernel: str | None) -> tuple[int, int] | None:
    """The first two numbers of a kernel's release, such as 6.1 of "6.1.0-18-amd64"."""
    found = re.match(r"(\d+)\.(\d+)", kernel or "")
    return None if found is None else (int(found[1]), int(found[2]))
