"""Files to look at: a report as one page of HTML, and a trace for the Perfetto UI.

They need the extra `report`: `pip install 'ipivrs[report]'`.
"""

from abc import ABC
from importlib import import_module
from os import PathLike
from pathlib import Path

from ipivrs.replacing import replace, replace_text

NEEDS = {"report": "jinja2", "perfetto": "perfetto.protos.perfetto.trace.perfetto_trace_pb2"}
"""The module behind each kind of file."""

_CALLED = {"report": "a report", "perfetto": "a Perfetto trace"}


def check_extra(kind: str) -> None:
    """See that what a kind of file needs is there.

    Raises:
        ImportError: It is not; the message says how to get it.
    """
    try:
        import_module(NEEDS[kind])
    except ImportError as error:
        package = NEEDS[kind].partition(".")[0]
        raise ImportError(f"{_CALLED[kind]} needs the package {package}: pip install 'ipivrs[report]'") from error


class Drawable(ABC):  # noqa: B024 (a mixin: results are made of it, it is nothing by itself)
    """A result that can be looked at."""

    def report(self, path: str | PathLike[str]) -> None:
        """Write a report: one HTML file with all that it needs in it, for any browser.

        Summary, fates over time, a timeline with a lane for each vCPU, who interrupts whom, latencies, and exits by
        clause. A scenario has a timeline if it ran in virtual time with `log`: the events that were kept are drawn.

        Args:
            path: The file; one that is there is replaced.

        Raises:
            ImportError: The extra `report` is not installed.
            OSError: The file cannot be written.
        """
        check_extra("report")
        from ipivrs.reports.page import page  # noqa: PLC0415 (needs the extra)
        from ipivrs.reports.telling import facts_and_story  # noqa: PLC0415

        facts, story = facts_and_story(self)
        replace_text(Path(path), page(facts, story))

    def perfetto(self, path: str | PathLike[str]) -> None:
        """Write a trace for the Perfetto UI (https://ui.perfetto.dev) and its trace processor.

        Tracks for vCPUs and pCPUs, slices for guest, root mode, waiting and blocked, flows from the write of the ICR to
        the delivery, counters of IPIs on their way, IPIs sent, and exits.

        Args:
            path: The file; one that is there is replaced.

        Raises:
            ImportError: The extra `report` is not installed.
            ValueError: The result has no times: a scenario on threads, or in virtual time without `log`.
            OSError: The file cannot be written.
        """
        check_extra("perfetto")
        from ipivrs.reports.perfetto_trace import write  # noqa: PLC0415 (needs the extra)
        from ipivrs.reports.telling import facts_and_story  # noqa: PLC0415

        facts, story = facts_and_story(self)
        if story is None:
            raise ValueError(f"a trace needs times: {facts.why_no_story}")
        replace(Path(path), lambda file: write(file, facts, story))
