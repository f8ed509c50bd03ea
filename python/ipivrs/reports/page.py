"""The HTML report: one file that opens anywhere and asks the network for nothing."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ipivrs import report
from ipivrs.reports import charts, columns, scales
from ipivrs.reports.facts import Facts
from ipivrs.reports.story import FATES, STATES, Story


def page(facts: Facts, story: Story | None) -> str:
    """The report as text. Without a story it has no times and says so."""
    folder = files("ipivrs") / "reports" / "assets"
    style, script = (_with_hash((folder / name).read_text(encoding="utf-8")) for name in ("report.css", "timeline.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = scales.count
    environment.filters["level"] = report.level
    template = environment.from_string((folder / "report.html").read_text(encoding="utf-8"))
    latency = charts.latencies(facts.latency) if facts.latency else None
    drawn = None if story is None else _drawn(story)
    return template.render(facts=facts, story=drawn, style=style, script=script, latency=latency)


def _with_hash(text: str) -> dict[str, str | Markup]:
    """Style or script, with what the content-security policy knows it by."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"text": Markup(text), "hash": f"sha256-{digest}"}  # noqa: S704 (a file of this package)


def _drawn(story: Story) -> dict[str, Any]:
    data, cut = columns.timeline(story)
    packed, layout = columns.pack(data)
    present = [FATES[code] for code in np.unique(np.concatenate((story.sends.fate, story.interrupts.fate)))]
    shown = {
        "layout": layout,
        "unit": story.unit,
        "perSecond": story.per_second,
        "end": story.end if cut is None else cut,
        "vcpus": list(story.vcpus),
        "fates": list(FATES),
        "states": list(STATES),
        "deliveryKnown": story.delivery_known,
    }
    return {
        "fates_over_time": charts.fates_over_time(story),
        "fates": present,
        "matrix": charts.matrix(story),
        "states": list(STATES) if len(story.states.start) else [],
        "remarks": [*story.remarks, *_cut(story, cut)],
        "shown": shown,
        "packed": packed,
        "delivery_known": story.delivery_known,
        "interrupts": len(story.interrupts),
    }


def _cut(story: Story, cut: int | None) -> list[str]:
    if cut is None:
        return []
    until = scales.duration(cut / story.per_second)
    return [f"The timeline ends at {until}: there is room for no more in it. The other drawings have all interrupts."]
