"""How much of a machine the protocol laboratory explores."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NoReturn, get_args

from ipivrs.options import ArgumentError, did_you_mean

MemoryModel = Literal["sc", "tso"]
"""Sequential consistency, or x86's store buffers for plain stores."""

RANGES = {
    "senders": (0, 8),
    "devices": (0, 8),
    "software": (0, 8),
    "posts": (1, 7),
    "preemptions": (0, 7),
    "migrations": (0, 7),
    "exits": (0, 7),
    "pcpus": (1, 4),
    "vcpus": (1, 4),
}
"""The numbers among the bounds, and what each may be."""

FLAGS = ("urgent", "publish", "inhibit", "rewrite_id", "ipiv")
"""The bounds that are yes or no."""

MOST_AGENTS = 8


class BoundsError(ArgumentError):
    """Bounds that cannot be explored. The message names the bound, its value, its range and what to change."""


@dataclass(frozen=True)
class Bounds:
    """What takes part in a check, and how often. A proof holds for these bounds and says nothing beyond them.

    Attributes:
        senders: Other vCPUs of the VM that send IPIs; hardware posts them. Each runs on a pCPU of its own.
        devices: Devices that post through the IOMMU.
        software: Threads of the hypervisor that run the policy's `software_post`.
        posts: Interrupts that each of these posts, one after another, 1 to 7.
        preemptions: How often a vCPU is scheduled out though it could go on, in the whole run, 0 to 7.
        migrations: How often a vCPU goes on on another pCPU though its own is free, in the whole run, 0 to 7.
        exits: VM exits for reasons of the guest's own, in the whole run, 0 to 7. HLT is not counted.
        pcpus: Processors for the target vCPUs, 1 to 4.
        vcpus: vCPUs that interrupts are posted for, 1 to `pcpus`.
        memory_model: "sc", or "tso" with a store buffer for plain stores.
        urgent: Devices post although SN is 1.
        publish: The PID-pointer table's entry of vCPU 0 is written while others send.
        inhibit: APICv is inhibited in mid-flight.
        rewrite_id: The guest rewrites its xAPIC ID in mid-flight.
        ipiv: The VM uses IPI virtualization.

    Raises:
        BoundsError: A value is out of its range, or two do not go together.
    """

    senders: int = 2
    devices: int = 0
    software: int = 1
    posts: int = 1
    preemptions: int = 1
    migrations: int = 1
    exits: int = 1
    pcpus: int = 2
    vcpus: int = 1
    memory_model: MemoryModel = "sc"
    urgent: bool = False
    publish: bool = False
    inhibit: bool = False
    rewrite_id: bool = False
    ipiv: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be explored."""
        self._check_each()
        self._check_together()

    def _check_each(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                self._refuse(name, f"must be {low} to {high}", value)
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "is true or false", getattr(self, name))
        if self.memory_model not in get_args(MemoryModel):
            self._refuse("memory_model", "must be sc or tso", self.memory_model)

    def _refuse(self, name: str, allowed: str, value: object) -> NoReturn:
        raise BoundsError.naming(lambda named: f"{named(name)} {allowed}, not {value!r}")

    def _check_together(self) -> None:
        if self.vcpus > self.pcpus:
            raise BoundsError.naming(
                lambda named: (
                    f"{named('vcpus')} must be 1 to {self.pcpus}, the number of pCPUs, not {self.vcpus}: "
                    f"lower it, or give {named('pcpus')} {self.vcpus}"
                )
            )
        if not 1 <= self.agents <= MOST_AGENTS:
            change = f"lower one of them by {self.agents - MOST_AGENTS}" if self.agents else "give one of them"
            raise BoundsError.naming(
                lambda named: (
                    f"{named('senders')}, {named('devices')} and {named('software')} must be 1 to {MOST_AGENTS} "
                    f"together, not {self.agents}: {change}"
                )
            )
        if self.urgent and not self.devices:
            raise BoundsError.naming(
                lambda named: (
                    f"{named('urgent')} is about devices, and {named('devices')} is 0: "
                    f"give {named('devices')} 1, or leave it out"
                )
            )

    @property
    def agents(self) -> int:
        """How many post interrupts."""
        return self.senders + self.devices + self.software

    def as_dict(self) -> dict[str, Any]:
        """The bounds in plain types, ready for `json.dumps`."""
        return asdict(self)

    def as_json(self) -> str:
        """The bounds as the core reads them."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Bounds":
        """Bounds from a file; what is not in it has its default.

        Raises:
            BoundsError: A name is unknown, or a value out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise BoundsError(f"no bound {name!r}{did_you_mean(name, known) or '; known are ' + ', '.join(known)}")
        return cls(**values)

    def __str__(self) -> str:
        """One line: who takes part and how often, then the switches that are on."""
        parts = [
            *(_counted(getattr(self, name), name) for name in RANGES if getattr(self, name)),
            *(name.replace("_", "-") for name in FLAGS[:-1] if getattr(self, name)),
            *([] if self.ipiv else ["no-ipiv"]),
            f"memory model {self.memory_model}",
        ]
        return ", ".join(parts)


# Plurals as they stand in the option, and how one of them is called.
_ONE = {
    "software": "software sender",
    "pcpus": "pCPU",
    "vcpus": "target vCPU",
    "posts": "post of each",
}


def _counted(number: int, name: str) -> str:
    one = _ONE.get(name, name.removesuffix("s"))
    many = one.replace("post ", "posts ") if name == "posts" else f"{one}s"
    return f"{number} {one if number == 1 else many}"
