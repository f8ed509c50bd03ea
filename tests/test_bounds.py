"""The bounds of the protocol laboratory: what they may be, and what is said when they may not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipivrs.bounds import FLAGS, MOST_AGENTS, RANGES, Bounds, BoundsError


def test_the_defaults_can_be_explored() -> None:
    bounds = Bounds()
    assert (bounds.senders, bounds.software, bounds.agents) == (2, 1, 3)
    assert Bounds.from_dict(bounds.as_dict()) == bounds
    assert json.loads(bounds.as_json()) == bounds.as_dict()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"posts": 0}, ["posts", "1 to 7", "not 0"]),
        ({"preemptions": 8}, ["preemptions", "0 to 7", "not 8"]),
        ({"pcpus": 5}, ["pcpus", "1 to 4", "not 5"]),
        ({"vcpus": 3}, ["vcpus", "1 to 2", "not 3", "pcpus 3"]),
        ({"senders": 8}, ["senders", "1 to 8 together", "not 9", "lower one of them by 1"]),
        ({"senders": 0, "software": 0}, ["1 to 8 together", "not 0", "give one of them"]),
        ({"memory_model": "pso"}, ["memory_model", "sc or tso", "'pso'"]),
        ({"urgent": True}, ["urgent", "devices 1"]),
        ({"rewrite_id": 1}, ["rewrite_id", "true or false"]),
        ({"exits": True}, ["exits", "0 to 7", "True"]),
        ({"exits": 1.0}, ["exits", "0 to 7", "1.0"]),
        ({"sender": 1}, ["no bound 'sender'", "did you mean senders?"]),
        ({"colour": 1}, ["no bound 'colour'", "senders, devices, software"]),
    ],
    ids=str,
)
def test_what_cannot_be_explored_is_refused(values: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(BoundsError) as refused:
        Bounds.from_dict(values)
    assert all(part in str(refused.value) for part in expected), refused.value
    assert "--" not in str(refused.value)


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(low - 1, high + 1) for name, (low, high) in RANGES.items()},
    **{name: st.booleans() for name in FLAGS},
    "memory_model": st.sampled_from(["sc", "tso"]),
}


def accepted(values: dict[str, Any]) -> Bounds | None:
    try:
        return Bounds.from_dict(values)
    except BoundsError:
        return None


@given(st.fixed_dictionaries({}, optional=_VALUES))
def test_whatever_is_accepted_is_within_its_ranges(values: dict[str, Any]) -> None:
    bounds = accepted(values)
    if bounds is not None:
        assert all(low <= getattr(bounds, name) <= high for name, (low, high) in RANGES.items())
        assert bounds.vcpus <= bounds.pcpus
        assert 1 <= bounds.agents <= MOST_AGENTS
        assert {**bounds.as_dict(), **values} == bounds.as_dict()


def test_one_line_says_who_takes_part() -> None:
    bounds = Bounds(senders=1, devices=2, software=0, posts=3, exits=0, urgent=True, ipiv=False)
    assert str(bounds) == (
        "1 sender, 2 devices, 3 posts of each, 1 preemption, 1 migration, 2 pCPUs, 1 target vCPU, "
        "urgent, no-ipiv, memory model sc"
    )
