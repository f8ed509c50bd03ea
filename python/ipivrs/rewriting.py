"""Sends of a recording written anew, and what the emulator makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ipivrs import _core

_BROADCAST = {"x2APIC": 2**32 - 1, "xAPIC": 2**8 - 1}
_APIC = {"x2APIC": "x2apic", "xAPIC": "xapic"}
_LAST_INDEX = 2**16 - 1
_MEMORY, _SELF_IPI = "write to offset 300H", "WRMSR 83FH"  # of RunResult.via_names


@dataclass(frozen=True)
class Send:
    """One write that sends an IPI. `sender` is the APIC ID of the sender, `access` "icr" or "self-ipi"."""

    sender: int
    apic: str
    access: str
    icr_low: int
    destination: int

    @classmethod
    def of(cls, via: str, icr_low: int, destination: int, sender: Mapping[str, Any]) -> "Send":
        """A send of a recording; `via` is a name of `RunResult.via_names`, `sender` one of the recording's vCPUs."""
        apic = "xAPIC" if via == _MEMORY else "x2APIC"
        access = "self-ipi" if via == _SELF_IPI else "icr"
        return cls(sender["apic_id"], apic, access, icr_low, destination)

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the ICR by name, as `explain` has them."""
        return _fields(self.apic, self.access, self.icr_low)

    @property
    def is_broadcast_id(self) -> bool:
        """All bits of the destination are 1."""
        return self.destination == _BROADCAST[self.apic]

    def as_self_ipi(self) -> "Send":
        """The same vector through MSR 83FH."""
        return Send(self.sender, "x2APIC", "self-ipi", self.fields["vector"], 0)


def unicast(send: Send, apic_id: int, *, trigger: str | None = None) -> Send:
    """A fixed IPI to one processor, with the vector, level and (unless another is given) trigger mode of a send."""
    low = _core.compose_icr(
        send.fields["vector"], level=send.fields["level"], trigger=trigger or send.fields["trigger"]
    )
    return Send(send.sender, send.apic, "icr", low, apic_id)


def needs_no_exit(send: Send) -> bool:
    """Whether the processor does it alone, with a table that has an entry for the destination."""
    return _outcome(send.apic, send.access, send.icr_low, min(send.destination, _LAST_INDEX)) in ("posted", "self-ipi")


@lru_cache(maxsize=4096)
def _fields(apic: str, access: str, icr_low: int) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = _core.explain(icr_low, apic=_APIC[apic], access=access).as_dict()["fields"]
    return fields


@lru_cache(maxsize=4096)
def _outcome(apic: str, access: str, icr_low: int, apic_id: int) -> str:
    value = icr_low | (apic_id << (56 if apic == "xAPIC" else 32) if access == "icr" else 0)
    return _core.explain(value, apic=_APIC[apic], access=access, last_index=_LAST_INDEX).outcome
