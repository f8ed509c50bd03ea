"""What the machine at hand has of IPI virtualization. ipivrs needs none of it; its users want to know."""

from pathlib import Path
from typing import TypedDict

_FLAGS = ("ipi_virt", "apicv", "posted_intr", "vid", "vapic_reg")
_PARAMETERS = ("enable_ipiv", "enable_apicv")


class Machine(TypedDict):
    """What Linux says about the processor and about KVM; None where it says nothing.

    `vmx_flags` holds those flags of the "vmx flags" line of /proc/cpuinfo that concern interrupts.
    `kvm_intel` holds the module's parameters, "Y" or "N".
    """

    processor: str | None
    vmx_flags: list[str] | None
    ipi_virtualization: bool | None
    kvm_intel: dict[str, str] | None


def machine(root: Path = Path("/")) -> Machine:
    """Look at /proc/cpuinfo and /sys/module/kvm_intel under `root`."""
    cpu = _first_cpu(root / "proc/cpuinfo")
    flags = cpu.get("vmx flags")
    known = None if flags is None else flags.split()
    return Machine(
        processor=cpu.get("model name"),
        vmx_flags=None if known is None else [flag for flag in _FLAGS if flag in known],
        ipi_virtualization=None if known is None else "ipi_virt" in known,
        kvm_intel=_kvm_intel(root / "sys/module/kvm_intel"),
    )


def describe(found: Machine) -> list[str]:
    """The same in plain sentences."""
    return [_processor_sentence(found), _kvm_sentence(found)]


def _first_cpu(cpuinfo: Path) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo, empty if there is no such file."""
    fields: dict[str, str] = {}
    for line in (_read(cpuinfo) or "").splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def _kvm_intel(module: Path) -> dict[str, str] | None:
    if not module.is_dir():
        return None
    values = ((name, _read(module / "parameters" / name)) for name in _PARAMETERS)
    return {name: value.strip() for name, value in values if value is not None}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _processor_sentence(found: Machine) -> str:
    name = found["processor"] or "this processor"
    if found["ipi_virtualization"] is None:
        return (
            f"{name}: no vmx flags in /proc/cpuinfo, so VMX is not usable here "
            "(another vendor, switched off in firmware, or a virtual machine without it)"
        )
    has = "has IPI virtualization" if found["ipi_virtualization"] else "has no IPI virtualization"
    return f"{name} {has}; of the vmx flags about interrupts it lists: {' '.join(found['vmx_flags'] or ['none'])}"


def _kvm_sentence(found: Machine) -> str:
    parameters = found["kvm_intel"]
    if parameters is None:
        return "kvm_intel is not loaded"
    values = ", ".join(f"{name}={value}" for name, value in parameters.items())
    if "enable_ipiv" not in parameters:
        return f"kvm_intel is loaded{f' ({values})' if values else ''}; this kernel has no enable_ipiv (Linux 5.19 has)"
    uses = "uses IPI virtualization" if parameters["enable_ipiv"] == "Y" else "does not use IPI virtualization"
    return f"kvm_intel is loaded ({values}): KVM {uses}"
