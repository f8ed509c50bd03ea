"""The answer of `ipivrs explain` for people: the outcome, the value taken apart, the rules one by one."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ipivrs.advice import IN_THE_FIELDS, advice
from ipivrs.wording import noun

_OUTCOMES = {
    "posted": "posted: no VM exit",
    "self-ipi": "self-IPI virtualization: no VM exit",
    "apic-write-exit": "VM exit after the write",
    "apic-access-exit": "VM exit instead of the access",
    "msr-exit": "VM exit instead of the WRMSR",
    "fault": "#GP(0) in the guest, nothing is written",
    "not-virtualized": "not virtualized: the write reaches the physical local APIC",
}

_APICS = {"x2apic": "x2APIC", "xapic": "xAPIC"}

# Names that are not words with underscores between them.
_LABELS = {"apic_id": "APIC ID", "on": "ON", "sn": "SN", "nv": "NV", "ndst": "NDST"}

_ONE_DIGIT = 10

_COMPARISON = "IPI virtualization: step 2:"

_OF_KVM = 4095
"""KVM_MAX_VCPU_IDS - 1."""


def explanation(answer: Mapping[str, Any], vcpus: int | None = None, last_index: int | None = None) -> RenderableType:
    """Everything about one ICR value, from `Explanation.as_dict`, and from what was said of the PID-pointer table."""
    sections = [
        _verdict(answer),
        _section(f"{answer['icr']}, {answer['access']}", _pairs(answer["fields"])),
        _section("Rules", _steps(answer["steps"])),
        *(_section("PID-pointer table", Text(line)) for line in _table_size(answer, vcpus, last_index)),
        *([_section("Target", _pairs(answer["target"]))] if answer["target"] else []),
        *(_section("What to change", Text(change)) for change in _changes(answer)),
    ]
    return Group(*sections)


def _verdict(answer: Mapping[str, Any]) -> RenderableType:
    text = _OUTCOMES.get(answer["outcome"], answer["outcome"])
    if answer["exit"]:
        text += ": {reason} {name}".format(**answer["exit"])
        if answer["exit"]["qualification"]:
            text += ", qualification {qualification:X}H".format(**answer["exit"])
    fine = answer["outcome"] in ("posted", "self-ipi")
    return Group(Text(text, style="bold green" if fine else "bold red"), Text(f"decided by {answer['clause']}"))


def _changes(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["condition"] in IN_THE_FIELDS:
        fields = answer["fields"]
        apic = _APICS.get(answer["apic"], answer["apic"])
        found = advice(apic, fields["delivery_mode"], fields["destination_mode"], fields["shorthand"])
        if found is not None:
            yield str(found)


def _table_size(answer: Mapping[str, Any], vcpus: int | None, last_index: int | None) -> Iterator[str]:
    """Which last index the destination was compared with, and why that; nothing if it never came to that."""
    if not any(step["rule"].startswith(_COMPARISON) for step in answer["steps"]):
        return
    if last_index is not None:
        yield f"LAST_PID_POINTER_INDEX is {last_index}, as --last-index says"
    elif vcpus is not None:
        yield (
            f"LAST_PID_POINTER_INDEX is {vcpus - 1}, the last of {vcpus} {noun(vcpus, 'vCPU')}; KVM's is {_OF_KVM} "
            "unless userspace sets KVM_CAP_MAX_VCPU_ID: --last-index takes another"
        )


def _pairs(values: Mapping[str, Any]) -> Table:
    table = _table(2)
    for name, value in values.items():
        table.add_row(_LABELS.get(name, name.replace("_", " ")), _plain(value))
    return table


def _plain(value: object) -> str:
    """A value as people read it: a flag as yes or no, a number in both bases, nothing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value}" if value < _ONE_DIGIT else f"{value} ({value:X}H)"
    return "-" if value in (None, "") else str(value)


def _steps(steps: list[Mapping[str, Any]]) -> Table:
    """One line for each rule; the section of the manual stands beside the first of its rules."""
    table = _table(3)
    last = None
    for step in steps:
        mark = Text("holds", style="green") if step["holds"] else Text("fails", style="red")
        section = step["clause"].partition(": ")[0]  # behind it stands what the rule says already
        table.add_row(mark, step["rule"], Text("" if section == last else section, style="dim"))
        last = section
    return table


def _table(columns: int) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _section(title: str, part: RenderableType) -> RenderableType:
    return Group(Text(), Text(title, style="bold"), Padding(part, (0, 0, 0, 2), expand=False))
