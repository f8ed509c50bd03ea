"""`ipivrs.explain`: the outcome for one ICR value, and the clause that decides."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ipivrs

OUTCOMES = {"posted", "self-ipi", "apic-write-exit", "apic-access-exit", "msr-exit", "fault", "not-virtualized"}

# What the manual says of single deviations from a plain fixed, physical, edge-triggered unicast IPI.
DEVIATIONS = [
    ("xapic", 0x000C00FB, "apic-write-exit", "shorthand"),
    ("xapic", 0x000800FB, "apic-write-exit", "shorthand"),
    ("xapic", 0x000400FB, "self-ipi", "VIRR"),
    ("x2apic", 0x000400FB, "apic-write-exit", "shorthand"),
    ("xapic", 0x000004FB, "apic-write-exit", "delivery mode"),
    ("x2apic", 0x000005FB, "apic-write-exit", "delivery mode"),
    ("x2apic", 0x000008FB, "apic-write-exit", "destination mode"),
    ("xapic", 0x000008FB, "apic-write-exit", "destination mode"),
    ("x2apic", 0x000010FB, "apic-write-exit", "bit 12"),
    ("x2apic", 0x000080FB, "apic-write-exit", "trigger mode"),
    ("x2apic", 0x000020FB, "fault", "#GP"),
    ("x2apic", 0x001000FB, "fault", "#GP"),
    ("xapic", 0x000020FB, "apic-write-exit", "13"),
    ("x2apic", 0x0000000F, "apic-write-exit", "vector"),
    ("x2apic", 0x000040FB, "posted", "posted"),
    ("xapic", 0x000000FB, "posted", "posted"),
]


def answer(*arguments: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    return ipivrs.explain(*arguments, **options).as_dict()


@pytest.mark.parametrize(("apic", "icr", "outcome", "words"), DEVIATIONS)
def test_each_field_has_its_clause(apic: Any, icr: int, outcome: str, words: str) -> None:  # noqa: ANN401
    found = answer(icr, apic=apic)
    assert found["outcome"] == outcome
    assert words in found["clause"]


def test_as_dict_keeps_its_names() -> None:
    found = answer(0x000C00FB, apic="xapic")
    assert set(found) >= {"outcome", "exit", "clause", "fields", "steps"}
    assert found["exit"].items() >= {"reason": 56, "qualification": 0x300}.items()
    assert all(set(step) >= {"rule", "holds", "clause"} for step in found["steps"])
    assert json.loads(json.dumps(found)) == found


def test_outcome_and_clause_are_attributes_too() -> None:
    explanation = ipivrs.explain(vector=0xFB, dest=1)
    assert (explanation.outcome, explanation.clause) == ("posted", explanation.as_dict()["clause"])
    assert "posted" in repr(explanation)


def test_an_icr_may_be_given_by_its_fields() -> None:
    assert answer(vector=0xFB, dest=3) == answer(3 << 32 | 0xFB)
    assert answer(vector=0xFB, dest=3, apic="xapic") == answer(3 << 56 | 0xFB, apic="xapic")
    fields = answer(vector=0x20, mode="init", level="assert", trigger="level", shorthand="all-but-self")["fields"]
    assert (fields["delivery_mode"], fields["level"], fields["shorthand"]) == ("init", "assert", "all-but-self")


def test_the_table_decides_when_there_is_one() -> None:
    assert answer(vector=0xFB, dest=3, vcpus=4)["outcome"] == "posted"
    beyond = answer(vector=0xFB, dest=4, vcpus=4)
    assert beyond["outcome"] == "apic-write-exit"
    assert "last PID-pointer index" in beyond["clause"]
    assert answer(vector=0xFB, dest=4, last_index=3)["clause"] == beyond["clause"]


def test_the_controls_count() -> None:
    intercepted = answer(vector=0xFB, ipi_virtualization=False)
    assert intercepted["outcome"] == "msr-exit"
    assert intercepted["exit"]["reason"] == 32
    assert answer(vector=0xFB, apic="xapic", ipi_virtualization=False)["outcome"] == "apic-write-exit"
    self_ipi = {"vector": 0xFB, "shorthand": "self", "apic": "xapic"}
    assert answer(**self_ipi)["outcome"] == "self-ipi"
    assert answer(**self_ipi, apicv=False)["outcome"] == "apic-access-exit"


def test_the_self_ipi_register() -> None:
    assert answer(0xFB, access="self-ipi")["outcome"] == "self-ipi"
    assert answer(vector=0xFB, access="self-ipi")["outcome"] == "self-ipi"
    assert answer(0x0F, access="self-ipi")["exit"].items() >= {"reason": 56, "qualification": 0x3F0}.items()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give icr, or vector"),
        ({"icr": 0xFB, "vector": 0xFB}, "either icr or vector"),
        ({"icr": 0xFB, "dest": 1}, "either icr or vector"),
        ({"vector": 256}, "vector"),
        ({"vector": -1}, "vector"),
        ({"vector": 0xFB, "dest": 256, "apic": "xapic"}, "dest"),
        ({"vector": 0xFB, "dest": 2**32}, "dest"),
        ({"vector": 0xFB, "mode": "fix"}, "fix"),
        ({"vector": 0xFB, "apic": "x3apic"}, "x3apic"),
        ({"vector": 0xFB, "access": "msr"}, "msr"),
        ({"vector": 0xFB, "dest": 1, "access": "self-ipi"}, "self-IPI register"),
        ({"vector": 0xFB, "apic": "xapic", "access": "self-ipi"}, "self-ipi"),
        ({"icr": 0x100, "access": "self-ipi"}, "self-IPI register"),
        ({"vector": 0xFB, "vcpus": 0}, "1 to 65536"),
        ({"vector": 0xFB, "last_index": 65_536}, "last.index"),
        ({"icr": 2**64}, "icr|ICR"),
        ({"icr": -1}, "icr|ICR"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_a_value_error(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ipivrs.explain(**options)


@given(icr=st.integers(0, 2**64 - 1), apic=st.sampled_from(["x2apic", "xapic"]), vcpus=st.none() | st.integers(1, 64))
def test_every_value_has_an_outcome_and_a_clause(icr: int, apic: Any, vcpus: int | None) -> None:  # noqa: ANN401
    found = answer(icr, apic=apic, vcpus=vcpus)
    assert found["outcome"] in OUTCOMES
    assert found["clause"]
    assert (found["exit"] is not None) == found["outcome"].endswith("-exit")


@given(vector=st.integers(0, 255), dest=st.integers(0, 2**32 - 1))
def test_composing_and_taking_apart_are_inverse(vector: int, dest: int) -> None:
    fields = answer(ipivrs.compose_icr(vector, dest))["fields"]
    assert (fields["vector"], fields["destination"]) == (vector, dest)
