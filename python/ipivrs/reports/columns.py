"""Columns that a script in the report reads: compressed and bounded, whatever the size of the result."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipivrs.reports.story import NEVER, Interrupts, Slices, Story

MOST_INTERRUPTS = 1_000_000
"""Interrupts that can be looked at one by one."""

MOST_SLICES = 1_000_000
"""Stretches of vCPUs' states that can."""

Column = NDArray[np.unsignedinteger[Any]]


def pack(columns: dict[str, Column]) -> tuple[str, list[dict[str, object]]]:
    """Columns as text, and what the script has to know to unpack them.

    Bytes of one significance stand together, which compresses to a third of what numbers one after another do.
    """
    layout = [{"name": name, "bytes": one.itemsize, "rows": len(one)} for name, one in columns.items()]
    planes = b"".join(
        np.ascontiguousarray(one.astype(one.dtype.newbyteorder("<")))
        .view(np.uint8)
        .reshape(len(one), one.itemsize)
        .T.tobytes()
        for one in columns.values()
    )
    return base64.b64encode(zlib.compress(planes, 6)).decode(), layout


def timeline(story: Story) -> tuple[dict[str, Column], int | None]:
    """The columns of the timeline, and the time at which they end if not all of them are there."""
    interrupts, states = story.interrupts, story.states
    cut = None
    if len(interrupts) > MOST_INTERRUPTS:
        cut = int(interrupts.time[MOST_INTERRUPTS])
    if len(states.start) > MOST_SLICES:
        beyond = int(np.partition(states.start, MOST_SLICES)[MOST_SLICES])
        cut = beyond if cut is None else min(cut, beyond)
    return _interrupts(interrupts, cut) | _states(states, cut), cut


def _interrupts(all_of_them: Interrupts, cut: int | None) -> dict[str, Column]:
    many = len(all_of_them) if cut is None else int(np.searchsorted(all_of_them.time, cut))
    time, delivered = all_of_them.time[:many], all_of_them.delivered[:many]
    took = np.where(delivered == NEVER, 0, delivered - time + np.uint64(1)).astype(np.uint64)
    columns: dict[str, Column] = {
        "after": np.diff(time, prepend=time[:1] * 0),
        "took": took,
        "sender": all_of_them.sender[:many],
        "target": all_of_them.target[:many],
        "fate": all_of_them.fate[:many],
        "vector": all_of_them.vector[:many],
    }
    return columns


def _states(slices: Slices, cut: int | None) -> dict[str, Column]:
    kept = slice(None) if cut is None else slices.start < cut
    start, end = slices.start[kept], slices.end[kept]
    columns: dict[str, Column] = {
        "lane": slices.lane[kept],
        "start": start,
        "lasts": end - start,
        "state": slices.what[kept].astype(np.uint8),
    }
    return columns
