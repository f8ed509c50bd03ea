"""What the machine at hand has of IPI virtualization. ipivrs needs none of it; its users want to know."""

import platform
from pathlib import Path
from typing import TypedDict

from ipivrs.inhibits import release

_FLAGS = ("ipi_virt", "apicv", "posted_intr", "vid", "vapic_reg")
_PARAMETERS = ("enable_ipiv", "enable_apicv")
_ENABLE_IPIV = (5, 19)
_CONTAINERS = (".dockerenv", "run/.containerenv")
_INTEL = "GenuineIntel"


class Machine(TypedDict):
    """What Linux says about the processor and about KVM; None where it says nothing.

    `vmx_flags` holds those flags of the "vmx flags" line of /proc/cpuinfo that concern interrupts, `avic` whether AMD's
    counterpart is there. `kvm_intel` holds the module's parameters, "Y" or "N". `dev_kvm` is "usable", "no permission"
    or "absent". `hypervisor`: this is a virtual machine itself; `container`: /proc and /sys may hide what the host has.
    `missing` is what stands between this machine and IPI virtualization, one sentence each; nothing if KVM uses it.
    """

    processor: str | None
    vendor: str | None
    vmx_flags: list[str] | None
    ipi_virtualization: bool | None
    avic: bool | None
    hypervisor: bool | None
    kernel: str | None
    kvm_intel: dict[str, str] | None
    kvm_amd: bool
    dev_kvm: str
    container: bool
    missing: list[str]


def machine(root: Path = Path("/"), kernel: str | None = None) -> Machine:
    """Look at /proc, /sys and /dev under `root`; `kernel` is the release if it is not the running one's."""
    cpu = _first_cpu(root / "proc/cpuinfo")
    flags = cpu.get("vmx flags")
    known = None if flags is None else flags.split()
    general = cpu["flags"].split() if "flags" in cpu else None
    found = Machine(
        processor=cpu.get("model name"),
        vendor=cpu.get("vendor_id"),
        vmx_flags=None if known is None else [flag for flag in _FLAGS if flag in known],
        ipi_virtualization=None if known is None else "ipi_virt" in known,
        avic=None if general is None else bool({"avic", "x2avic"} & set(general)),
        hypervisor=None if general is None else "hypervisor" in general,
        kernel=kernel or _kernel(root),
        kvm_intel=_kvm_intel(root / "sys/module/kvm_intel"),
        kvm_amd=(root / "sys/module/kvm_amd").is_dir(),
        dev_kvm=_dev_kvm(root / "dev/kvm"),
        container=any((root / name).exists() for name in _CONTAINERS),
        missing=[],
    )
    found["missing"] = _missing(found)
    return found


def describe(found: Machine) -> list[str]:
    """The same in plain sentences."""
    sentences = [_processor_sentence(found), _kvm_sentence(found), _kernel_sentence(found)]
    if found["container"]:
        sentences.append("this is a container: what the host has may be hidden")
    return sentences


def _first_cpu(cpuinfo: Path) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo, empty if there is no such file."""
    fields: dict[str, str] = {}
    for line in (_read(cpuinfo) or "").splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def _kernel(root: Path) -> str | None:
    text = _read(root / "proc/sys/kernel/osrelease")
    return text.strip() if text else (platform.release() or None) if root == Path("/") else None


def _kvm_intel(module: Path) -> dict[str, str] | None:
    if not module.is_dir():
        return None
    values = ((name, _read(module / "parameters" / name)) for name in _PARAMETERS)
    return {name: value.strip() for name, value in values if value is not None}


def _dev_kvm(device: Path) -> str:
    if not device.exists():
        return "absent"
    try:
        with device.open("r+b", buffering=0):
            return "usable"
    except OSError:
        return "no permission"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _missing(found: Machine) -> list[str]:
    """From the processor up: each is of no use without the ones before it."""
    return [*_missing_in_the_processor(found), *_missing_in_the_kernel(found)]


def _missing_in_the_processor(found: Machine) -> list[str]:
    if found["processor"] is None and found["vendor"] is None:
        return ["/proc/cpuinfo says nothing: run this on the host itself, on Linux"]
    if found["vendor"] not in (None, _INTEL):
        return [f"an Intel processor: IPI virtualization is Intel's, and this one is {found['vendor']}"]
    if found["ipi_virtualization"] is None:
        inside = "offer VMX to this virtual machine" if found["hypervisor"] else "switch VMX on in the firmware"
        return [f"VMX: {inside}"]
    if not found["ipi_virtualization"]:
        inside = " (this is a virtual machine: its hypervisor may hide it)" if found["hypervisor"] else ""
        return [f"a processor with IPI virtualization: Sapphire Rapids or later has it{inside}"]
    return []


def _missing_in_the_kernel(found: Machine) -> list[str]:
    missing = []
    kernel = release(found["kernel"])
    if kernel is not None and kernel < _ENABLE_IPIV:
        missing.append("Linux 5.19 or later, which has enable_ipiv")
    parameters = found["kvm_intel"]
    if parameters is None:
        if found["vendor"] in (None, _INTEL):
            missing.append("kvm_intel: modprobe kvm_intel")
    elif parameters.get("enable_apicv") == "N":
        missing.append("APICv: load kvm_intel with enable_apicv=1")
    elif parameters.get("enable_ipiv") == "N" and found["ipi_virtualization"]:
        missing.append("the parameter: load kvm_intel with enable_ipiv=1")
    if found["dev_kvm"] != "usable":
        why = "there is none" if found["dev_kvm"] == "absent" else "this user may not open it (group kvm)"
        missing.append(f"/dev/kvm: {why}")
    return missing


def _processor_sentence(found: Machine) -> str:
    name = found["processor"] or "this processor"
    if found["ipi_virtualization"] is None:
        amd = "; AMD's AVIC has rules of its own" if found["avic"] else ""
        return (
            f"{name}: no vmx flags in /proc/cpuinfo, so VMX is not usable here "
            f"(another vendor, switched off in firmware, or a virtual machine without it){amd}"
        )
    has = "has IPI virtualization" if found["ipi_virtualization"] else "has no IPI virtualization"
    return f"{name} {has}; of the vmx flags about interrupts it lists: {' '.join(found['vmx_flags'] or ['none'])}"


def _kvm_sentence(found: Machine) -> str:
    parameters = found["kvm_intel"]
    if parameters is None:
        return "kvm_intel is not loaded" + (", kvm_amd is" if found["kvm_amd"] else "")
    values = ", ".join(f"{name}={value}" for name, value in parameters.items())
    if "enable_ipiv" not in parameters:
        return f"kvm_intel is loaded{f' ({values})' if values else ''}; this kernel has no enable_ipiv (Linux 5.19 has)"
    uses = "uses IPI virtualization" if parameters["enable_ipiv"] == "Y" else "does not use IPI virtualization"
    return f"kvm_intel is loaded ({values}): KVM {uses}"


def _kernel_sentence(found: Machine) -> str:
    kernel = f"Linux {found['kernel']}" if found["kernel"] else "an unknown kernel"
    guest = ", in a virtual machine" if found["hypervisor"] else ""
    return f"{kernel}{guest}; /dev/kvm is {found['dev_kvm']}"
