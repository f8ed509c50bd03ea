"""What kept the IPIs of a recording from being virtualized, what would change it, and what the change would win.

What is won is not guessed: each IPI is written anew as the change would have it, and the emulator is asked what becomes
of it. Sources: SDM vol. 3C 30.1.6, 30.4.3.2 and 30.5 (2023 edition); Linux's arch/x86/kvm and arch/x86/kernel/apic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ipivrs import hypercalls, inhibits
from ipivrs.advice import IN_THE_FIELDS, SWITCHED_OFF, Advice, advice
from ipivrs.remedy import Remedy, remedy
from ipivrs.rewriting import Send, needs_no_exit, unicast

if TYPE_CHECKING:
    from ipivrs.results import RunResult

_UNVIRTUALIZED = ("exited", "faulted", "escaped", "violation")
_FLAT = "logical destinations are read as Linux programs xAPICs: flat model, bit n for the n-th vCPU"

_BROADCAST_ID = Advice(
    "go to the broadcast ID (all bits of the destination 1)",
    "The destination is taken for an APIC ID, and no table reaches that far.",
    "Let the guest send one IPI to each CPU.",
)
_NOBODY = Advice(
    "go to an APIC ID that no vCPU of the recording has",
    "The PID-pointer table has no valid entry for it.",
    "Nobody would receive them: there is nothing to win. If a vCPU has this ID and never acted, give --vcpus.",
)
_BEYOND = Advice(
    "go to an APIC ID beyond the PID-pointer table",
    "The last PID-pointer index bounds the APIC IDs.",
    "Let userspace give KVM_CAP_MAX_VCPU_ID more than the highest APIC ID (here, leave --last-index away).",
)
_LOW_VECTOR = Advice(
    "have a vector below 16",
    "Vectors 0 to 15 are reserved for exceptions.",
    "No local APIC takes them: look for the mistake in the guest.",
)
_LEVEL = Advice(
    "have trigger mode level (bit 15)",
    "IPI virtualization takes edge-triggered IPIs only.",
    "Let the guest write 0 there: IPIs are edge-triggered, whatever the bit says.",
)
_OTHER_BITS = Advice(
    "have a bit set that must be 0",
    "Bit 12 and the reserved bits of the ICR must be 0.",
    "Let the guest write 0 there.",
)
_BY_CONDITION = {
    "trigger-mode": _LEVEL,
    "delivery-status": _OTHER_BITS,
    "reserved-bits": _OTHER_BITS,
    "vector": _LOW_VECTOR,
}


@dataclass
class _Tally:
    """What is known about one piece of advice so far."""

    clause: str
    count: int = 0
    gain: int = 0
    sent: int = 0
    caveat: str = ""


def remedies(result: "RunResult") -> list[Remedy]:
    """What stood against each IPI that was not virtualized, the most frequent first; then what lies outside the ICR."""
    recording = result.recording
    calls = sum(item["calls"] for item in recording["hypercalls"])
    sends = result.counters["total"] + calls
    found = list(_in_the_icr(result, sends))
    found.sort(key=lambda remedy: -remedy["count"])
    found += hypercalls.remedies(recording, sends)
    found += inhibits.remedies(result, sends)
    return found


def _in_the_icr(result: "RunResult", sends: int) -> Iterator[Remedy]:
    tallies: dict[Advice, _Tally] = {}
    conditions = {kind["clause"]: kind["condition"] for kind in result.kinds}
    for send, reached, count, clause in _exiting(result):
        why, after, caveat = _changed(send, conditions.get(clause), reached)
        why = why or Advice(f"are decided by {clause}", "", "Nothing is known that changes it.")
        tally = tallies.setdefault(why, _Tally(clause or "not decided by a clause"))
        tally.count += count
        tally.caveat = tally.caveat or caveat
        if after and all(map(needs_no_exit, after)):
            tally.gain += count
            tally.sent += count * len(after)
    for why, tally in tallies.items():
        citation = " ".join(part for part in (why.rule, f"({tally.clause})") if part)
        yield remedy(why, citation, tally.count, sends, gain=tally.gain, sent_instead=tally.sent, caveat=tally.caveat)


def _exiting(result: "RunResult") -> Iterator[tuple[Send, list[int], int, str | None]]:
    """The different IPIs that were not virtualized, whom they reach by APIC ID, how many there are, and the clause."""
    fates = [index for index, name in enumerate(result.fate_names) if name in _UNVIRTUALIZED]
    places = np.flatnonzero(np.isin(result.ipis["fate"], fates))
    vcpus, whom = result.recording["vcpus"], result.targets()
    for first, count in _distinct(result.ipis[places]):
        row = result.ipis[places[first]]
        sender = vcpus[int(row["sender"])]
        reached = [vcpus[vcpu]["apic_id"] for vcpu in whom["sets"][whom["of"][places[first]]]]
        send = Send.of(result.via_names[int(row["via"])], int(row["icr_low"]), int(row["destination"]), sender)
        clause = result.clause_names[int(row["clause"])]
        yield send, reached, count, None if clause == "none" else clause


def _distinct(rows: NDArray[np.void]) -> Iterator[tuple[int, int]]:
    """Where the first of rows stands that differ in their times alone, and how many they are."""
    columns = ("clause", "via", "sender", "icr_low", "destination")
    order = np.lexsort([rows[name] for name in columns])
    rows = rows[order]
    new = np.zeros(len(rows), bool)
    new[:1] = True
    for name in columns:
        new[1:] |= rows[name][1:] != rows[name][:-1]
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(rows)))
    for start, count in zip(starts, counts, strict=True):
        yield int(order[start]), int(count)


def _changed(send: Send, condition: str | None, reached: list[int]) -> tuple[Advice | None, list[Send], str]:
    """What stands against a send, the sends that would take its place, and what that rests on."""
    if condition in ("control", "msr-bitmap"):
        return SWITCHED_OFF, _plain(send, reached), ""
    if condition in IN_THE_FIELDS:
        fields = send.fields
        why = advice(send.apic, fields["delivery_mode"], fields["destination_mode"], fields["shorthand"])
        return (why, *_readdressed(send, reached))
    if condition in ("last-index", "table-entry"):
        return _unreached(send, reached)
    return _BY_CONDITION.get(condition or ""), [] if condition == "vector" else _plain(send, reached), ""


def _plain(send: Send, reached: list[int]) -> list[Send]:
    """The same IPI with no bit set that needs not be, if its fields are those of a unicast to a vCPU."""
    fields = send.fields
    is_unicast = (fields["delivery_mode"], fields["shorthand"]) == ("fixed", "none")
    if is_unicast and fields["destination_mode"] == "physical" and send.destination in reached:
        return [unicast(send, send.destination, trigger="edge")]
    return [send] if fields["shorthand"] == "self" else []


def _readdressed(send: Send, reached: list[int]) -> tuple[list[Send], str]:
    """The IPIs to one processor each that reach whom this one reaches."""
    fields = send.fields
    if fields["delivery_mode"] not in ("fixed", "lowest-priority"):
        return [], ""
    if fields["shorthand"] == "self":
        return [send.as_self_ipi()], ""
    is_logical = (fields["shorthand"], fields["destination_mode"]) == ("none", "logical")
    flat = send.apic == "xAPIC" and is_logical and not send.is_broadcast_id
    return [unicast(send, apic_id) for apic_id in reached], _FLAT if flat else ""


def _unreached(send: Send, reached: list[int]) -> tuple[Advice, list[Send], str]:
    if send.is_broadcast_id:
        return _BROADCAST_ID, [unicast(send, apic_id) for apic_id in reached], ""
    if send.destination in reached:
        return _BEYOND, [unicast(send, send.destination)], ""
    return _NOBODY, [], ""
