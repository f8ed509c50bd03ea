"""Numbers that Python gives: whatever is no number within its range is refused by the name of the argument."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipivrs
from conftest import Shell
from ipivrs.options import ArgumentError, real_number, whole_number
from ipivrs.profiles import find
from shipped import X2APIC_BOOT

SMALL: dict[str, Any] = {"senders": 1, "software": 0, "preemptions": 0, "migrations": 0, "exits": 0, "pcpus": 1}
PING = ipivrs.Scenario(vm=[ipivrs.VM(workload=ipivrs.Ping(rounds=2))])


def checked(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.check("kvm", **SMALL, **options)


def recorded(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.run(X2APIC_BOOT, **options)


def explained(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.explain(**{"vector": 0xFB, **options})


def explained_whole(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.explain(**options)


def simulated(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.run(PING, engine="virtual-time", **options)


def swept(**options: Any) -> object:  # noqa: ANN401
    return ipivrs.sweep(ipivrs.Grid(scenario=PING, grid={"seed": [1]}), **options)


def priced(**options: Any) -> object:  # noqa: ANN401
    return find("sapphire-rapids").with_cycles(options)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


WHOLE: list[tuple[Callable[..., object], str, int, int]] = [
    (checked, "threads", 1, 256),
    (checked, "max_states", 1, 10**9),
    (checked, "max_memory", 1, 2**24),
    (recorded, "vcpus", 1, 2**16),
    (recorded, "last_index", 0, 2**16 - 1),
    (recorded, "process", 0, 2**32 - 1),
    (explained_whole, "icr", 0, 2**64 - 1),
    (explained, "vector", 0, 255),
    (explained, "dest", 0, 2**32 - 1),
    (explained, "vcpus", 1, 2**16),
    (explained, "last_index", 0, 2**16 - 1),
    (simulated, "seed", 0, 2**64 - 1),
    (simulated, "log", 0, 100_000_000),
    (swept, "workers", 1, 4096),
    (priced, "vm_exit", 1, 2**32 - 1),
]


@pytest.mark.parametrize(("call", "name", "low", "high"), WHOLE, ids=str)
def test_a_number_out_of_its_range_is_refused_by_name(
    here: Path, call: Callable[..., object], name: str, low: int, high: int
) -> None:
    for value in (low - 1, high + 1, -1, -(2**70), 2**70):
        with pytest.raises(ArgumentError, match=f"^{name} must be {low} to {high}, not {value}$"):
            call(**{name: value})
    for other in (True, False, 1.5, "3", np.True_):
        expected = re.escape(f"{name} must be a whole number, {low} to {high}, not {other!r}")
        with pytest.raises(ArgumentError, match=f"^{expected}$"):
            call(**{name: other})
    assert not list(here.iterdir())


@pytest.mark.parametrize(("number", "of"), [(-1, ""), (65_536, ""), (2**70, ""), (True, "a whole number, ")])
def test_each_apic_id_is_a_number_within_its_range(number: object, of: str) -> None:
    with pytest.raises(ArgumentError, match=f"^apic_ids must be {of}0 to 65535, not {number}$"):
        recorded(apic_ids=[0, number])


@pytest.mark.parametrize("value", [-1, 1e7 + 1, float("nan"), float("inf"), 2**70, True, "3"])
def test_seconds_are_a_number_within_their_range(value: object) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"seconds must be 0 to 10000000, not {value!r}")):
        simulated(seconds=value)


def test_numbers_of_numpy_are_numbers() -> None:
    assert whole_number("n", np.uint8(3), 0, 3) == 3
    assert real_number("n", np.float32(0.5), 0, 1) == 0.5
    assert simulated(seed=np.int64(7), seconds=np.float64(1)) is not None
    assert recorded(apic_ids=np.arange(4), last_index=np.uint16(9)) is not None


def test_the_shell_is_told_of_its_option() -> None:
    with pytest.raises(ArgumentError) as caught:
        whole_number("max_states", 0, 1, 9)
    assert caught.value.in_shell == "--max-states must be 1 to 9, not 0"


@pytest.mark.parametrize("choice", [-1, 2**70, True, 1.5, "1", None])
def test_a_choice_of_a_replay_is_a_number(shell: Shell, tmp_path: Path, choice: object) -> None:
    file = tmp_path / "saved.json"
    shell("check", "acrn-4778", "--save", file)
    values = json.loads(file.read_text(encoding="utf-8"))
    values["counterexample"][0]["choice"] = choice
    file.write_text(json.dumps(values), encoding="utf-8")
    result = shell("check", "--replay", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file} is no result of a check (choice must be ")


def test_a_cost_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ipivrs.ProfileError, match=r"^no cost 'vm_exits'; did you mean vm_exit\?$"):
        priced(vm_exits=1)
