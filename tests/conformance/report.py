"""The part of docs/conformance.md that is made from the code: clause, function, tables, status."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import spec
from conformance.citations import ROOT, citations, places

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT = ROOT / "docs/conformance.md"
BEGIN = "<!-- made by `make conformance` from here -->\n"
END = "<!-- to here -->\n"
TITLES = {
    "11.6.1": "Interrupt Command Register (ICR)",
    "11.12.5": "x2APIC State Transitions",
    "11.12.9": "ICR Operation in x2APIC Mode",
    "11.12.10.2": "Deriving Logical x2APIC ID from the Local x2APIC ID",
    "25.6": "VM-Execution Control Fields",
    "25.6.2": "Processor-Based VM-Execution Controls",
    "25.6.9": "MSR-Bitmap Address",
    "25.7.1": "VM-Exit Controls",
    "26.1.3": "Instructions That Cause VM Exits Conditionally",
    "26.2": "Other Causes of VM Exits",
    "27.2.1.1": "VM-Execution Control Fields (VM-entry checks)",
    "27.3.2.5": "Updating Non-Register State",
    "27.7.7": "VM Exits Induced by the TPR Threshold",
    "30.1.1": "Virtualized APIC Registers",
    "30.1.2": "TPR Virtualization",
    "30.1.3": "PPR Virtualization",
    "30.1.4": "EOI Virtualization",
    "30.1.5": "Self-IPI Virtualization",
    "30.1.6": "IPI Virtualization",
    "30.2.1": "Evaluation of Pending Virtual Interrupts",
    "30.2.2": "Virtual-Interrupt Delivery",
    "30.4.1": "Priority of APIC-Access VM Exits",
    "30.4.2": "Virtualizing Reads from the APIC-Access Page",
    "30.4.3.1": "Determining Whether a Write Access is Virtualized",
    "30.4.3.2": "APIC-Write Emulation",
    "30.4.3.3": "APIC-Write VM Exits",
    "30.5": "Virtualizing MSR-Based APIC Accesses",
    "30.6": "Posted-Interrupt Processing",
    "SENDUIPI": "vol. 2B, SENDUIPI; ISE reference, IPI virtualization",
    "VT-d 5.2.3": "Interrupt Posting",
}
UNCONFIRMED = {
    ("27.2.1.1", "PID table alignment"),
    ("27.2.1.1", "PID table width"),
    ("27.2.1.1", "PID table last entry"),
}


HEAD = ("| step | what it demands | where | compared in | status |", "|---|---|---|---|---|")


class NotCovered(Exception):  # noqa: N818 - it is what the report looks for
    """A clause that no function cites, or that no table reaches."""


def clauses_in_order() -> list[spec.Key]:
    """By section, as numbers, then by step."""

    def order(key: spec.Key) -> tuple[list[int], str, str]:
        section, step = key
        return [int(part) for part in re.findall(r"\d+", section)] if section[0].isdigit() else [99], section, step

    return sorted(spec.REGISTRY, key=order)


def rendered(evidence: Mapping[str, set[spec.Key]]) -> str:
    """The table, from which clauses each table of comparisons went through.

    Raises:
        NotCovered: A clause is cited by no function or reached by no table.
    """
    found = citations()
    lines = []
    section_before = ""
    for key in clauses_in_order():
        section, step = key
        functions = places(key, found)
        tables = [name for name, reached in evidence.items() if key in reached]
        if not functions or not tables:
            what = "no function in rust/src cites it" if not functions else "no table reaches it"
            raise NotCovered(f"{section} {step}: {what} ({spec.REGISTRY[key].demand})")
        if section != section_before:
            lines += ["", f"### {section} {TITLES[section]}", "", *HEAD]
            section_before = section
        unconfirmed = section == "SENDUIPI" or key in UNCONFIRMED
        cells = [
            step or "-",
            spec.REGISTRY[key].demand.replace("|", "\\|"),
            ", ".join(map(str, functions)),
            ", ".join(tables),
            "equal; reading unconfirmed" if unconfirmed else "equal",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def current() -> str:
    """What stands in the document."""
    text = DOCUMENT.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def write(table: str) -> None:
    """Puts the table where it belongs."""
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table + text[text.index(END) :])
