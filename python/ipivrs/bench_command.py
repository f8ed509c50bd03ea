"""`ipivrs bench` and `ipivrs profile`: measurements beside virtual time, and the profiles that it uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from ipivrs import completion, profiles, published
from ipivrs.bars import steps
from ipivrs.fitting import Fit
from ipivrs.fitting import fit as fit_profile
from ipivrs.options import BadInputError, check_writable, refusals_are_bad_input
from ipivrs.profiles import Profile
from ipivrs.published import Comparison, RowsError
from ipivrs.replacing import replace_text
from ipivrs.sections import section, table
from ipivrs.speed_command import bench_speed
from ipivrs.terminal import show, show_json
from ipivrs.wording import difference, rounded

bench = typer.Typer(help="Measurements, and what ipivrs says about them.", rich_markup_mode=None)
profile = typer.Typer(help="Cost profiles: what acts cost in virtual time.", rich_markup_mode=None)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_Profile = Annotated[
    str, typer.Option("--profile", metavar="NAME|FILE", help="What acts cost.", autocompletion=completion.profile)
]
_FITTED = "mmio_write,notification_flight,exit_msr_icr,exit_apic_write"


@contextmanager
def _named(measurements: str) -> Iterator[None]:
    """What is wrong with rows is said with the name of their measurements."""
    try:
        yield
    except RowsError as error:
        raise BadInputError(f"{measurements}: {error.in_shell or error}") from error


@bench.callback()
def _bench() -> None:
    """Measurements, and what ipivrs says about them."""


bench.command("speed")(bench_speed)


@bench.command("published")
def bench_published(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]", help="Which; by default all.", autocompletion=completion.measurements),
    ] = None,
    profile: _Profile = profiles.DEFAULT,
    json: _Json = False,
) -> int:
    """Published measurements, and what virtual time predicts."""
    with refusals_are_bad_input():
        costs = profiles.find(profile)
        found = {name: published.find(name) for name in sources or published.shipped()}
        rows = []
        with steps(sum(len(one.row) for one in found.values())) as bar:
            for name, one in found.items():
                with _named(name):
                    rows += published.compare(one, costs, bar)
    if json:
        show_json(rows)
    else:
        show(_comparison(rows, profile))
    return 0


def _comparison(rows: list[Comparison], profile: str) -> Group:
    parts: list[object] = []
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = table("", ">measured", ">predicted", ">error", "", "")
        notes: list[Text] = []
        for row in (row for row in rows if row["source"] == source):
            digits = 0 if row["unit"] in {"cycles", "per second"} else 2
            measured = row["published"] if row["measured"] is None else rounded(row["measured"], digits)
            how = "fitted" if row["fitted"] else "predicted"
            predicted = rounded(row["predicted"], digits)
            lines.add_row(row["name"], measured, predicted, _error(row, digits), row["unit"], how)
            if row["between"] is not None:
                least, most = (f"{end:,.0f}" for end in row["between"])
                beyond = "" if row["factor"] == 1 else "; the error is in times its nearer end"
                taken = f"{row['published']} is taken for {least} to {most}{beyond}"
                notes.append(Text(f"{row['name']}: {taken}", style="dim"))
            if row["note"]:
                notes.append(Text(f"{row['name']}: {row['note']}", style="dim"))
        parts.append(section(source, lines, *notes))
    parts.append(Text(f"\nprofile {profile}; docs/virtual-time.md says where the errors come from", style="dim"))
    return Group(*parts)  # type: ignore[arg-type]


def _error(row: Comparison, digits: int) -> str:
    """How far a prediction is off: in the row's unit, or how many times beyond an order of magnitude."""
    if row["error"] is not None:
        return f"{difference(row['error'], digits)}{' points' if row['unit'] == '%' else ''}"
    if row["factor"] is None:
        return "-"
    if row["factor"] == 1:
        return "within"
    return f"{row['factor']:,.1f} times" if row["factor"] > 1 else f"{row['factor']:.2g} times"


@profile.callback()
def _profile() -> None:
    """Cost profiles: what acts cost in virtual time."""


@profile.command("list")
def profile_list(json: _Json = False) -> int:
    """The shipped profiles."""
    titles = {name: profiles.find(name).title for name in profiles.shipped()}
    if json:
        show_json(titles)
    else:
        show(*(Text(f"{name}  {title}") for name, title in titles.items()))
    return 0


@profile.command("show")
def profile_show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", autocompletion=completion.profile)] = profiles.DEFAULT,
    json: _Json = False,
) -> int:
    """Every cost of a profile, what it is, and where it comes from."""
    with refusals_are_bad_input():
        found = profiles.find(name)
    if json:
        show_json(found.model_dump())
        return 0
    rows = table("cost", ">cycles", "what", "source")
    for cost, (_, what) in profiles.cost_names().items():
        entry = found.cost[cost]
        rows.add_row(cost, str(entry.cycles), what, entry.source)
    show(Text(found.title), Text(f"{found.hz:,} cycles in a second\n"), rows)
    return 0


@profile.command("fit")
def profile_fit(
    measurements: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE", help="Published measurements, or your own.", autocompletion=completion.measurements
        ),
    ],
    costs: Annotated[str, typer.Option(metavar="A,B,...", help="Costs to fit; all others stay.")] = _FITTED,
    start: Annotated[
        str, typer.Option("--from", metavar="NAME|FILE", help="The other costs.", autocompletion=completion.profile)
    ] = profiles.DEFAULT,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write the profile, for --profile FILE.")
    ] = None,
    json: _Json = False,
) -> int:
    """Fit costs to measurements, with virtual time as the model.

    By least squares, over the rows that are marked as fitted.
    """
    if out is not None:
        _check_out(Path(out), published.shipped().get(measurements, measurements))
        _check_out(Path(out), profiles.shipped().get(start, start))
    names = [name.strip() for name in costs.split(",") if name.strip()]
    if len(set(names)) != len(names):
        raise BadInputError("--costs names a cost twice")
    with refusals_are_bad_input():
        before = profiles.find(start)
        rows_of = published.find(measurements)
        with _named(measurements):
            found = fit_profile(rows_of, before, names)
    if out is not None:
        _write(Path(out), found.profile)
    if json:
        rows = dict(zip(found.rows, found.residuals, strict=True))
        limits = {"at_least": found.at_least, "at_most": found.at_most}
        several = {"not_told_apart": found.not_told_apart, "as_good": found.as_good}
        squares = {"sum_of_squares": found.sum_of_squares}
        show_json({"cycles": found.cycles, "rows": rows, **squares, **limits, **several, "fixed": found.fixed})
    else:
        show(_fit(found, before, start, out))
    return 0


def _check_out(path: Path, read: Path | str) -> None:
    check_writable("--out", path)
    if path.exists() and Path(read).exists() and path.samefile(read):
        raise BadInputError(f"--out {path} would replace what the fit begins with")


def _write(path: Path, profile: Profile) -> None:
    try:
        replace_text(path, profile.toml())
    except OSError as error:
        raise BadInputError(f"--out {path}: {error.strerror}") from error


def _fit(found: Fit, before: Profile, start: str, out: str | None) -> Group:
    costs = table("fitted cost", ">cycles", ">before", "what")
    for name, cycles in found.cycles.items():
        costs.add_row(name, str(cycles), str(before.cost[name].cycles), profiles.cost_names()[name][1])
    rows = table("row", ">off by, in cycles")
    for name, residual in zip(found.rows, found.residuals, strict=True):
        rows.add_row(name, difference(residual, 1))
    notes = [f"sum of squares: {found.sum_of_squares:,.1f}"]
    notes += [f"{name} is as low as it can be: the other costs leave it nothing" for name in found.at_least]
    notes += [f"{name} is as high as it can be: more would be needed" for name in found.at_most]
    notes += [_one_sum(names) for names in found.not_told_apart]
    if found.as_good:
        ends = ", ".join(f"{name} from {least} to {most}" for name, (least, most) in found.as_good.items())
        notes.append(f"others that were tried fit as well, this is the nearest of them to --from: {ends}")
    notes.append(f"the {len(found.fixed)} other costs stayed as they were: `ipivrs profile show {start}` shows them")
    if out is not None:
        notes.append(f"{out}: all of them with their sources, for --profile")
    return Group(costs, Text(), rows, Text("\n" + "\n".join(notes), style="dim"))


def _one_sum(names: list[str]) -> str:
    """What to say of costs that the rows cannot tell apart."""
    return (
        f"the rows cannot tell {', '.join(names[:-1])} and {names[-1]} apart, only what they come to together;\n"
        "what each has of it follows from --from: leave one out of --costs, or add a row in which they differ"
    )
