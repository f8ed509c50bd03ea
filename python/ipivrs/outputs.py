"""The files that `run` writes beside what it prints: `--report` and `--perfetto`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipivrs.options import BadInputError, check_writable
from ipivrs.reports import check_extra
from ipivrs.results import RunResult
from ipivrs.simulation import ScenarioResult

EVENTS = 1_000_000
"""Events of a scenario in virtual time that are kept to be drawn."""


@dataclass(frozen=True)
class Outputs:
    """The files that were asked for. Made by `wanted`, which finds every mistake before anything runs."""

    report: Path | None
    perfetto: Path | None
    virtual_time: bool

    @property
    def log(self) -> int:
        """How many events a scenario has to keep, to be drawn."""
        return EVENTS if self.virtual_time and (self.report or self.perfetto) else 0

    def write(self, result: RunResult | ScenarioResult) -> Iterator[str]:
        """Write them, and say which could not be written after all."""
        for path, save in ((self.report, result.report), (self.perfetto, result.perfetto)):
            if path is not None:
                try:
                    save(path)
                except OSError as error:
                    yield f"{path} cannot be written: {error.strerror}"

    def names(self) -> list[str]:
        """What was written, a line for each file."""
        kinds = {self.report: "a report for a browser", self.perfetto: "a trace for https://ui.perfetto.dev"}
        return [f"{path}: {kind}" for path, kind in kinds.items() if path is not None]


def wanted(report: str | None, perfetto: str | None, files: Sequence[str], engine: str | None) -> Outputs:
    """The files that were asked for.

    Args:
        report: Of `--report`.
        perfetto: Of `--perfetto`.
        files: What is to be run.
        engine: The engine of scenarios that was asked for.

    Raises:
        BadInputError: They cannot be made: several results, a package that is missing, a path that cannot be written.
    """
    given = {"report": report, "perfetto": perfetto}
    for name, path in given.items():
        if path is not None:
            _check(f"--{name}", name, Path(path), files, engine)
    if report is not None and perfetto is not None and Path(report).absolute() == Path(perfetto).absolute():
        raise BadInputError("--report and --perfetto need a file each")
    report_path, trace_path = (None if path is None else Path(path) for path in given.values())
    return Outputs(report_path, trace_path, virtual_time=engine == "virtual-time")


def _check(option: str, kind: str, path: Path, files: Sequence[str], engine: str | None) -> None:
    if len(files) > 1:
        raise BadInputError(f"{option} is about one result: run the {len(files)} files one by one")
    if kind == "perfetto" and files[0].endswith(".toml") and engine != "virtual-time":
        raise BadInputError("--perfetto needs times, and the threads engine keeps none: add --engine virtual-time")
    try:
        check_extra(kind)
    except ImportError as error:
        raise BadInputError(str(error)) from error
    check_writable(option, path)
    if any(path.exists() and Path(file).exists() and path.samefile(file) for file in files):
        raise BadInputError(f"{option} {path} would replace what is to be run")
