"""A trace for Perfetto: its protobuf packets, by time.

https://perfetto.dev/docs/reference/synthetic-track-event has the packets; names are written once and referred to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackDescriptor, TrackEvent

from ipivrs.reports.facts import Facts
from ipivrs.reports.story import FATES, NEVER, NOBODY, STATES, Interrupts, Slices, Story

MOST_SAMPLES = 100_000
"""Values of one counter; of more, the greatest of each stretch of time is kept."""

_SEQUENCE = 1
_PACKETS_AT_ONCE = 5_000
_TOP, _VCPUS, _PCPUS, _COUNTERS, _FIRST = 1, 2, 3, 4, 16
_COUNTER_NAMES = ("IPIs on their way", "IPIs sent", "VM exits")
_NS = 1_000_000_000

# At one time, what ends comes before what begins, and a write before the deliveries that it leads to.
_END, _BEGIN, _SENT, _DELIVERED, _COUNT = range(5)
_TYPES = (
    TrackEvent.TYPE_SLICE_END,
    TrackEvent.TYPE_SLICE_BEGIN,
    TrackEvent.TYPE_INSTANT,
    TrackEvent.TYPE_INSTANT,
    TrackEvent.TYPE_COUNTER,
)


@dataclass(frozen=True)
class _Marks:
    """Events of one kind, in columns. `name` is a position among the names, `number` a counter's value."""

    kind: int
    time: NDArray[np.uint64]
    track: NDArray[np.int64]
    name: NDArray[np.int64]
    number: NDArray[np.int64]


def write(file: IO[bytes], facts: Facts, story: Story) -> None:
    """Write the trace of a story.

    Args:
        file: Open for writing bytes.
        facts: For the title.
        story: What happened.
    """
    trace = Trace()
    for packet in _packets(facts, story):
        trace.packet.append(packet)
        if len(trace.packet) == _PACKETS_AT_ONCE:
            file.write(trace.SerializeToString())
            trace.Clear()
    file.write(trace.SerializeToString())


def _packets(facts: Facts, story: Story) -> Iterator[Any]:
    names = [*STATES, *story.vcpus, *(f"send {vector:02X}H" for vector in range(256))]
    names += [f"take {vector:02X}H" for vector in range(256)]
    yield _beginning(names)
    yield from _tracks(facts, story)
    flows, marks = _marks(story, {name: at for at, name in enumerate(names)})
    yield from _events(story, marks, flows)


def _beginning(names: Sequence[str]) -> Any:  # noqa: ANN401 (the classes of perfetto have no types)
    packet = TracePacket(
        trusted_packet_sequence_id=_SEQUENCE,
        sequence_flags=TracePacket.SEQ_INCREMENTAL_STATE_CLEARED,
        first_packet_on_sequence=True,
    )
    for number, name in enumerate(names):
        packet.interned_data.event_names.add(iid=number + 1, name=name)
    for number, fate in enumerate(FATES):
        packet.interned_data.event_categories.add(iid=number + 1, name=fate)
    return packet


def _tracks(facts: Facts, story: Story) -> Iterator[Any]:
    yield _track(_TOP, f"ipivrs: {facts.title}", explicit=True)
    yield _track(_VCPUS, "vCPUs", parent=_TOP, rank=0, explicit=True)
    for vcpu, name in enumerate(story.vcpus):
        yield _track(_FIRST + vcpu, name, parent=_VCPUS, rank=vcpu)
    if story.pcpus:
        yield _track(_PCPUS, "pCPUs", parent=_TOP, rank=1, explicit=True)
    for pcpu in range(story.pcpus):
        yield _track(_FIRST + len(story.vcpus) + pcpu, f"pCPU {pcpu}", parent=_PCPUS, rank=pcpu)
    for counter, name in enumerate(_COUNTER_NAMES):
        yield _track(_COUNTERS + counter, name, parent=_TOP, rank=2 + counter, counter=True)


def _track(
    uuid: int,
    name: str,
    *,
    parent: int | None = None,
    rank: int | None = None,
    explicit: bool = False,
    counter: bool = False,
) -> Any:  # noqa: ANN401
    descriptor = TrackDescriptor(uuid=uuid, name=name, parent_uuid=parent, sibling_order_rank=rank)
    if explicit:
        descriptor.child_ordering = TrackDescriptor.EXPLICIT
    if counter:
        descriptor.counter.SetInParent()
    return TracePacket(trusted_packet_sequence_id=_SEQUENCE, track_descriptor=descriptor)


def _events(story: Story, marks: Sequence[_Marks], flows: "_Flows") -> Iterator[Any]:
    """All events by time. A packet is good until the next one is asked for."""
    kind = np.concatenate([np.full(len(one.time), one.kind, np.int8) for one in marks])
    time, track, name, number = (
        np.concatenate([getattr(one, column) for one in marks]) for column in ("time", "track", "name", "number")
    )
    order = np.lexsort((kind, time))
    stamps = (time[order].astype(np.float64) * (_NS / story.per_second)).round().astype(np.uint64)
    columns = (stamps, kind[order], track[order], name[order], number[order])
    packets: dict[tuple[int, ...], Any] = {}
    for stamp, what, where, called, value in zip(*(column.tolist() for column in columns), strict=True):
        key = (what, where, called, flows.fate[value] if what == _SENT else 0)
        packet = packets.get(key)
        if packet is None:
            packet = packets[key] = _event(*key)
        packet.timestamp = stamp
        if what == _COUNT:
            packet.track_event.counter_value = value
        elif what == _SENT:
            packet.track_event.flow_ids[:] = flows.of_send(value)
        elif what == _DELIVERED:
            packet.track_event.terminating_flow_ids[:] = [value + 1]
        yield packet


def _event(what: int, where: int, called: int, fate: int) -> Any:  # noqa: ANN401
    """A packet that lacks only its time, and its flows or value: all of one kind share it."""
    packet = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=TracePacket.SEQ_NEEDS_INCREMENTAL_STATE)
    event = packet.track_event
    event.type, event.track_uuid = _TYPES[what], where
    if what in (_BEGIN, _SENT, _DELIVERED):
        event.name_iid = called + 1
    if what == _SENT:
        event.category_iids.append(fate + 1)
    return packet


@dataclass(frozen=True)
class _Flows:
    """Which interrupts each write sent: rows from `first` of one to that of the next; flow k + 1 is that of row k."""

    first: list[int]
    arrives: list[bool]
    fate: list[int]

    def of_send(self, send: int) -> list[int]:
        """The flows that begin at a write."""
        return [row + 1 for row in range(self.first[send], self.first[send + 1]) if self.arrives[row]]


def _marks(story: Story, names: dict[str, int]) -> tuple[_Flows, list[_Marks]]:
    interrupts, vcpus = story.interrupts, len(story.vcpus)
    flows, marks = _interrupts(story, names)
    marks += _slices(story.states, _FIRST, names[STATES[0]])
    marks += _slices(story.residence, _FIRST + vcpus, names[story.vcpus[0]] if vcpus else 0)
    arrived = interrupts.delivered[interrupts.delivered != NEVER]
    exits = story.exits.time if story.delivery_known else story.sends.time[story.sends.fate == FATES.index("exited")]
    begun = interrupts.time[interrupts.delivered != NEVER]
    steps = np.concatenate((np.ones(len(begun), np.int64), np.full(len(arrived), -1, np.int64)))
    marks += [
        _counter(0, np.concatenate((begun, arrived)), steps),
        _counter(1, story.sends.time, np.ones(len(story.sends.time), np.int64)),
        _counter(2, exits, np.ones(len(exits), np.int64)),
    ]
    return flows, marks


def _interrupts(story: Story, names: dict[str, int]) -> tuple[_Flows, list[_Marks]]:
    """A mark for each write, and one for each delivery."""
    all_of_them = story.interrupts
    order = np.lexsort((all_of_them.vector, all_of_them.sender, all_of_them.time))
    time, sender = all_of_them.time[order], all_of_them.sender[order]
    target, vector, fate = all_of_them.target[order], all_of_them.vector[order], all_of_them.fate[order]
    arrives, at = _arrival(story, all_of_them, order)
    new = np.ones(len(order), bool)
    new[1:] = (time[1:] != time[:-1]) | (sender[1:] != sender[:-1]) | (vector[1:] != vector[:-1])
    first = np.flatnonzero(new)
    # What no vCPU sends, a device's post, is marked where all that is about no vCPU is: on the top track.
    track = np.where(sender == NOBODY, _TOP, sender.astype(np.int64) + _FIRST)[first]
    sends = _Marks(_SENT, time[first], track, names["send 00H"] + vector[first].astype(np.int64), np.arange(len(first)))
    rows = np.flatnonzero(arrives)
    taken = _Marks(
        _DELIVERED,
        at[rows],
        target[rows].astype(np.int64) + _FIRST,
        names["take 00H"] + vector[rows].astype(np.int64),
        rows.astype(np.int64),
    )
    return _Flows([*first.tolist(), len(order)], arrives.tolist(), fate[first].tolist()), [sends, taken]


def _arrival(
    story: Story, all_of_them: Interrupts, order: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Which arrive, and when. A recording has no times of delivery: what the processor posts arrives at once in it."""
    if story.delivery_known:
        delivered = all_of_them.delivered[order]
        return delivered != NEVER, delivered
    posted = np.isin(all_of_them.fate[order], [FATES.index("virtualized"), FATES.index("self")])
    return posted & (all_of_them.target[order] != NOBODY), all_of_them.time[order]


def _slices(slices: Slices, first_track: int, first_name: int) -> list[_Marks]:
    track, name = slices.lane.astype(np.int64) + first_track, slices.what.astype(np.int64) + first_name
    none = np.zeros(len(track), np.int64)
    return [_Marks(_BEGIN, slices.start, track, name, none), _Marks(_END, slices.end, track, name, none)]


def _counter(counter: int, time: NDArray[np.uint64], steps: NDArray[np.int64]) -> _Marks:
    """The running sum, where it changes."""
    order = np.lexsort((steps, time))
    time, value = time[order], np.cumsum(steps[order])
    last = np.ones(len(time), bool)
    last[:-1] = time[1:] != time[:-1]
    time, value = time[last], value[last]
    if len(time) > MOST_SAMPLES:
        begins = np.linspace(0, len(time), MOST_SAMPLES, endpoint=False).astype(np.int64)
        time, value = time[begins], np.maximum.reduceat(value, begins)
    nothing = np.zeros(len(time), np.int64)
    return _Marks(_COUNT, time, nothing + _COUNTERS + counter, nothing, value)
