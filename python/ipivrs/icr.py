"""Questions about one value of the interrupt command register (ICR)."""

from ipivrs._core import Explanation, compose_icr
from ipivrs._core import explain as _explain
from ipivrs.names import Access, Apic, DeliveryMode, DestinationMode, Level, Shorthand, Trigger
from ipivrs.options import check_whole_numbers

_RANGES = {
    "icr": (0, 2**64 - 1),
    "vector": (0, 2**8 - 1),
    "dest": (0, 2**32 - 1),
    "vcpus": (1, 2**16),
    "last_index": (0, 2**16 - 1),
}


def explain(
    icr: int | None = None,
    *,
    vector: int | None = None,
    dest: int = 0,
    mode: DeliveryMode = "fixed",
    destination_mode: DestinationMode = "physical",
    level: Level = "deassert",
    trigger: Trigger = "edge",
    shorthand: Shorthand = "none",
    apic: Apic = "x2apic",
    access: Access = "icr",
    vcpus: int | None = None,
    last_index: int | None = None,
    ipi_virtualization: bool = True,
    apicv: bool = True,
) -> Explanation:
    """Say what the processor does when a guest writes one ICR value, and which clause of the manual decides.

    Give either `icr` or `vector` with the fields that differ from a plain unicast IPI.

    Args:
        icr: The value written, 64 bits: in x2APIC mode the register as it is; in xAPIC mode ICR_HI is bits 63:32 and
            ICR_LO bits 31:0. With `access="self-ipi"`, the value written to MSR 83FH.
        vector: ICR bits 7:0, 0 to 255.
        dest: APIC ID or logical destination: 0 to 255 in xAPIC mode, 0 to 2**32 - 1 in x2APIC mode.
        mode: Delivery mode, ICR bits 10:8.
        destination_mode: ICR bit 11.
        level: ICR bit 14; Linux writes "assert" for INIT only.
        trigger: ICR bit 15.
        shorthand: Destination shorthand, ICR bits 19:18.
        apic: The mode of the sender's local APIC.
        access: The register that is written; "self-ipi" is MSR 83FH, which only x2APIC mode has.
        vcpus: Go on through a PID-pointer table with a valid entry for each of the APIC IDs 0 to `vcpus` - 1; 1 to
            65536.
        last_index: The last PID-pointer index, 0 to 65535; default `vcpus` - 1.
        ipi_virtualization: KVM's enable_ipiv: the VM-execution control, and whether the MSR bitmap passes 830H through.
        apicv: APICv is active: APIC-register virtualization, virtual-interrupt delivery, posted interrupts.

    Returns:
        The outcome, the clause that decided, and each rule on the way there.

    Raises:
        ValueError: A value is out of range, or the ICR is given twice or not at all.

    Source: SDM vol. 3C, "APIC Virtualization and Virtual Interrupts", 30.1.5, 30.1.6, 30.4.3.2, 30.5 (2023 edition).
    """
    check_whole_numbers(_RANGES, icr=icr, vector=vector, dest=dest, vcpus=vcpus, last_index=last_index)
    composed = compose_icr(
        vector or 0,
        dest,
        apic=apic,
        mode=mode,
        destination_mode=destination_mode,
        level=level,
        trigger=trigger,
        shorthand=shorthand,
    )
    return _explain(
        _value(icr, vector, composed, access),
        apic=apic,
        access=access,
        vcpus=vcpus,
        last_index=last_index,
        ipi_virtualization=ipi_virtualization,
        apicv=apicv,
    )


def _value(icr: int | None, vector: int | None, composed: int, access: Access) -> int:
    """The value that is written. With vector 0 and plain fields, `composed` is 0."""
    if icr is not None:
        if vector is not None or composed != 0:
            raise ValueError("give either icr or vector with its fields, not both")
        return icr
    if vector is None:
        raise ValueError("give icr, or vector with the fields that differ from a plain unicast IPI")
    if access == "self-ipi" and composed != vector:
        raise ValueError("the self-IPI register has a vector and nothing else: leave the other fields out")
    return composed
