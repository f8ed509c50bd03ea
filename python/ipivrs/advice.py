"""Why an IPI needs a VM exit, and what to change so that it does not.

Where several fields stand against it, the one that must change first is named: with a shorthand, for one, the
destination mode means nothing.
Sources: SDM vol. 3C 30.4.3.2 and 30.5 (2023 edition) for the rules; Linux's arch/x86/kernel/apic for the changes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """`what` follows "N IPIs" as a verb phrase; `rule` and `change` are sentences."""

    what: str
    rule: str
    change: str

    def __str__(self) -> str:
        """The rule and the change, behind what the reader already knows."""
        return f"{self.rule} {self.change}"


_FIXED_ONLY = "IPI virtualization takes fixed delivery mode only."
_PHYSICAL_ONLY = "IPI virtualization takes physical destinations only."
_NO_SHORTHAND = "IPI virtualization takes no shorthand."

_START_UP = Advice(
    "are INIT or start-up IPIs",
    _FIXED_ONLY,
    "They start processors, a few for each: there is nothing to change.",
)

_BY_DELIVERY_MODE = {
    "init": _START_UP,
    "sipi": _START_UP,
    "nmi": Advice(
        "are NMIs",
        _FIXED_ONLY,
        "NMIs always exit: in the guest, look for what sends them (backtraces, a watchdog, perf).",
    ),
    "smi": Advice("are SMIs", _FIXED_ONLY, "SMIs always exit."),
    "lowest-priority": Advice(
        "use lowest-priority delivery mode",
        _FIXED_ONLY,
        "Let the guest send fixed IPIs to one processor.",
    ),
}

_LOGICAL = {
    "x2APIC": Advice(
        "use logical destination mode (bit 11)",
        _PHYSICAL_ONLY,
        "Put x2apic_phys on a Linux guest's command line.",
    ),
    "xAPIC": Advice(
        "use logical destination mode (bit 11)",
        _PHYSICAL_ONLY,
        "Let the guest use x2APIC (offer it the feature, take nox2apic off its command line) with x2apic_phys, "
        "or run Linux 6.12 or later, whose 64-bit kernel addresses physically in xAPIC mode.",
    ),
}

_BROADCAST = Advice(
    "use a broadcast shorthand (bits 19:18)",
    _NO_SHORTHAND,
    "Put no_ipi_broadcast=1 on a Linux guest's command line (5.4 or later): it then sends one IPI to each CPU.",
)

_SELF = Advice(
    "use the shorthand self through the ICR",
    "In x2APIC mode IPI virtualization takes no shorthand, not even this one.",
    "Let the guest write the vector to MSR 83FH.",
)


IN_THE_FIELDS = ("delivery-mode", "shorthand", "destination-mode")
"""Conditions (as `kinds` and `explain` name them) that the fields of the ICR decide and `advice` knows about."""

SWITCHED_OFF = Advice(
    "exit as IPI virtualization is off",
    "Without the control, or without APICv, KVM keeps every write of the ICR for itself.",
    "Turn it on (enable_ipiv=1 of kvm_intel; here, leave --no-ipiv away).",
)


def advice(apic: str, delivery_mode: str, destination_mode: str, shorthand: str) -> Advice | None:
    """What stands against IPI virtualization in these fields of an ICR; None if it is something else.

    Args:
        apic: "x2APIC" or "xAPIC".
        delivery_mode: ICR bits 10:8 by name.
        destination_mode: ICR bit 11 by name.
        shorthand: ICR bits 19:18 by name.
    """
    if delivery_mode != "fixed":
        return _BY_DELIVERY_MODE.get(delivery_mode)
    if shorthand == "self":
        return _SELF if apic == "x2APIC" else None
    if shorthand != "none":
        return _BROADCAST
    return _LOGICAL.get(apic) if destination_mode == "logical" else None
