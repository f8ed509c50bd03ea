"""Published measurements, and what virtual time says about the same scenarios."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ipivrs.field_paths import PathError, plain, put
from ipivrs.options import did_you_mean
from ipivrs.policies import beside
from ipivrs.profiles import Profile, ProfileError
from ipivrs.scenario import Scenario, in_folder
from ipivrs.scenario_text import FieldError, ScenarioError, load, mistakes
from ipivrs.simulation import whole
from ipivrs.statements import Flag, Table


class RowsError(ProfileError):
    """Rows that cannot be run, or fitted to. The message does not name their file, which they do not know."""


Quantity = Literal["cycles", "time-saved", "time-added", "speed-up", "notifications"]
"""What was measured: cycles (of each of `per` rounds), a difference to the baseline in percent (of its time, or of its
rate), or notifications in a second."""

UNITS: dict[Quantity, str] = {
    "cycles": "cycles",
    "time-saved": "%",
    "time-added": "%",
    "speed-up": "%",
    "notifications": "per second",
}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class Row(Table):
    """One measurement: its value, or in words what was published, and the scenario that stands for it.

    `between` is what these words mean in numbers, the least and the most. `baseline` are the fields, by dotted path,
    in which the run that it is compared with differs. `fitted` rows are what profiles may be fitted to; all others are
    predicted.
    """

    name: Annotated[str, Field(min_length=1)]
    measured: Annotated[float, Field(allow_inf_nan=False, strict=True)] | None = None
    published: str = ""
    between: tuple[Positive, Positive] | None = None
    quantity: Quantity
    per: Annotated[int, Field(ge=1, strict=True)] = 1
    fitted: Flag = False
    note: str = ""
    scenario: Scenario
    baseline: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _complete(self) -> "Row":
        if self.measured is None and not self.published:
            raise PydanticCustomError("row", "give measured (a number) or published (what was published, in words)")
        if self.quantity == "cycles" and self.measured is not None and self.measured <= 0:
            raise PydanticCustomError("row", "measured is in cycles here: more than 0")
        if self.between is not None and (not self.published or self.between[0] >= self.between[1]):
            raise PydanticCustomError("row", "between says what published means: the least and the most, in this order")
        compares = self.quantity in {"time-saved", "time-added", "speed-up"}
        if compares != bool(self.baseline):
            message = "baseline goes with time-saved, time-added and speed-up, and only with them"
            raise PydanticCustomError("row", message)
        self._check_baseline()
        return self

    def _check_baseline(self) -> None:
        table = plain(self.scenario)
        try:
            self._change(table)
            Scenario.model_validate(table)
        except PathError as error:
            why = str(error)
        except ValidationError as error:
            why = "; ".join(f"{'.'.join(map(str, where))}: {what}" for where, what in mistakes(error, table))
        else:
            return
        raise PydanticCustomError("baseline", "{why}", {"why": why, "at": ("baseline",)})

    def _change(self, table: dict[str, Any]) -> None:
        for path, value in self.baseline.items():
            put(table, tuple(path.split(".")), value)

    def compared(self) -> Scenario:
        """The scenario of the baseline."""
        table = plain(self.scenario)
        self._change(table)
        return Scenario.model_validate(table)


class Measurements(Table):
    """Measurements from one source."""

    title: str
    source: str
    row: list[Row] = Field(min_length=1)


class Comparison(TypedDict):
    """One row of `ipivrs bench published`.

    `error` is predicted less measured, in the row's unit. Where an order of magnitude was published, `between` says
    what it is taken for, and `factor` how many times as much as the nearer end of it is predicted: 1 within.
    """

    source: str
    name: str
    quantity: Quantity
    unit: str
    measured: float | None
    published: str
    between: tuple[float, float] | None
    predicted: float
    error: float | None
    factor: float | None
    fitted: bool
    note: str


def shipped() -> dict[str, Path]:
    """The files of the published measurements, by name."""
    folder = Path(str(files("ipivrs") / "published"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find(name: str) -> Measurements:
    """The shipped measurements of this name, or those in this file.

    Raises:
        ProfileError: There are none, or they have a mistake: file, line and field.
    """
    known = shipped()
    if name not in known and not Path(name).exists():
        hint = did_you_mean(name, list(known)) or f"; shipped are {', '.join(known)}"
        raise ProfileError(f"no measurements {name!r}, and no file of this name{hint}")
    path = known.get(name, Path(name))
    try:
        found = load(Measurements, path, "measurements")
    except (ScenarioError, ValidationError) as error:
        raise ProfileError(str(error)) from error
    return found.model_copy(update={"row": [_in_folder(row, path.parent) for row in found.row]})


def _in_folder(row: Row, folder: Path) -> Row:
    """A row of a file in this folder: there its policies' paths begin."""
    baseline = dict(row.baseline)
    if "host.policy" in baseline:
        baseline["host.policy"] = beside(baseline["host.policy"], folder)
    if "policy" in baseline.get("host", {}):
        baseline["host"] = baseline["host"] | {"policy": beside(baseline["host"]["policy"], folder)}
    return row.model_copy(update={"scenario": in_folder(row.scenario, folder), "baseline": baseline})


def predict(row: Row, profile: Profile) -> float:
    """What virtual time says about a row, in the row's unit.

    Raises:
        RowsError: The row's scenario cannot be run.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        return _predict(row, profile)
    except FieldError as error:
        raise RowsError(f"row {row.name!r}: scenario.{error}") from error


def _predict(row: Row, profile: Profile) -> float:
    result = whole(row.scenario.run(engine="virtual-time", profile=profile))
    cycles = result.cycles or 0
    if row.quantity == "cycles":
        return cycles / row.per
    if row.quantity == "notifications":
        return result.notifications["sent"] / result.seconds
    before = whole(row.compared().run(engine="virtual-time", profile=profile)).cycles or 0
    if row.quantity == "speed-up":
        return 100 * (before / cycles - 1)
    saved = 100 * (1 - cycles / before)
    return saved if row.quantity == "time-saved" else -saved


def _factor(predicted: float, least: float, most: float) -> float:
    """How far beyond a range something is."""
    return predicted / min(max(predicted, least), most)


def compare(
    measurements: Measurements, profile: Profile, begin: Callable[[str], object] = lambda _: None
) -> list[Comparison]:
    """All rows beside what virtual time says; `begin` is called with the name of each row before it is simulated.

    Raises:
        RowsError: A row's scenario cannot be run.
        KeyboardInterrupt: Ctrl-C.
    """
    rows: list[Comparison] = []
    for row in measurements.row:
        begin(row.name)
        predicted = predict(row, profile)
        error = None if row.measured is None else predicted - row.measured
        rows.append(
            {
                "source": measurements.source,
                "name": row.name,
                "quantity": row.quantity,
                "unit": UNITS[row.quantity],
                "measured": row.measured,
                "published": row.published,
                "between": row.between,
                "predicted": predicted,
                "error": error,
                "factor": None if row.between is None else _factor(predicted, *row.between),
                "fitted": row.fitted,
                "note": row.note,
            }
        )
    return rows
