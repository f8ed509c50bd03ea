"""`ipivrs schema`: what the JSON of the other commands looks like, as JSON Schema."""

import json as json_text
from importlib.resources import files
from typing import Annotated, Any

import typer
from rich.text import Text

from ipivrs.options import BadInputError, did_you_mean
from ipivrs.sections import table
from ipivrs.terminal import show, show_json


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas by name: what `--json` prints, in JSON Schema 2020-12."""
    folder = files("ipivrs") / "schemas"
    found = {item.name.removesuffix(".json"): item for item in folder.iterdir() if item.name.endswith(".json")}
    return {name: json_text.loads(found[name].read_text(encoding="utf-8")) for name in sorted(found)}


def schema(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which; by default a list of all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text: the list too.")] = False,
) -> int:
    """Print the JSON Schema of what a command's --json prints."""
    known = schemas()
    if name is None and json:
        show_json({each: one["title"] for each, one in known.items()})
        return 0
    if name is None:
        rows = table("name", "of")
        for each, one in known.items():
            rows.add_row(each, one["title"])
        show(rows, Text("\nipivrs schema NAME prints one", style="dim"))
        return 0
    if name not in known:
        hint = did_you_mean(name, list(known))
        raise BadInputError(f"no schema {name!r}: it is one of {', '.join(known)}{hint}")
    show_json(known[name])
    return 0
