"""The story of a recording: whom each IPI meant, with nothing of what vCPUs did in between."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ipivrs.reports.story import (
    FATES,
    NEVER,
    NOBODY,
    Exits,
    Interrupts,
    Numbers,
    Pairs,
    Sends,
    Slices,
    Story,
    pairs_of,
)
from ipivrs.results import RecordedVcpu, RunResult
from ipivrs.wording import noun

NANOSECONDS = 1_000_000_000

MOST_ROWS = 4_000_000
"""Interrupts that are told one by one: a broadcast is one for each target."""


def story(result: RunResult) -> Story:
    """Tell a recording."""
    ipis, vcpus = result.ipis, result.recording["vcpus"]
    names = result.fate_names
    code = np.array([FATES.index(name) if name in FATES else len(FATES) for name in names], np.uint8)
    sent = code[ipis["fate"]] < len(FATES)
    ipis, fates = ipis[sent], code[ipis["fate"][sent]]
    time = ipis["time_ns"] - (ipis["time_ns"].min() if len(ipis) else np.uint64(0))
    whom = result.targets()
    sets: list[list[int]] = whom["sets"]
    chosen: NDArray[np.uint32] = whom["of"][sent]
    row, target = _expanded(chosen, sets)
    missing = int(sum(np.bincount(chosen, minlength=len(sets)) * [max(len(one), 1) for one in sets])) - len(row)
    interrupts = Interrupts(
        time=time[row],
        delivered=np.full(len(row), NEVER, np.uint64),
        sender=ipis["sender"][row].astype(np.uint32),
        target=target,
        fate=fates[row],
        vector=ipis["vector"][row].astype(np.uint8),
    )
    return Story(
        unit="ns",
        per_second=NANOSECONDS,
        end=int(time.max()) if len(time) else 0,
        labels=_labels(vcpus),
        vcpus=[f"vCPU {label} {vcpu['name']}".rstrip() for label, vcpu in zip(_labels(vcpus), vcpus, strict=True)],
        pcpus=0,
        sends=Sends(time, ipis["sender"].astype(np.uint32), fates),
        interrupts=interrupts,
        pairs=_pairs(ipis["sender"].astype(np.uint32), chosen, sets),
        states=Slices.none(),
        residence=Slices.none(),
        exits=Exits.none(),
        delivery_known=False,
        remarks=list(_remarks(missing, flat_assumed=whom["flat_assumed"])),
        missing=missing,
    )


def _expanded(chosen: NDArray[np.uint32], sets: list[list[int]]) -> tuple[NDArray[np.int64], Numbers]:
    """For each interrupt the row that sent it, and its target: as many as there is room for, in order."""
    sizes = np.array([max(len(one), 1) for one in sets], np.int64)
    flat = np.array([vcpu for one in sets for vcpu in one or [NOBODY]], np.uint32)
    begins = np.concatenate(([0], np.cumsum(sizes)))[:-1] if len(sizes) else sizes
    ends = np.cumsum(sizes[chosen])
    rows = int(np.searchsorted(ends, MOST_ROWS, side="right"))
    counts = sizes[chosen[:rows]]
    row = np.repeat(np.arange(rows), counts)
    within = np.arange(len(row)) - np.repeat(ends[:rows] - counts, counts)
    return row, flat[begins[chosen[row]] + within] if len(row) else np.empty(0, np.uint32)


def _pairs(sender: Numbers, chosen: NDArray[np.uint32], sets: list[list[int]]) -> Pairs:
    """Over all IPIs, those too for which there is no room one by one."""
    by_set = pairs_of(sender, chosen)
    lengths = np.array([len(sets[number]) for number in by_set.target], np.int64)
    target = np.array([vcpu for number in by_set.target for vcpu in sets[number]], np.uint32)
    return pairs_of(np.repeat(by_set.sender, lengths), target, np.repeat(by_set.count, lengths))


def _labels(vcpus: list[RecordedVcpu]) -> list[str]:
    several = len({vcpu["vm"] for vcpu in vcpus}) > 1
    return [f"{vcpu['vm']}.{vcpu['vcpu']}" if several else str(vcpu["vcpu"]) for vcpu in vcpus]


def _remarks(missing: int, *, flat_assumed: bool) -> Iterator[str]:
    yield (
        "A recording has the times at which interrupts were sent, not those at which they arrived, and not what vCPUs "
        "did in between."
    )
    if missing:
        are = noun(missing, "interrupt is", "interrupts are")
        yield f"{missing:,} more {are} counted, and not told one by one: a broadcast is one for each target."
    if flat_assumed:
        yield (
            "Logical destinations of xAPIC mode are read as Linux sets the local APICs up: bit k of a destination "
            "means the k-th vCPU, from 0 on."
        )
