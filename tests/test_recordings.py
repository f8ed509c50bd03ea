"""Every shipped recording: as many IPIs as the recorder wrote, each accounted for, none lost."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import ipivrs
from shipped import EXAMPLES, GUEST_SIDE, KUT_APIC, RECORDINGS, X2APIC_BOOT, XAPIC_BOOT, replay

# IPIs, and how many of them need no VM exit. The totals are what `perf script` and `trace-cmd report` count.
EXPECTED = {
    "linux-boot-long-x2apic-smp2": (1657, 1651),
    "linux-boot-long-xapic-smp2": (127, 0),
    "kut-apic-x2apic": (11, 4),
    "kut-smptest-x2apic-smp4-full": (10, 6),
    "kut-vmexit-self_ipi_sti_nop-x2apic-full-short": (508, 0),
    "kut-vmexit-ipi-x2apic-tracecmd": (1899, 1895),
    "kut-vmexit-ipi-x2apic-tracefs": (1899, 1895),
    "native-sched-messaging": (433, 433),
    "native-tlb-shootdown": (1894, 1894),
}

# One recording in two forms.
FORMS = [
    ("kut-apic-x2apic.perf.data", "kut-apic-x2apic.perf-script.txt"),
    ("kut-smptest-x2apic-smp4-full.perf.data", "kut-smptest-x2apic-smp4-full.perf-script.txt"),
    ("native-sched-messaging.perf.data", "native-sched-messaging.perf-script.txt"),
    ("kut-vmexit-ipi-x2apic-tracefs.ftrace.txt", "kut-vmexit-ipi-x2apic-tracecmd.tracecmd-report.txt"),
]

FATES = ("virtualized", "self", "exited", "faulted")

every_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
every_text = pytest.mark.parametrize(
    "path", [path for path in RECORDINGS if path.suffix == ".txt"], ids=lambda path: path.name
)


def stem(path: Path) -> str:
    return path.name.partition(".")[0]


def test_every_recording_has_its_expected_counts() -> None:
    assert {stem(path) for path in RECORDINGS} == set(EXPECTED)


def test_the_index_names_every_recording() -> None:
    index = (EXAMPLES / "INDEX.md").read_text(encoding="utf-8")
    for path in RECORDINGS:
        extension = path.name.removeprefix(stem(path))
        assert re.search(rf"^\| {re.escape(stem(path))}\S*.*{re.escape(extension)}", index, re.MULTILINE), path.name


@every_recording
def test_the_index_says_how_many_vcpus_a_recording_shows(path: Path) -> None:
    index = (EXAMPLES / "INDEX.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {re.escape(stem(path))}\S*.*\| (?:host|guest) \| (\d+) \|", index, re.MULTILINE)
    assert row is not None
    assert int(row[1]) == len(replay(path).recording["vcpus"])


@every_recording
def test_ipis_are_as_many_as_the_recorder_wrote(path: Path) -> None:
    counts = replay(path).counters
    assert (counts["total"], counts["virtualized"] + counts["self"]) == EXPECTED[stem(path)]


@every_text
def test_ipis_are_as_many_as_lines_that_say_so(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    sends = [line for line in lines if re.search(r"\b(kvm_apic_ipi|ipi_send_cpu): ", line)]
    assert replay(path).counters["total"] == len(sends)


@every_text
def test_events_are_counted_as_they_stand_in_the_text(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    events = Counter(match[1] for line in lines if (match := re.search(r"\d+\.\d+: +(?:\w+:)?(\w+):(?: |$)", line)))
    assert Counter(replay(path).recording["records"]) == events


@every_recording
def test_every_ipi_has_one_fate(path: Path) -> None:
    counts = replay(path).counters
    assert counts["total"] == counts["virtualized"] + counts["self"] + counts["exited"] + counts["faulted"]


@every_recording
def test_every_posted_vector_is_delivered_or_coalesced(path: Path) -> None:
    counts = replay(path).counters
    assert counts["pending"] == 0
    assert counts["delivered"] + counts["coalesced"] == counts["virtualized"] + counts["self"]


@every_recording
def test_nothing_that_must_never_happen_happens(path: Path) -> None:
    assert replay(path).violations == []


@every_recording
def test_rows_kinds_and_exits_agree(path: Path) -> None:
    result = replay(path)
    rows = Counter((result.fate_names[row["fate"]], result.clause_names[row["clause"]]) for row in result.ipis)
    kinds: Counter[tuple[str, str | None]] = Counter()
    for kind in result.kinds:
        kinds[kind["fate"], kind["clause"]] += kind["count"]
    exits = Counter({("exited", item["clause"]): item["count"] for item in result.exits})
    assert rows == kinds
    assert {key: count for key, count in rows.items() if key[0] == "exited"} == exits
    assert {fate for fate, _ in rows} <= set(FATES)


@every_recording
def test_rows_are_in_the_order_of_the_recording(path: Path) -> None:
    times = replay(path).ipis["time_ns"].astype(np.int64)
    assert np.all(np.diff(times) >= 0)


@every_recording
def test_senders_are_vcpus_of_the_recording(path: Path) -> None:
    result = replay(path)
    sent = Counter(int(sender) for sender in result.ipis["sender"])
    assert [sent[index] for index in range(len(result.recording["vcpus"]))] == [
        vcpu["ipis_sent"] for vcpu in result.recording["vcpus"]
    ]


@pytest.mark.parametrize(("one", "other"), FORMS)
def test_forms_of_one_recording_agree(one: str, other: str) -> None:
    first, second = replay(EXAMPLES / one), replay(EXAMPLES / other)
    for column in ("sender", "icr_low", "destination", "via", "vector", "fate", "clause"):
        assert np.array_equal(first.ipis[column], second.ipis[column]), column
    # perf script prints microseconds.
    assert np.array_equal(first.ipis["time_ns"] // 1000, second.ipis["time_ns"] // 1000)
    assert first.counters["total"] == second.counters["total"]


def test_the_x2apic_boot_is_unicast_but_for_starting_the_other_processor() -> None:
    result = replay(X2APIC_BOOT)
    fixed = Counter((row["vector"], row["destination"]) for row in result.ipis if row["icr_low"] >> 8 & 7 == 0)
    assert sorted(fixed.items()) == [((251, 0), 754), ((251, 1), 833), ((253, 0), 25), ((253, 1), 39)]
    assert {kind["delivery_mode"] for kind in result.kinds if kind["fate"] == "exited"} == {"init", "sipi"}


def test_the_xapic_boot_addresses_logically() -> None:
    modes: Counter[tuple[str, str]] = Counter()
    for kind in replay(XAPIC_BOOT).kinds:
        modes[kind["delivery_mode"], kind["destination_mode"]] += kind["count"]
    assert modes["fixed", "logical"] == 121
    assert modes["fixed", "physical"] == 0
    assert modes["init", "physical"] + modes["sipi", "physical"] == 6


def test_a_guest_that_changes_mode_is_followed() -> None:
    result = replay(KUT_APIC)
    via = [result.via_names[code] for code in result.ipis["via"]]
    mmio, wrmsr = result.via_names[:2]
    # INIT and SIPI twice and the first self-IPI are memory-mapped writes.
    assert [name == mmio for name in via] == [True] * 4 + [False] * 2 + [True] + [False] * 4
    assert set(via) == {mmio, wrmsr}
    assert result.counters["self"] == 1


def test_a_self_ipi_by_shorthand_is_virtualized_in_xapic_mode_only() -> None:
    kinds = [kind for kind in replay(KUT_APIC).kinds if kind["shorthand"] == "self"]
    assert {(kind["apic"], kind["fate"]) for kind in kinds} == {("xAPIC", "self"), ("x2APIC", "exited")}


def test_vectors_of_a_guest_side_recording_are_what_linux_sends() -> None:
    vectors = Counter(int(vector) for vector in replay(GUEST_SIDE).ipis["vector"])
    assert vectors == {251: 142, 253: 291}


@pytest.mark.parametrize("apic", ["x2apic", "xapic"])
def test_a_guest_side_recording_takes_the_mode_the_user_names(apic: str) -> None:
    result = ipivrs.run(GUEST_SIDE, apic=apic)  # type: ignore[call-overload]  # a parameter's type is wider
    assert {kind["apic"].lower() for kind in result.kinds} == {apic}
    assert any(apic in note.lower() for note in result.recording["notes"])
    assert result.counters["virtualized"] == 433


def test_without_the_control_nothing_is_virtualized() -> None:
    result = ipivrs.run(X2APIC_BOOT, ipi_virtualization=False)
    assert result.counters["virtualized"] == 0
    assert result.counters["total"] == 1657


@pytest.mark.parametrize("pace", ["recorded", "free"])
def test_fates_do_not_depend_on_the_pace(pace: str) -> None:
    result = ipivrs.run(X2APIC_BOOT, pace=pace)  # type: ignore[call-overload]  # a parameter's type is wider
    assert result.pace == pace
    assert result.counters["virtualized"] == 1651
    assert np.array_equal(result.ipis["fate"], replay(X2APIC_BOOT).ipis["fate"])


def test_an_address_beyond_the_table_exits() -> None:
    result = ipivrs.run(X2APIC_BOOT, last_index=0)
    beyond = result.ipis[(result.ipis["destination"] > 0) & (result.ipis["icr_low"] >> 8 & 7 == 0)]
    assert len(beyond) == 833 + 39
    assert {result.fate_names[code] for code in beyond["fate"]} == {"exited"}
