"""The story of a scenario in virtual time, from its event log."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipivrs.reports.story import (
    FATES,
    NEVER,
    NOBODY,
    STATES,
    Codes,
    Exits,
    Interrupts,
    Numbers,
    Sends,
    Slices,
    Story,
    Times,
    pairs_of,
)
from ipivrs.simulation import Events, Shape
from ipivrs.wording import noun

_SENDS = {"posted": "virtualized", "self-ipi": "self", "exited": "exited", "faulted": "faulted"}
_POSTS = {"posted": "virtualized", "self-ipi": "self", "routed": "exited", "device": "device"}
_STATES = {
    "loaded": "root",
    "entered": "guest",
    "left": "root",
    "preempted": "waiting",
    "runnable": "waiting",
    "slept": "blocked",
}
_NONE = 255


def story(events: Events, shape: Shape, vcpus: Sequence[int], cycles: int) -> Story:
    """Tell a scenario. `vcpus` are those that each VM had at the end, `cycles` how long it counts."""
    there = np.concatenate([np.arange(most) < count for most, count in zip(shape.vcpus, vcpus, strict=True)])
    log = _Log(events, np.where(there, np.cumsum(there) - 1, NOBODY).astype(np.uint32))
    labels = [label for label, here in zip(shape.labels(), there, strict=True) if here]
    interrupts = log.interrupts()
    sends, fates = log.of(_SENDS, FATES)
    order = np.argsort(log.since[sends], kind="stable")
    left = np.flatnonzero(log.what == "left")
    end = int(log.time.max()) if len(log.time) else 0
    unposted = int((interrupts.target == NOBODY).sum())
    return Story(
        unit="cycles",
        per_second=shape.hz,
        end=end,
        labels=labels,
        vcpus=[f"vCPU {label}" for label in labels],
        pcpus=shape.pcpus,
        sends=Sends(log.since[sends][order], log.vcpu[sends][order], fates[order]),
        interrupts=interrupts,
        pairs=pairs_of(interrupts.sender, interrupts.target),
        states=log.states(),
        residence=log.residence(),
        exits=Exits(log.since[left], log.vcpu[left], log.other[left]),
        delivery_known=True,
        remarks=[*_more(events["more"]), *_beyond(cycles / shape.hz, end / shape.hz), *_unposted(unposted)],
        missing=events["more"],
    )


def _more(more: int) -> Iterator[str]:
    if more:
        came = f"{more:,} more {noun(more, 'event')} came"
        yield f"The log was full: {came} after what is drawn here. The counts are of the whole run."


def _beyond(counted: float, drawn: float) -> Iterator[str]:
    if drawn > counted:
        yield (
            f"The run counts {counted * 1e3:,.3f} ms, until programs ended or their time was up. What was on its way "
            f"then was carried to its end, and is drawn too: until {drawn * 1e3:,.3f} ms."
        )


def _unposted(unposted: int) -> Iterator[str]:
    if unposted:
        ipis = f"{unposted:,} {noun(unposted, 'IPI')} that exited and led to no post"
        yield f"Beside the interrupts that were posted, {ipis} (start-up IPIs, messages for nobody) are drawn."


class _Log:
    """The columns of a log, in the order in which events were acted on."""

    def __init__(self, events: Events, lanes: Numbers) -> None:
        self._lanes = np.append(lanes, np.uint32(NOBODY))
        self.time, self.since = events["time"], events["since"]
        self.pcpu, self.vcpu, self.other = events["pcpu"], self._lane(events["vcpu"]), events["other"]
        self.vector = events["vector"]
        self.what = np.array(events["what"], "U9")

    def _lane(self, vcpu: Numbers) -> Numbers:
        """The lanes of vCPUs: the log's numbers have room for vCPUs that were never added."""
        lanes: Numbers = self._lanes[np.minimum(vcpu, len(self._lanes) - 1)]
        return lanes

    def of(self, names: dict[str, str], known: Sequence[str]) -> tuple[NDArray[np.intp], Codes]:
        """The events that `names` has, and the code of what each is called there."""
        codes = np.full(len(self.what), _NONE, np.uint8)
        for what, name in names.items():
            codes[self.what == what] = known.index(name)
        rows = np.flatnonzero(codes != _NONE)
        return rows, codes[rows]

    def interrupts(self) -> Interrupts:
        """Posts with their deliveries, and commands that exited and led to no post."""
        posts, fates = self.of(_POSTS, FATES)
        commands = np.flatnonzero(self.what == "exited")
        what = self.what[posts]
        of_guest = (what == "posted") | (what == "self-ipi")
        # Code in root mode posts for a command by who is on its pCPU: the one that wrote at that time.
        command = first_place(
            (self.pcpu[commands], self.since[commands]), (self.pcpu[posts], self.since[posts]), only=what == "routed"
        )
        led = command >= 0
        sender = np.where(of_guest, self.vcpu[posts], NOBODY).astype(np.uint32)
        sender[led] = self.vcpu[commands[command[led]]]
        without = np.ones(len(commands), bool)
        without[command[led]] = False
        alone = commands[without]
        rows = np.concatenate((posts, alone))
        nobody = np.full(len(alone), NOBODY, np.uint32)
        target = np.concatenate((self._lane(self.other[posts]), nobody))
        sender = np.concatenate((sender, self.vcpu[alone]))
        fates = np.concatenate((fates, np.full(len(alone), FATES.index("exited"), np.uint8)))
        order = np.lexsort((rows, self.since[rows]))
        rows, target, sender, fates = rows[order], target[order], sender[order], fates[order]
        time, vector = self.since[rows], self.vector[rows]
        return Interrupts(time, self._deliveries(target, vector, time), sender, target, fates, vector)

    def _deliveries(self, target: Numbers, vector: Codes, time: Times) -> Times:
        """When each was delivered: a delivery knows the write that sent the first that was pending."""
        taken = np.flatnonzero(self.what == "delivered")
        place = first_place((target, vector, time), (self.vcpu[taken], self.vector[taken], self.since[taken]))
        delivered = np.full(len(target), NEVER, np.uint64)
        known = place >= 0
        delivered[place[known]] = self.time[taken[known]]
        return delivered

    def states(self) -> Slices:
        """What vCPUs do, from one change to the next."""
        rows, codes = self.of(_STATES, STATES)
        begin = np.where(self.what[rows] == "left", self.since[rows], self.time[rows])
        return self._slices(self.vcpu[rows], begin, codes.astype(np.uint32), rows)

    def residence(self) -> Slices:
        """Which vCPU a pCPU runs."""
        rows, here = self.of({"loaded": "on", "preempted": "off", "slept": "off"}, ("on", "off"))
        what = np.where(here == 0, self.vcpu[rows], NOBODY).astype(np.uint32)
        slices = self._slices(self.pcpu[rows], self.time[rows], what, rows)
        running = slices.what != NOBODY
        return Slices(slices.lane[running], slices.start[running], slices.end[running], slices.what[running])

    def _slices(self, lane: Numbers, begin: Times, what: Numbers, order: NDArray[np.intp]) -> Slices:
        """From each change of a lane to its next one, the last to the end of the log."""
        by_lane = np.lexsort((order, lane))
        lane, begin, what = lane[by_lane], begin[by_lane], what[by_lane]
        end = np.empty_like(begin)
        end[:-1] = begin[1:]
        last = np.ones(len(lane), bool)
        last[:-1] = lane[1:] != lane[:-1]
        end[last] = self.time.max() if len(self.time) else 0
        kept = end > begin
        return Slices(lane[kept], begin[kept], end[kept], what[kept])


def first_place(
    known: "tuple[NDArray[np.unsignedinteger[Any]], ...]",
    asked: "tuple[NDArray[np.unsignedinteger[Any]], ...]",
    only: "NDArray[np.bool_] | None" = None,
) -> NDArray[np.int64]:
    """For each row of `asked` the first row of `known` with the same values, -1 if there is none."""
    count = len(known[0])
    columns = [np.concatenate((one, other)).astype(np.uint64) for one, other in zip(known, asked, strict=True)]
    place = np.arange(len(columns[0]))
    order = np.lexsort((place, *columns))
    new = np.zeros(len(order), bool)
    for column in columns:
        new[1:] |= column[order][1:] != column[order][:-1]
    group = np.cumsum(new)
    # Within a group, rows of `known` come first: its first row is the answer, if it is one of them.
    first = order[np.concatenate(([0], np.flatnonzero(new)))] if len(order) else order
    answer = np.full(len(asked[0]), -1, np.int64)
    of_asked = order >= count
    found = first[group[of_asked]]
    answer[order[of_asked] - count] = np.where(found < count, found, -1)
    if only is not None:
        answer[~only] = -1
    return answer
