"""`run`: recordings and scenarios."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, overload

from ipivrs.names import Apic, Engine, Pace
from ipivrs.options import did_you_mean, whole_number
from ipivrs.policies import PolicyError, find
from ipivrs.profiles import Profile
from ipivrs.progress import Progress
from ipivrs.results import RunResult, run_recording
from ipivrs.scenario import MOST_SEED, Scenario
from ipivrs.scenario_text import FieldError, ScenarioError, read
from ipivrs.simulation import ScenarioResult

_RECORDING_OPTIONS = (
    "apic",
    "apic_ids",
    "vcpus",
    "last_index",
    "pace",
    "ipi_virtualization",
    "process",
    "engine",
    "policy",
    "profile",
    "progress",
)
_SCENARIO_OPTIONS = ("seconds", "policy", "seed", "engine", "profile", "log", "progress")


def shipped_scenarios() -> dict[str, str]:
    """The texts of the shipped scenarios, by name."""
    folder = files("ipivrs") / "scenarios"
    found = {item.name.removesuffix(".toml"): item for item in folder.iterdir() if item.name.endswith(".toml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def shipped_path(name: str) -> str:
    """Where a shipped scenario is."""
    return str(files("ipivrs") / "scenarios" / f"{name}.toml")


def load(path: str, policy: str | None = None) -> Scenario:
    """A scenario from a file. That its policy cannot be used is a mistake of the line that names it.

    Args:
        path: The file.
        policy: What it is run under instead: then its own may be missing.

    Raises:
        ScenarioError: The scenario has a mistake.
        PolicyError: There is no such policy, or it has a mistake.
    """
    scenario = Scenario.load(path)
    if policy is None:
        source = read(Path(path))
        try:
            find(source.table.get("host", {}).get("policy", scenario.host.policy), source.path.parent)
        except PolicyError as error:
            raise PolicyError(source.about(("host", "policy"), str(error))) from error
    return scenario


@contextmanager
def mistakes_of(path: str) -> Iterator[None]:
    """What is wrong with a scenario, and found when a machine is made of it, is a mistake of a line of its file.

    Raises:
        ScenarioError: The file, the line, the field, and what is wrong.
    """
    try:
        yield
    except FieldError as error:
        raise ScenarioError(read(Path(path)).about(error.where, error.what)) from error


@overload
def run(
    what: Scenario,
    *,
    seconds: float | None = None,
    policy: str | None = None,
    seed: int | None = None,
    engine: Engine = "threads",
    profile: str | Profile | None = None,
    log: int = 0,
    progress: Progress | None = None,
) -> ScenarioResult: ...


@overload
def run(
    what: "str | os.PathLike[str]",
    *,
    apic: Apic = "x2apic",
    apic_ids: Sequence[int] | None = None,
    vcpus: int | None = None,
    last_index: int | None = None,
    pace: Pace = "recorded",
    ipi_virtualization: bool = True,
    process: int | None = None,
    progress: Progress | None = None,
) -> RunResult: ...


@overload
def run(
    what: "str | os.PathLike[str]",
    *,
    engine: Literal["threads"],
    seconds: float | None = None,
    policy: str | None = None,
    seed: int | None = None,
) -> ScenarioResult: ...


@overload
def run(
    what: "str | os.PathLike[str]",
    *,
    engine: Literal["virtual-time"],
    apic: Apic = "x2apic",
    apic_ids: Sequence[int] | None = None,
    vcpus: int | None = None,
    last_index: int | None = None,
    process: int | None = None,
    seconds: float | None = None,
    policy: str | None = None,
    seed: int | None = None,
    profile: str | Profile | None = None,
    log: int = 0,
    progress: Progress | None = None,
) -> RunResult | ScenarioResult: ...


def run(what: "Scenario | str | os.PathLike[str]", **options: Any) -> RunResult | ScenarioResult:
    """Run a recording through the emulated processor, or a scenario on a machine of VMs and pCPUs.

    Args:
        what: perf.data or a recording's text; or a scenario, as a `.toml` file or made in Python.
        options: For recordings those of `run_recording` (apic, apic_ids, vcpus, last_index, pace, ipi_virtualization,
            process, engine, policy, profile). For scenarios `seconds` (how long endless loops go on), `policy` (a name
            or a path), `seed`, and `engine` ("threads" or "virtual-time"); in virtual time `profile` (what acts cost)
            and `log` (how many events the result keeps). For both `progress`, a callable that is told some times a
            second what is counted, how many are done, and of how many (0: unknown).

    Returns:
        A `RunResult` for a recording, a `ScenarioResult` for a scenario. Ctrl-C ends a scenario with a partial result.

    Raises:
        RecordingError: The file is no recording, or has no IPIs in it.
        ScenarioError: The scenario has a mistake: file, line, field, and what is allowed.
        PolicyError: The policy has a mistake: file, line and column.
        ValueError: An option is out of range.
        TypeError: An option is not one of recordings, or of scenarios.
    """
    if isinstance(what, Scenario):
        _check(options, _SCENARIO_OPTIONS, "a scenario", _RECORDING_OPTIONS, "recordings")
        return _run_scenario(what, **options)
    if Path(os.fspath(what)).suffix == ".toml":
        _check(options, _SCENARIO_OPTIONS, "a scenario", _RECORDING_OPTIONS, "recordings")
        path = os.fspath(what)
        with mistakes_of(path):
            return _run_scenario(load(path, options.get("policy")), **options)
    _check(options, _RECORDING_OPTIONS, "a recording", _SCENARIO_OPTIONS, "scenarios")
    return run_recording(what, **options)


def _run_scenario(
    scenario: Scenario,
    *,
    seconds: float | None = None,
    policy: str | None = None,
    seed: int | None = None,
    engine: Engine = "threads",
    profile: str | Profile | None = None,
    log: int = 0,
    progress: Progress | None = None,
) -> ScenarioResult:
    if seed is not None:
        scenario = Scenario.model_validate({**dict(scenario), "seed": whole_number("seed", seed, 0, MOST_SEED)})
    return scenario.run(seconds=seconds, policy=policy, engine=engine, profile=profile, log=log, progress=progress)


def _check(options: dict[str, Any], known: tuple[str, ...], what: str, of_others: tuple[str, ...], others: str) -> None:
    for name in options:
        if name not in known and name in of_others:
            raise TypeError(f"{name} is an option of {others}, and this is {what}")
        if name not in known:
            raise TypeError(f"{name} is no option of {what}{did_you_mean(name, list(known))}")
