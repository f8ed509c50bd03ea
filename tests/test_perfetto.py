"""Traces for Perfetto, read again with Perfetto's own definitions."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent

import ipivrs
from conftest import Shell
from ipivrs.reports import perfetto_trace
from ipivrs.simulation import ScenarioResult
from shipped import X2APIC_BOOT, XAPIC_BOOT, replay
from stories import HOSTILE, hostile_recording


class Decoded:
    """A trace: names of tracks with their parents, and events in order."""

    def __init__(self, path: Path) -> None:
        trace = Trace()
        trace.ParseFromString(path.read_bytes())
        first = trace.packet[0]
        assert first.sequence_flags == TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        names = {one.iid: one.name for one in first.interned_data.event_names}
        categories = {one.iid: one.name for one in first.interned_data.event_categories}
        descriptors = [packet.track_descriptor for packet in trace.packet if packet.HasField("track_descriptor")]
        self.tracks = {one.uuid: one.name for one in descriptors}
        self.parents = {one.name: self.tracks[one.parent_uuid] for one in descriptors if one.HasField("parent_uuid")}
        self.events: list[dict[str, Any]] = []
        assert {packet.trusted_packet_sequence_id for packet in trace.packet} == {1}
        for packet in trace.packet:
            if packet.HasField("track_event"):
                event = packet.track_event
                assert packet.sequence_flags == TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
                self.events.append(
                    {
                        "time": packet.timestamp,
                        "track": self.tracks[event.track_uuid],
                        "type": event.type,
                        "name": names[event.name_iid] if event.HasField("name_iid") else None,
                        "categories": [categories[iid] for iid in event.category_iids],
                        "flows": list(event.flow_ids),
                        "ends": list(event.terminating_flow_ids),
                        "value": event.counter_value if event.HasField("counter_value") else None,
                    }
                )

    def slices(self) -> list[tuple[str, str, int, int]]:
        """Track, name, begin and end. Every begin has its end, and none is within another."""
        open_slices: dict[str, tuple[str, int]] = {}
        found = []
        for event in self.events:
            if event["type"] == TrackEvent.TYPE_SLICE_BEGIN:
                assert event["track"] not in open_slices
                open_slices[event["track"]] = (event["name"], event["time"])
            elif event["type"] == TrackEvent.TYPE_SLICE_END:
                name, begin = open_slices.pop(event["track"])
                found.append((event["track"], name, begin, event["time"]))
        assert not open_slices
        return found

    def flows(self) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        """Source and sink of each flow: one of each."""
        sources: dict[int, list[dict[str, Any]]] = defaultdict(list)
        sinks: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for event in self.events:
            for flow in event["flows"]:
                sources[flow].append(event)
            for flow in event["ends"]:
                sinks[flow].append(event)
        assert sources.keys() == sinks.keys()
        assert all(len(one) == 1 for one in (*sources.values(), *sinks.values()))
        return {flow: (sources[flow][0], sinks[flow][0]) for flow in sources}

    def counter(self, name: str) -> list[int]:
        """The values of a counter."""
        return [event["value"] for event in self.events if event["track"] == name]


@pytest.fixture(scope="module")
def storm() -> ScenarioResult:
    vm = ipivrs.VM.model_validate({"vcpus": 4, "workload": {"name": "storm", "rounds": 60}})
    machine = {"vm": [vm], "title": "storm", "host": {"pcpus": 2}, "device": [{"posts": 5}]}
    return ipivrs.Scenario.model_validate(machine).run(engine="virtual-time", log=100_000)


@pytest.fixture(scope="module")
def decoded(storm: ScenarioResult, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    path = tmp_path_factory.mktemp("perfetto") / "storm.pftrace"
    storm.perfetto(path)
    return Decoded(path)


def test_tracks(decoded: Decoded) -> None:
    assert [decoded.parents[f"vCPU {vcpu}"] for vcpu in range(4)] == ["vCPUs"] * 4
    assert [decoded.parents[f"pCPU {pcpu}"] for pcpu in range(2)] == ["pCPUs"] * 2
    assert decoded.parents["IPIs on their way"] == decoded.parents["vCPUs"] == "ipivrs: storm"


def test_events_are_in_order(decoded: Decoded) -> None:
    times = [event["time"] for event in decoded.events]
    assert times == sorted(times)


def test_slices_balance(decoded: Decoded, storm: ScenarioResult) -> None:
    slices = decoded.slices()
    states = Counter(name for track, name, _, _ in slices if track.startswith("vCPU"))
    assert states.keys() <= {"guest", "root", "waiting", "blocked"}
    assert 0.9 * storm.scheduling["entries"] <= states["guest"] <= storm.scheduling["entries"]
    assert {name for track, name, _, _ in slices if track.startswith("pCPU")} == {f"vCPU {vcpu}" for vcpu in range(4)}


def test_every_flow_goes_from_a_write_to_a_delivery(decoded: Decoded, storm: ScenarioResult) -> None:
    flows = decoded.flows()
    assert len(flows) == sum(one["count"] for one in storm.latency.values())
    for source, sink in flows.values():
        assert source["name"].removeprefix("send ") == sink["name"].removeprefix("take ")
        assert source["time"] <= sink["time"]
    assert storm.latency
    slowest = max(sink["time"] - source["time"] for source, sink in flows.values())
    assert storm.shape is not None
    most = max(one["max"] for one in storm.latency.values()) * 1e9 / storm.shape.hz
    assert slowest == pytest.approx(most, rel=2e-3)


def test_a_delivery_is_in_the_guest(decoded: Decoded) -> None:
    guest = defaultdict(list)
    for track, name, begin, end in decoded.slices():
        if name == "guest":
            guest[track].append((begin, end))
    for _, sink in decoded.flows().values():
        assert any(begin <= sink["time"] <= end for begin, end in guest[sink["track"]])


def test_fates_are_categories(decoded: Decoded, storm: ScenarioResult) -> None:
    counted = Counter(event["categories"][0] for event in decoded.events if event["categories"])
    assert counted["virtualized"] == storm.counters["virtualized"]
    assert counted["device"] == storm.counters["device_posts"]


def test_counters(decoded: Decoded, storm: ScenarioResult) -> None:
    way = decoded.counter("IPIs on their way")
    assert min(way) == way[-1] == 0
    assert max(way) > 0
    assert decoded.counter("IPIs sent")[-1] == storm.counters["total"]
    assert decoded.counter("VM exits")[-1] == sum(one["count"] for one in storm.exits)


def test_a_counter_with_too_many_values_keeps_the_greatest(
    storm: ScenarioResult, decoded: Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perfetto_trace, "MOST_SAMPLES", 20)
    storm.perfetto(tmp_path / "thin.pftrace")
    thin = Decoded(tmp_path / "thin.pftrace").counter("IPIs on their way")
    assert len(thin) == 20
    assert max(thin) == max(decoded.counter("IPIs on their way"))


@pytest.mark.parametrize("path", [X2APIC_BOOT, XAPIC_BOOT], ids=lambda path: path.name)
def test_of_a_recording(shell: Shell, tmp_path: Path, path: Path) -> None:
    out = tmp_path / "out.pftrace"
    result = shell("run", path, "--perfetto", out)
    assert (result.exit_code, result.stderr) == (0, "")
    counts = replay(path).counters
    decoded = Decoded(out)
    assert len(decoded.flows()) == counts["virtualized"] + counts["self"]
    sends = [event for event in decoded.events if event["categories"]]
    assert len(sends) == counts["total"]
    assert {event["track"] for event in sends} <= {
        name for name, parent in decoded.parents.items() if parent == "vCPUs"
    }
    assert decoded.slices() == []
    assert decoded.counter("IPIs sent")[-1] == counts["total"]


def test_a_broadcast_is_one_write_with_several_flows(tmp_path: Path) -> None:
    to_all = {"broadcast": 0xFD}
    vm = ipivrs.VM.model_validate({"vcpus": 4, "group": [{"vcpus": 0, "program": [to_all]}]})
    result = ipivrs.Scenario(vm=[vm]).run(engine="virtual-time", log=1000)
    result.perfetto(tmp_path / "out.pftrace")
    decoded = Decoded(tmp_path / "out.pftrace")
    (send,) = [event for event in decoded.events if event["categories"]]
    assert len(send["flows"]) == 3
    assert {sink["track"] for _, sink in decoded.flows().values()} == {"vCPU 1", "vCPU 2", "vCPU 3"}


def test_names_are_as_they_came(tmp_path: Path) -> None:
    ipivrs.run(hostile_recording(tmp_path)).perfetto(tmp_path / "out.pftrace")
    assert f"vCPU 0 {HOSTILE}" in Decoded(tmp_path / "out.pftrace").parents


def test_without_times_there_is_no_trace(tmp_path: Path) -> None:
    vm = ipivrs.VM.model_validate({"vcpus": 2, "workload": {"name": "ping", "rounds": 3}})
    for result in (ipivrs.Scenario(vm=[vm]).run(), ipivrs.Scenario(vm=[vm]).run(engine="virtual-time")):
        with pytest.raises(ValueError, match="a trace needs times"):
            result.perfetto(tmp_path / "out.pftrace")
        assert not (tmp_path / "out.pftrace").exists()
