"""Scenario text as people damage it: read, or refused at a line, never anything else."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ipivrs
from ipivrs.running import shipped_scenarios

TEXTS = list(shipped_scenarios().values())
WORDS = [
    "0",
    "-1",
    "1e9",
    "inf",
    "nan",
    "true",
    '"kvm"',
    "[]",
    "{}",
    "[[vm]]",
    "[host]",
    "=",
    "\n",
    "vcpus",
    "18446744073709551616",
    "\x00",
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A shipped scenario with some pieces replaced, doubled or taken out."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=3), st.just(text[at:end] * 2)))
        text = text[:at] + piece + text[end:]
    return text


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=damaged())
def test_damaged_scenarios_are_read_or_refused_at_a_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "damaged.toml"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        ipivrs.Scenario.load(file)
    except ipivrs.ScenarioError as error:
        for line in str(error).splitlines():
            assert re.match(rf"{re.escape(str(file))}:\d+|  |and \d+ more", line), line


def test_not_text(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"[[vm]]\n\xff\xfe")
    with pytest.raises(ipivrs.ScenarioError, match=re.escape(str(file))):
        ipivrs.Scenario.load(file)
