"""One thing that stands against IPI virtualization, and what to do about it."""

from typing import Literal, TypedDict

from ipivrs.advice import Advice


class Remedy(TypedDict):
    """One thing that stands against IPI virtualization, and what to do about it.

    `count` `of` ("IPIs" of the totals, or "hypercalls", which are not in them) `what`; `share` is `count` of all sends,
    IPIs and hypercalls. After `change`, `gain` of them need no exit, `gain_share` of all sends; in their place the
    guest sends `sent_instead` IPIs. These three are None where the recording does not tell. `citation` is the rule with
    its source; `caveat` says what the numbers rest on beside the recording, or what is not known, "" if nothing.
    """

    what: str
    of: Literal["IPIs", "hypercalls"]
    count: int
    share: float
    change: str
    citation: str
    gain: int | None
    gain_share: float | None
    sent_instead: int | None
    caveat: str


def remedy(
    what: Advice,
    citation: str,
    count: int,
    sends: int,
    *,
    of: Literal["IPIs", "hypercalls"] = "IPIs",
    gain: int | None,
    sent_instead: int | None,
    caveat: str = "",
) -> Remedy:
    """A remedy with its shares."""
    return Remedy(
        what=what.what,
        of=of,
        count=count,
        share=count / max(sends, 1),
        change=what.change,
        citation=citation,
        gain=gain,
        gain_share=None if gain is None else gain / max(sends, 1),
        sent_instead=sent_instead,
        caveat=caveat,
    )
