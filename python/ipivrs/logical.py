"""Whom an IPI reaches that is not for one processor: logical destinations and shorthands.

Source: SDM vol. 3A 11.6.2 and 11.12.10 (2023 edition): logical destination mode, and logical x2APIC IDs.
"""

from ipivrs.rewriting import Send

_FLAT = "logical destinations are read as Linux programs xAPICs: flat model, bit n for the n-th APIC ID"
_IDS_IN_A_CLUSTER = 16
_BITS_OF_A_FLAT_ID = 8


def targets(send: Send, ids: list[int]) -> tuple[list[int], str]:
    """The APIC IDs of `ids` that a send reaches, and what that rests on ("" if on the manual alone)."""
    shorthand = send.fields["shorthand"]
    if shorthand == "self":
        return [send.sender], ""
    if shorthand != "none":
        return [apic_id for apic_id in ids if shorthand == "all" or apic_id != send.sender], ""
    if send.is_broadcast_id:
        return list(ids), ""
    if send.fields["destination_mode"] == "physical":
        return [apic_id for apic_id in ids if apic_id == send.destination], ""
    if send.apic == "x2APIC":
        return [apic_id for apic_id in ids if _in_cluster(apic_id, send.destination)], ""
    flat = sorted(ids)[:_BITS_OF_A_FLAT_ID]
    return [apic_id for bit, apic_id in enumerate(flat) if send.destination >> bit & 1], _FLAT


def _in_cluster(apic_id: int, destination: int) -> bool:
    """Whether a logical x2APIC destination, cluster in bits 31:16 and members in 15:0, has this APIC ID."""
    cluster, member = divmod(apic_id, _IDS_IN_A_CLUSTER)
    return destination >> 16 == cluster and bool(destination >> member & 1)
