"""What a guest does: the statements of a program, as TOML has them and as Python builds them.

A statement is a word ("hlt") or a table whose first key says what it does ({ send = 0xFB, to = 1 }).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ipivrs.names import Apic
from ipivrs.options import did_you_mean
from ipivrs.scenario_text import explained

_FIRST_LEGAL = 16

Vector = Annotated[int, Field(ge=0, le=255, strict=True)]
"""An interrupt vector, 0 to 255; below 16 an IPI is an error in the local APIC."""


def _legal(vector: int) -> int:
    if vector < _FIRST_LEGAL:
        message = "must be 16 or more, not {vector}: the local APIC takes no interrupt with a vector of 0 to 15"
        raise PydanticCustomError("vector", f"{message} (SDM vol. 3A 11.5.2)", {"vector": vector})
    return vector


LegalVector = Annotated[Vector, AfterValidator(_legal)]
"""The vector of an interrupt that is to be taken, 16 to 255 (SDM vol. 3A, "Valid Interrupt Vectors" 11.5.2)."""

IpiMode = Literal["fixed", "lowest-priority", "nmi", "smi", "init", "sipi"]
"""Delivery mode of an IPI that a program sends."""

Path_ = tuple[str | int, ...]
"""Keys and positions that lead to something in a table."""

Numbers = Callable[[str], int]
"""Gives each name of a signal or a lock its number."""

VcpuNumber = Annotated[int, Field(ge=0, le=65_535, strict=True)]
Cycles = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]
Register = Annotated[int, Field(ge=0, le=0x3F0, multiple_of=16, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
U32 = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]
Target = VcpuNumber | Literal["next", "random", "others"]
"""Whom an IPI is for: a vCPU's number, the next vCPU, a random other one, or all others, one IPI each."""


class Table(BaseModel):
    """A table of a scenario. Unknown keys are refused with the nearest known one."""

    # Validators are made when they are first used: a command that reads no scenario begins a quarter faster.
    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, defer_build=True)

    def __init__(self, /, **fields: Any) -> None:  # noqa: ANN401 (whatever is given)
        """Make it of its fields.

        Raises:
            ValueError: What is wrong with them, said as of a file.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(explained(error, type(self).__name__, fields)) from None

    # As pydantic marks its own: a table within others is not made by it, and its mistakes keep their places.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:  # noqa: ANN401 (whatever the file has)
        if isinstance(value, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in known and key not in cls.model_fields:
                    hint = did_you_mean(str(key), known) or f": it is one of {', '.join(known)}"
                    raise PydanticCustomError(
                        "unknown_key", "no field {key}{hint}", {"key": repr(key), "hint": hint, "raw": key}
                    )
            for name, field in cls.model_fields.items():
                # A table is a sequence of its fields to pydantic, and each would be refused as an element.
                if get_origin(field.annotation) is list and isinstance(one := value.get(name), Table):
                    context = {"what": type(one).__name__, "at": (name,)}
                    raise PydanticCustomError("list", "must be a list, such as [{what}(...)], not one {what}", context)
        return value


class _Statement(Table):
    """One statement. `op` is its name in the core; its fields follow."""

    op: ClassVar[str]

    def _lower(self, _: Numbers) -> dict[str, Any]:
        return {"op": self.op, **self.model_dump()}


class _Targeted(_Statement):
    vector: Vector
    to: Target | None = None
    dest: U32 | None = None

    @model_validator(mode="after")
    def _one_destination(self) -> "_Targeted":
        if (self.to is None) == (self.dest is None):
            raise PydanticCustomError("destination", "give to (a vCPU, next, random, others) or dest (the raw value)")
        return self

    def _lower(self, numbers: Numbers) -> dict[str, Any]:
        fields = super()._lower(numbers)
        to, dest = fields.pop("to"), fields.pop("dest")
        target: object = {"raw": dest} if dest is not None else {"vcpu": to} if isinstance(to, int) else to
        return fields | {"to": target}


class Send(_Targeted):
    """An IPI through the ICR."""

    op = "send"
    vector: Vector = Field(alias="send")
    mode: IpiMode = "fixed"
    logical: Flag = False


class Call(_Targeted):
    """Calls a function on other vCPUs as Linux does: an IPI is sent only where the queue of calls was empty."""

    op = "call"
    vector: LegalVector = Field(alias="call")


class Message(_Targeted):
    """Leaves a message; an idle reader gets an IPI."""

    op = "message"
    vector: LegalVector = Field(alias="message")


class Broadcast(_Statement):
    """An IPI with a shorthand: all but self, or all."""

    op = "broadcast"
    vector: Vector = Field(alias="broadcast")
    mode: IpiMode = "fixed"
    including_self: Flag = False


class SelfIpi(_Statement):
    """A self-IPI: MSR 83FH in x2APIC mode, the shorthand in xAPIC mode."""

    op = "self-ipi"
    vector: Vector = Field(alias="self")


class Compute(_Statement):
    """Computation of so many cycles."""

    op = "compute"
    cycles: Cycles = Field(alias="compute")


class Tpr(_Statement):
    """A write of the task-priority register."""

    op = "tpr"
    value: Vector = Field(alias="tpr")


class SwitchApic(_Statement):
    """Moves the local APIC to another mode through IA32_APIC_BASE, by legal steps."""

    op = "apic"
    mode: Apic | Literal["disabled"] = Field(alias="apic")


class WriteRegister(_Statement):
    """A write of a local-APIC register, by its page offset; in x2APIC mode of the MSR that it is."""

    op = "register"
    offset: Register = Field(alias="register")
    value: U32


class _Named(_Statement):
    field: ClassVar[str]

    def _lower(self, numbers: Numbers) -> dict[str, Any]:
        fields = super()._lower(numbers)
        return fields | {self.field: numbers(fields[self.field])}


class Signal(_Named):
    """Counts a signal of the guest's own."""

    op = field = "signal"
    signal: str


class Wait(_Named):
    """Spins until a signal was counted so often since this vCPU's last wait for it."""

    op = "wait"
    field = "signal"
    signal: str = Field(alias="wait")
    count: Annotated[int, Field(ge=1, le=2**32 - 1, strict=True)] = 1


class Lock(_Named):
    """Takes a spin lock."""

    op = field = "lock"
    lock: str


class Unlock(_Named):
    """Releases a spin lock."""

    op = "unlock"
    field = "lock"
    lock: str = Field(alias="unlock")


class Word(_Statement):
    """A statement of one word."""

    op = "word"
    word: Literal["hlt", "eoi", "cli", "sti", "receive", "answer", "await-calls", "poll"]

    def _lower(self, _: Numbers) -> dict[str, Any]:
        return {"op": self.word}


class Loop(_Statement):
    """Repeats its body, so often or "forever": until the run ends."""

    op = "loop"
    times: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] | Literal["forever"] = Field(alias="loop")
    body: "list[AnyStatement]" = Field(min_length=1)

    def _lower(self, numbers: Numbers) -> dict[str, Any]:
        times = None if self.times == "forever" else self.times
        return {"op": "loop", "times": times, "body": lowered(self.body, numbers)}


class Branch(Table):
    """One branch of a choice, and how often it is taken beside the others."""

    weight: Annotated[int, Field(ge=1, le=2**31, strict=True)] = 1
    body: "list[AnyStatement]" = Field(min_length=1)


class Choose(_Statement):
    """One of several branches at random."""

    op = "choose"
    branches: list[Branch] = Field(alias="choose", min_length=1)

    def _lower(self, numbers: Numbers) -> dict[str, Any]:
        branches = [{"weight": branch.weight, "body": lowered(branch.body, numbers)} for branch in self.branches]
        return {"op": "choose", "branches": branches}


_BY_KEY: dict[str, type[_Statement]] = {
    "send": Send,
    "call": Call,
    "message": Message,
    "broadcast": Broadcast,
    "self": SelfIpi,
    "compute": Compute,
    "tpr": Tpr,
    "apic": SwitchApic,
    "register": WriteRegister,
    "signal": Signal,
    "wait": Wait,
    "lock": Lock,
    "unlock": Unlock,
    "loop": Loop,
    "choose": Choose,
}
_WORD_NAMES = ["hlt", "eoi", "cli", "sti", "receive", "answer", "await-calls", "poll"]


def _statement(value: Any) -> _Statement:  # noqa: ANN401
    """From a file's value to a statement."""
    if isinstance(value, _Statement):
        return value
    if isinstance(value, str) and value in _WORD_NAMES:
        return Word(word=value)
    if isinstance(value, dict):
        for key in value:
            if key in _BY_KEY:
                return _BY_KEY[key].model_validate(value)
    known = [*_WORD_NAMES, *_BY_KEY]
    name = str(_meant_as_its_name(value, known) if isinstance(value, dict) else value if isinstance(value, str) else "")
    hint = did_you_mean(name, known) or f": it is one of {', '.join(known)}"
    raise PydanticCustomError("statement", "no statement {name}{hint}", {"name": repr(name or value), "hint": hint})


def _meant_as_its_name(table: dict[Any, Any], known: list[str]) -> object:
    """The key of a table that was to say what the statement does: one that no statement has further on."""
    fields = {field.alias or name for kind in _BY_KEY.values() for name, field in kind.model_fields.items()}
    unknown = [key for key in table if key not in fields] or list(table)
    return next((key for key in unknown if did_you_mean(str(key), known)), next(iter(unknown), ""))


AnyStatement = Annotated[_Statement, BeforeValidator(_statement)]
"""Any statement."""


def lowered(statements: Iterable[_Statement], numbers: Numbers) -> list[dict[str, Any]]:
    """Statements as the core reads them; `numbers` gives each name of a signal or a lock its number."""
    return [statement._lower(numbers) for statement in statements]  # noqa: SLF001 (a module's own)


Loop.model_rebuild()
Branch.model_rebuild()
Choose.model_rebuild()


def within(statements: Iterable[_Statement], path: Path_ = ()) -> Iterator[tuple[Path_, _Statement]]:
    """Every statement with its path in a file, those in loops and branches too."""
    for at, statement in enumerate(statements):
        here = (*path, at)
        yield here, statement
        if isinstance(statement, Loop):
            yield from within(statement.body, (*here, "body"))
        elif isinstance(statement, Choose):
            for number, branch in enumerate(statement.branches):
                yield from within(branch.body, (*here, "choose", number, "body"))


def targets(statements: Iterable[_Statement], path: Path_ = ()) -> Iterator[tuple[Path_, Target]]:
    """What statements have in `to`, those in loops and branches too, each with its path in a file."""
    for at, statement in within(statements, path):
        if isinstance(statement, _Targeted) and statement.to is not None:
            yield (*at, "to"), statement.to
