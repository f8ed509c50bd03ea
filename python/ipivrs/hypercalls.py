"""Paravirtual IPIs of a recording: hypercalls that bypass the ICR, and with it IPI virtualization.

Source: Linux's Documentation/virt/kvm/x86/hypercalls.rst (KVM_HC_SEND_IPI) and arch/x86/kernel/kvm.c.
"""

from typing import TYPE_CHECKING

from ipivrs.advice import Advice
from ipivrs.remedy import Remedy, remedy
from ipivrs.rewriting import Send, needs_no_exit

if TYPE_CHECKING:
    from ipivrs.results import RecordingInfo

PARAVIRTUAL = Advice(
    "are KVM_HC_SEND_IPI: the guest asks KVM to send its IPIs",
    "A hypercall always exits, and does not pass through the ICR.",
    "Take the feature from the guest (KVM_FEATURE_PV_SEND_IPI; QEMU: -cpu ...,kvm-pv-ipi=off): it then writes the ICR.",
)
_CAVEAT = (
    "whether many IPIs without exits cost less than one hypercall, which can reach 128 CPUs, is not in the recording"
)


def remedies(recording: "RecordingInfo", sends: int) -> list[Remedy]:
    """What to do about the hypercalls, if there are some. Their ICR goes through the emulator, to each target alone."""
    items = recording["hypercalls"]
    if not items:
        return []
    # The guest addresses CPUs that it has, by their APIC IDs: each is in the table.
    alone = [(item, needs_no_exit(Send(0, "x2APIC", "icr", item["icr_low"], 0))) for item in items]
    return [
        remedy(
            PARAVIRTUAL,
            f"{PARAVIRTUAL.rule} (Linux, Documentation/virt/kvm/x86/hypercalls.rst)",
            sum(item["calls"] for item in items),
            sends,
            of="hypercalls",
            gain=sum(item["calls"] for item, fine in alone if fine),
            sent_instead=sum(item["targets"] for item, fine in alone if fine),
            caveat=_CAVEAT,
        )
    ]
