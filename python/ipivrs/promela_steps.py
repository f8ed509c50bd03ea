"""The steps of a policy's routines as Promela statements.

A step that reads or writes what others see becomes a `Transition`; what only its own actor can see is decided in the
same transition as the step before it. `follow` writes that part: everything from one step to the next that others see.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Step = dict[str, Any]
Condition = dict[str, Any]
Lines = list[str]
Owner = Literal["vcpu", "handler", "agent", "host"]

_PRIVATE = frozenset(
    {"same_pcpu", "ipiv", "device_posting", "self", "listed"}
    | {"old_on", "old_sn", "old_pir", "old_event", "new_on", "new_sn"}
)
_REMEMBERED = ("old_on", "old_sn", "new_on", "new_sn", "old_pir", "old_event")
_PRIVATE_ACTS = frozenset({"done", "cancel_block"})


@dataclass(frozen=True)
class Facts:
    """What is the same for everybody: terms that never change, the memory model, and the words of PIR that are used."""

    ipiv: bool
    device_posting: bool
    tso: bool
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Role:
    """Who runs a routine, and which words it is about.

    Attributes:
        name: Steps are called by it and their number.
        steps: The routine.
        owner: The kind of actor.
        index: Its number, a Promela expression.
        position: The variable that says which step is next.
        subject: The vCPU that the routine is about, a Promela expression.
        here: The actor's pCPU; None where it has none.
        end: The statement that takes the actor on after the last step.
        myself: What the term `self` says.
        cancels: `cancel_block` has a meaning here.
        calm: What must hold besides before each step, or "".
    """

    name: str
    steps: tuple[Step, ...]
    owner: Owner
    index: str
    position: str
    subject: str
    here: str | None
    end: str
    facts: Facts
    myself: bool = False
    cancels: bool = False
    calm: str = ""

    def place(self, at: int, part: str = "") -> str:
        """The constant that stands for a step."""
        return f"{self.name}_{at}{part}"

    def memory(self, register: str) -> str:
        """Where the actor remembers what an act found or wrote."""
        return f"{self.owner}_{register}[{self.index}]"

    def of(self, word: str) -> str:
        """A word of the subject."""
        return f"{word}[{self.subject}]"

    @property
    def remembers(self) -> list[str]:
        """What its conditions ask about acts before them."""
        asked = {term["term"] for step in self.steps if "if" in step for term in terms(step["if"])}
        return [register for register in _REMEMBERED if register in asked]


@dataclass(frozen=True)
class Transition:
    """One atomic step of an actor: when it can happen, and what then happens."""

    enabled: str
    effects: Lines
    comment: str
    optional: bool = False


def terms(condition: Condition) -> Iterator[Condition]:
    """The terms of a condition, left to right."""
    if "term" in condition:
        yield condition
    elif "not" in condition:
        yield from terms(condition["not"])
    else:
        for part in condition["and"] if "and" in condition else condition["or"]:
            yield from terms(part)


def described(step: Step) -> str:
    """A step's place in the policy and its words, fit for a comment."""
    return f"line {step['line']}: {printable(step['text'])}"


def printable(text: str) -> str:
    """A text that does not end the comment that it stands in."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")


def indented(lines: Iterable[str]) -> Lines:
    """One level further right."""
    return [f"  {line}" for line in lines]


def choice(condition: str, yes: Lines, no: Lines) -> Lines:
    """`if`, without the branches that a constant condition rules out."""
    if condition in {"true", "false"}:
        return yes if condition == "true" else no
    return ["if", f":: {condition} ->", *indented(yes or ["skip;"]), ":: else ->", *indented(no or ["skip;"]), "fi;"]


def is_private(step: Step) -> bool:
    """Nobody but the actor can see it."""
    if "if" in step:
        return all(term["term"] in _PRIVATE for term in terms(step["if"]))
    return "goto" in step or step.get("act") in _PRIVATE_ACTS


def follow(role: Role, at: int) -> Lines:
    """From before step `at` to before the next step that others can see, or through the routine's end."""
    if at >= len(role.steps):
        return [*(f"{role.memory(register)} = 0;" for register in role.remembers), role.end]
    step = role.steps[at]
    if not is_private(step):
        return [f"{role.position} = {role.place(at)};"]
    if "goto" in step:
        return follow(role, step["goto"])
    comment = f"/* {described(step)} */"
    if "if" in step:
        decided = choice(expression(role, step["if"]), follow(role, at + 1), follow(role, step["otherwise"]))
        return [comment, *decided]
    if step["act"] == "done":
        return [comment, *follow(role, len(role.steps))]
    cancelled = [f"{role.of('cancelled')} = 1;"] if role.cancels else []
    return [comment, *cancelled, *follow(role, at + 1)]


def expression(role: Role, condition: Condition) -> str:
    """A condition as a Promela expression; "true" or "false" where it is known already."""
    if "term" in condition:
        return _term(role, condition)
    if "not" in condition:
        inner = expression(role, condition["not"])
        return {"true": "false", "false": "true"}.get(inner, f"!({inner})")
    both = "and" in condition
    rules, neutral = ("false", "true") if both else ("true", "false")
    parts = [expression(role, part) for part in condition["and" if both else "or"]]
    if rules in parts:
        return rules
    parts = [part for part in parts if part != neutral]
    return (" && " if both else " || ").join(f"({part})" for part in parts) or neutral


def _term(role: Role, condition: Condition) -> str:
    term = condition["term"]
    constants = {"ipiv": role.facts.ipiv, "device_posting": role.facts.device_posting, "self": role.myself}
    if term in constants:
        return "true" if constants[term] else "false"
    if term in _REMEMBERED:
        return role.memory(term)
    if term == "nv":
        return f"{'' if condition['vector'] == 'wakeup' else '!'}{role.of('nv_wakeup')}"
    if term == "mode":
        return f"{'' if condition['mode'] == 'in_guest' else '!'}{_mode_seen(role)}"
    if term in {"ndst_here", "same_pcpu"}:
        word = role.of("ndst" if term == "ndst_here" else "cpu")
        return "false" if role.here is None else f"{word} == {role.here}"
    plain = {"on": "on", "sn": "sn", "event": "event", "blocking": "blocking"}
    return role.of(plain[term]) if term in plain else f"{role.of({'pir': 'pir', 'listed': 'list'}[term])} != 0"


def _mode_seen(role: Role) -> str:
    """`mode`; with store buffers, what those on the vCPU's own pCPU see is the newest buffered store."""
    if role.facts.tso and role.owner == "vcpu":
        return f"mode_of_own({role.subject})"
    if role.facts.tso and role.owner == "handler":
        return f"mode_on({role.subject}, {role.here})"
    return role.of("mode")


def transitions(role: Role) -> list[Transition]:
    """The routine's steps that others can see. A step in two halves has two."""
    return [part for at, step in enumerate(role.steps) if not is_private(step) for part in _parts(role, at, step)]


def _parts(role: Role, at: int, step: Step) -> list[Transition]:
    comment = described(step)
    if "if" in step:
        decided = choice(expression(role, step["if"]), follow(role, at + 1), follow(role, step["otherwise"]))
        return [_transition(role, role.place(at), decided, comment)]
    if "next_listed" in step:
        return [_transition(role, role.place(at), _next_listed(role, at, step["otherwise"]), comment)]
    if step["act"] == "harvest" and role.owner == "vcpu":
        return _harvests(role, at, comment)
    if step["act"] == "inhibit":
        wait = role.place(at, "_wait")
        return [
            _transition(role, role.place(at), ["inhibit();", f"{role.position} = {wait};"], comment),
            _transition(role, wait, follow(role, at + 1), f"{comment}: all have seen it", "no_sender_asked"),
        ]
    # After stop the thread is at STOPPED, and the routine's end must not take it anywhere else.
    goes_on = [] if step["act"] == "stop" else follow(role, at + 1)
    effects = _EFFECTS[step["act"]](role, step)
    if step["act"] != "mode":
        effects = _drained(role, effects)
    return [_transition(role, role.place(at), [*effects, *goes_on], comment, _not_locked(role, step["act"]))]


def places(role: Role) -> Lines:
    """The constants that `transitions` needs, in the order of the routine."""
    return [place for at, step in enumerate(role.steps) if not is_private(step) for place in _places(role, at, step)]


def _places(role: Role, at: int, step: Step) -> Lines:
    parts = [""]
    if step.get("act") == "inhibit":
        parts.append("_wait")
    if step.get("act") == "harvest" and role.owner == "vcpu":
        parts += [f"_{group.lower()}" for group in role.facts.groups[1:]]
    return [role.place(at, part) for part in parts]


def _harvests(role: Role, at: int, comment: str) -> list[Transition]:
    """A transition for each word of PIR that is used."""
    here = _places(role, at, role.steps[at])
    behind = [[f"{role.position} = {place};"] for place in here[1:]] + [follow(role, at + 1)]
    return [
        _transition(role, place, _drained(role, [f"harvest({role.subject}, {group});", *then]), f"{comment}, {group}")
        for place, group, then in zip(here, role.facts.groups, behind, strict=True)
    ]


def _transition(role: Role, place: str, effects: Lines, comment: str, guard: str = "") -> Transition:
    enabled = " && ".join(part for part in (f"{role.position} == {place}", role.calm, guard) if part)
    return Transition(enabled, effects, comment)


def _drained(role: Role, effects: Lines) -> Lines:
    """The thread's store buffer is empty before an act that is more than a plain store."""
    return [f"drain({role.index});", *effects] if role.facts.tso and role.owner == "vcpu" else effects


def _not_locked(role: Role, act: str) -> str:
    if act == "list_add":
        return f"!locked[{role.here}]"
    return f"list_free({role.subject})" if act == "list_del" else ""


def _next_listed(role: Role, at: int, otherwise: int) -> Lines:
    """The list is locked from the first look to the one that finds nobody."""
    pcpu, who = role.here, role.subject
    return [
        f"{who} = (locked[{pcpu}] -> {who} + 1 : 0);",
        "do",
        f":: {who} < VCPUS && list[{who}] != {pcpu} + 1 -> {who}++;",
        ":: else -> break;",
        "od;",
        *choice(
            f"{who} < VCPUS",
            [f"locked[{pcpu}] = 1;", *follow(role, at + 1)],
            [f"locked[{pcpu}] = 0;", f"{who} = 0;", *follow(role, otherwise)],
        ),
    ]


def _control(role: Role, **changes: str) -> Lines:
    """One atomic change of the control word; what it found and what it wrote are remembered where somebody asks."""
    asked = role.remembers
    fields = {"on": role.of("on"), "sn": role.of("sn")}
    found = [f"{role.memory(f'old_{name}')} = {word};" for name, word in fields.items() if f"old_{name}" in asked]
    wrote = [f"{role.memory(f'new_{name}')} = {word};" for name, word in fields.items() if f"new_{name}" in asked]
    return [*found, *(f"{role.of(name)} = {value};" for name, value in changes.items()), *wrote]


def _any_control(role: Role, step: Step) -> Lines:
    changes = {name: str(int(step[name])) for name in ("sn", "on") if step[name] is not None}
    if step["nv"] is not None:
        changes["nv_wakeup"] = str(int(step["nv"] == "wakeup"))
    if step["ndst_here"] and role.here is not None:
        changes["ndst"] = role.here
    return _control(role, **changes)


def _set_event(role: Role, value: int) -> Lines:
    found = [f"{role.memory('old_event')} = {role.of('event')};"] if "old_event" in role.remembers else []
    return [*found, f"{role.of('event')} = {value};"]


def _set_pir(role: Role, _step: Step) -> Lines:
    """An agent posts its own vector."""
    pir, vector = role.of("pir"), role.index
    found = [f"{role.memory('old_pir')} = ({pir} >> {vector}) & 1;"] if "old_pir" in role.remembers else []
    return [*found, f"{pir} = {pir} | (1 << {vector});", f"sent = sent | (1 << {vector});", f"posted[{vector}] = 1;"]


def _pending(pcpu: str | None, step: Step) -> str:
    return f"pending[{pcpu}] = pending[{pcpu}] | {step['vector'].upper()};"


def _mode(role: Role, step: Step) -> Lines:
    value = int(step["mode"] == "in_guest")
    if role.facts.tso and role.owner == "vcpu":
        return [f"store_mode({role.index}, {value});"]
    return [f"{role.of('mode')} = {value};"]


def _store_entry(_role: Role, step: Step) -> Lines:
    halves = ("low", "high") if step["half"] == "both" else (step["half"],)
    return [f"entry_{half} = 1;" for half in halves]


_EFFECTS: dict[str, Callable[[Role, Step], Lines]] = {
    "set_on": lambda role, _: _control(role, on="1"),
    "clear_on": lambda role, _: _control(role, on="0"),
    "set_sn": lambda role, _: _control(role, sn="1"),
    "clear_sn": lambda role, _: _control(role, sn="0"),
    "control": _any_control,
    "set_pir": _set_pir,
    "harvest": lambda _role, _step: [],
    "fence": lambda _role, _step: [],
    "list_add": lambda role, _: [f"list_add({role.subject}, {role.here});"],
    "list_del": lambda role, _: [f"{role.of('list')} = 0;"],
    "self_ipi": lambda role, step: [_pending(role.here, step)],
    "ipi": lambda role, step: [_pending(role.of("cpu"), step)],
    "wake": lambda role, _: [f"wake({role.subject});"],
    "set_event": lambda role, _: _set_event(role, 1),
    "clear_event": lambda role, _: _set_event(role, 0),
    "stop": lambda role, _: [f"stop({role.subject});"],
    "mode": _mode,
    "store_entry": _store_entry,
}
