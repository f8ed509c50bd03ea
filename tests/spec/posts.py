"""A device's interrupt, posted by an IOMMU."""

from __future__ import annotations

from .clause import clause
from .outcome import Outcome
from .page import bit
from .state import Descriptor, Machine, request


@clause("VT-d 5.2.3", "PIR")
def device_set(descriptor: Descriptor, vector: int) -> bool:
    """The IOMMU sets PIR[vector] as one locked operation; True if it was 1 already."""
    before = bit(descriptor.pir, vector)
    descriptor.pir = descriptor.pir | (1 << vector)
    return before


@clause("VT-d 5.2.3", "ON")
def device_claim(descriptor: Descriptor, urgent: bool) -> str:
    """As one locked operation, ON := 1 and a notification is due if ON = 0 and SN = 0 or the post is urgent."""
    if descriptor.sn and not urgent:
        return "suppressed"
    if descriptor.on:
        return "outstanding"
    descriptor.on = True
    return "sent"


def device_post(machine: Machine, address: int, vector: int, urgent: bool) -> Outcome:
    """An IOMMU posts a device's interrupt to the descriptor at a physical address."""
    if address not in machine.descriptors:
        return Outcome("wild")
    descriptor = machine.descriptors[address]
    coalesced = device_set(descriptor, vector)
    notification = device_claim(descriptor, urgent)
    if notification == "sent":
        request(machine, descriptor.ndst, descriptor.nv)
    return Outcome("posted", vector=vector, coalesced=coalesced, notification=notification)
