"""Stories and recordings that are made for tests of reports."""

from pathlib import Path

import numpy as np

from ipivrs.reports.story import Exits, Interrupts, Sends, Slices, Story, pairs_of

HOSTILE = "</script><img onerror=alert(1)>"
"""A thread's name that would be markup, if nobody escaped it."""


def hostile_recording(folder: Path) -> Path:
    """The text of perf script, with threads of such a name."""
    file = folder / "perf.txt"
    ipi = "kvm:kvm_apic_ipi: dst {to:x} vec 251 (Fixed|physical|assert|edge|dst)"
    lines = [f"{HOSTILE} {100 + at % 2} [000] {10 + at}.500000: {ipi.format(to=1 - at % 2)}" for at in range(6)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def synthetic_story(interrupts: int, *, slices: int = 0, vcpus: int = 64) -> Story:
    """A story with so many interrupts from everybody to everybody."""
    random = np.random.default_rng(1)
    end = 10**11
    time = np.sort(random.integers(0, end, interrupts)).astype(np.uint64)
    sender, target = (random.integers(0, vcpus, interrupts).astype(np.uint32) for _ in range(2))
    fate = random.choice([0, 0, 0, 2], interrupts).astype(np.uint8)
    vector = random.integers(0xF0, 0x100, interrupts).astype(np.uint8)
    each = max(slices // vcpus, 1)
    start = np.tile(np.linspace(0, end, each, endpoint=False).astype(np.uint64), vcpus)
    lane = np.repeat(np.arange(vcpus, dtype=np.uint32), each)
    state = random.integers(0, 4, len(start)).astype(np.uint32)
    return Story(
        unit="cycles",
        per_second=2e9,
        end=end,
        labels=[str(vcpu) for vcpu in range(vcpus)],
        vcpus=[f"vCPU {vcpu}" for vcpu in range(vcpus)],
        pcpus=8,
        sends=Sends(time, sender, fate),
        interrupts=Interrupts(
            time, time + random.integers(200, 60_000, interrupts).astype(np.uint64), sender, target, fate, vector
        ),
        pairs=pairs_of(sender, target),
        states=Slices(lane, start, start + np.uint64(end // each), state),
        residence=Slices.none(),
        exits=Exits.none(),
        delivery_known=True,
        remarks=[],
        missing=0,
    )
