"""A policy with its surroundings as a model for SPIN: a second opinion on what `ipivrs check` says.

The model has a process for each actor: each vCPU's thread, each pCPU's interrupt handlers, each agent that posts, the
host actor, and each store buffer. An actor is a loop over `d_step`s; each is one transition, and its first line says
where the actor must be and what else must hold. All is global; processes have no state of their own but their number.

Safety. What must never happen in a transition is an assertion in it, and `init` goes on as a monitor for what must
never be seen in a state. Assertions are on variables that are always 0, named after the property: pan prints
"assertion violated never_lost_wakeup". pan searches breadth first: the way that it shows is a shortest one.

Quiet states. Optional transitions (preemption, migration, exits, HLT, the beginning of a post) may never happen again,
so SPIN's own notion of an invalid end state does not fit. `quiet` is written out instead: it denies the guards of all
transitions that are not optional, and is made from the very guards that stand in the processes. The monitor looks at
PIR, VIRR and places in quiet states.

Livelock. A second run, with -DLIVELOCK, has no monitor and a never claim instead, which accepts a cycle through states
with something in PIR or VIRR; pan looks for one under weak fairness (-f), which is fairness to each actor. Budgets are
not spent on a cycle, HLT may be part of it. An actor that could only take an optional transition must not be made to by
fairness: it idles. No agent moves on a cycle, for its posts are counted, and one that could move would have to: the
claim waits until none can, which saves most of the search.

What the states leave out because nothing depends on it: whether a vCPU was woken, and that the guest has written its
ID. A fence, and a look at a word that nobody else changes, are transitions here though nothing depends on that either.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from ipivrs.bounds import Bounds
from ipivrs.promela_actors import (
    THREAD_ROUTINES,
    Laboratory,
    device,
    handlers,
    host_actor,
    sender,
    software,
    software_begins,
    store_buffer,
    vcpu,
)
from ipivrs.promela_inlines import inlines
from ipivrs.promela_steps import Lines, Transition, described, indented, places, printable

PROPERTIES = (
    "lost-interrupt",
    "lost-wakeup",
    "deadlock",
    "wild-post",
    "misdelivery",
    "escape",
    "two-lists",
    "sn-while-blocked",
    "unsent",
    "unposted",
)
"""What has an assertion each. Livelock is found by a run of its own."""

SAFETY_OPTIONS = ("-DSAFETY", "-DBFS", "-DNOREDUCE", "-DNOBOUNDCHECK")
"""How pan is compiled for the run that looks for all but livelock."""
LIVELOCK_OPTIONS = ("-DNOREDUCE", "-DNOBOUNDCHECK", "-DNFAIR=7")
"""How it is compiled for livelock; spin gets -DLIVELOCK, and pan -a -f."""

_VCPU_PLACES = ("QUEUED", "ASLEEP", "STOPPED", "GUEST", "CLEAR_ON", "HARVEST_0", "HARVEST_1", "LIE_DOWN")
_IRQ_ON_PLACES = ("ROOT", "SET_TASK", "SET_RUNNING", "SCHEDULE")
_EXITS = ("EXIT_TO_ROOT", "EXIT_NOTIFY", "EXIT_WAKEUP", "EXIT_HLT", "EXIT_PREEMPTED")
_AGENT_PLACES = ("IDLE", "POST", "NOTIFICATION", "DELIVER")
_HOST_PLACES = ("DONE", "INHIBIT", "INHIBIT_WAIT", "WRITE_ID")


# The acts that only some routines can have: posting is for who posts, giving up for the vCPU's own thread, lists are
# those of the pCPU that the vCPU runs on, and agents and the host actor are on no pCPU of the model.
_THREAD = {routine for routine, _ in THREAD_ROUTINES.values()}
_ON_ITS_PCPU = {*_THREAD, "on_notify"}
_ON_A_PCPU = {*_ON_ITS_PCPU, "on_wakeup"}
_ONLY_IN = {
    "set_pir": {"software_post"},
    "stop": _THREAD,
    **dict.fromkeys(("harvest", "list_add", "list_del"), _ON_ITS_PCPU),
    **dict.fromkeys(("self_ipi", "ndst=here"), _ON_A_PCPU),
    "for_listed": {"on_wakeup"},
}
# refresh_apicv is about a sender, of which there is nothing but its controls.
_CONTROLS = {"ipiv_off", "intercept_icr", "done", ""}


def export(program: dict[str, Any], bounds: Bounds) -> str:
    """The Promela model of a policy within bounds.

    Args:
        program: What `_core.policy_steps` says, loaded.
        bounds: Who takes part, and how often.

    Raises:
        ValueError: The policy lacks a routine that the bounds ask for, or has steps where they have no meaning.
    """
    lab = Laboratory(program, bounds)
    _refuse_missing(lab)
    _refuse_strange(lab)
    processes = list(_processes(lab))
    parts = [
        _heading(lab),
        _listing(lab),
        _constants(lab),
        _variables(lab),
        _macros(lab),
        inlines(lab),
        *(process.text() for process in processes),
        _monitor(lab, processes),
        _claim(processes),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _refuse_missing(lab: Laboratory) -> None:
    bounds = lab.bounds
    needed = {
        "software_post": bounds.software > 0,
        "publish": bounds.publish,
        "refresh_apicv": lab.intercepts,
        "set_apic_id": bounds.rewrite_id,
    }
    for name, is_needed in needed.items():
        if is_needed and name not in lab.program["routines"]:
            raise ValueError(f"the policy has no routine {name}, which these bounds ask for")


def _refuse_strange(lab: Laboratory) -> None:
    """What has no meaning where it stands: the model would have to make one up."""
    for name in lab.program["routines"]:
        behind = 0
        for at, step in enumerate(lab.steps(name)):
            what = "for_listed" if "next_listed" in step else step.get("act", "")
            what = "ndst=here" if step.get("ndst_here") else what
            nested = what == "for_listed" and at < behind
            if nested or name not in _ONLY_IN.get(what, {name}) or (name == "refresh_apicv" and what not in _CONTROLS):
                where = "inside for_listed" if nested else f"in {name}"
                raise ValueError(f"line {step['line']}: there can be no {step['text']!r} {where}")
            behind = step["otherwise"] if what == "for_listed" else behind


# What stands above the processes.


def _heading(lab: Laboratory) -> Lines:
    bounds = " ".join(f"{bound.name}={getattr(lab.bounds, bound.name)}" for bound in fields(lab.bounds))
    return [
        "/*",
        f" * Policy: {printable(lab.program['name'])}",
        f" * Source: {printable(lab.program.get('source', ''))}",
        f" * Bounds: {bounds}",
        " *",
        " * A model for SPIN 6.5, written by ipivrs. Put it into model.pml. What must never happen:",
        " *   spin -a model.pml",
        f" *   cc -O2 {' '.join(SAFETY_OPTIONS)} -o pan pan.c && ./pan -E -m1000000",
        " * Then livelock:",
        " *   spin -a -DLIVELOCK model.pml",
        f" *   cc -O2 {' '.join(LIVELOCK_OPTIONS)} -o pan pan.c && ./pan -a -f -m1000000",
        " * A property that breaks is named by its assertion, and spin -t -p -g model.pml shows the way there.",
        ' * The proof holds if pan has "errors: 0" and does not say that its search depth was too small.',
        " */",
    ]


def _listing(lab: Laboratory) -> Lines:
    """The policy, its steps numbered as they are below."""
    lines = ["/* The policy's steps:"]
    for name, steps in lab.program["routines"].items():
        lines.append(f" * {name}:")
        for at, step in enumerate(steps):
            jump = f"   [else {step['otherwise']}]" if "otherwise" in step else ""
            jump = f"   [to {step['goto']}]" if "goto" in step else jump
            lines.append(f" *   {at:2} {described(step)}{jump}")
    return [*lines, " */"]


def _constants(lab: Laboratory) -> Lines:
    bounds = lab.bounds
    numbers = {
        "VCPUS": bounds.vcpus,
        "PCPUS": bounds.pcpus,
        "AGENTS": bounds.agents,
        "WAKEUP": 1,
        "NOTIFY": 2,
        "RESCHED": 4,
        "GROUP_0": (1 << bounds.senders) - 1,
        "GROUP_1": (1 << bounds.agents) - (1 << bounds.senders),
    }
    lines = [f"#define {name} {value}" for name, value in numbers.items()]
    for table in (_places(lab), {"Where it goes on behind after_exit.": _numbered(_EXITS)}):
        for comment, numbered in table.items():
            lines += [f"/* {comment} */", *(f"#define {name} {value}" for name, value in numbered.items())]
    return lines


def _places(lab: Laboratory) -> dict[str, dict[str, int]]:
    """Where each kind of actor can be. Places with host interrupts on come last."""
    named: dict[str, Lines] = {"vcpu": [], "handler": [], "agent": [], "host": [], "irq_on": []}
    for role in lab.roles():
        irq_on = role.owner == "vcpu" and role.calm
        named["irq_on" if irq_on else role.owner] += places(role)
    agent = _numbered([*_AGENT_PLACES, *named["agent"]])
    if lab.bounds.software and (first := software_begins(lab)):
        # To be between two posts and to be at the first step of one are the same.
        agent[first] = agent["IDLE"]
    return {
        "Places of a vCPU's thread.": _numbered([*_VCPU_PLACES, *named["vcpu"], *_IRQ_ON_PLACES, *named["irq_on"]]),
        "Places of a pCPU's handlers.": _numbered(["NO_HANDLER", *named["handler"]]),
        "Places of an agent.": agent,
        "Places of the host actor.": _numbered([*_HOST_PLACES, *named["host"]]),
    }


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _variables(lab: Laboratory) -> Lines:
    """Everything that changes. What no bound and no step of the policy touches is left out."""
    bounds = lab.bounds
    most = max(number for numbered in _places(lab).values() for number in numbered.values())
    position = "byte" if most < 1 << 8 else "short"
    lines = [
        "/* vCPUs. */",
        f"{position} place[VCPUS];",
        "byte pir[VCPUS], virr[VCPUS], ndst[VCPUS], cpu[VCPUS], at[VCPUS], list[VCPUS], why[VCPUS];",
        "bool on[VCPUS], sn[VCPUS], nv_wakeup[VCPUS], mode[VCPUS];",
        "bool interruptible[VCPUS], blocking[VCPUS], cancelled[VCPUS];",
        *(["bool event[VCPUS];"] if _has_events(lab) else []),
        *(["bool vcpu_asked[VCPUS], apicv_off[VCPUS];"] if lab.refreshes else []),
        *(["byte buffered[VCPUS];", "bool older[VCPUS], newest[VCPUS];"] if lab.facts.tso else []),
        "/* pCPUs. */",
        f"{position} handler[PCPUS];",
        "byte pending[PCPUS], current[PCPUS], subject[PCPUS];",
        "bool locked[PCPUS];",
        "/* Agents. */",
        f"{position} agent[AGENTS];",
        "byte left[AGENTS], flight[AGENTS];",
        *(["bool asked[AGENTS], ipiv_off[AGENTS], icr_intercepted[AGENTS];"] if lab.refreshes else []),
        "byte sent;",
        *(["bool posted[AGENTS];"] if bounds.software or lab.intercepts else []),
        "/* Budgets, and the host actor. */",
        f"byte preemptions = {bounds.preemptions}, migrations = {bounds.migrations}, exits = {bounds.exits};",
        *([f"{position} host;"] if lab.phases else []),
        *(["bool entry_low, entry_high;"] if bounds.publish else []),
        *(["bool write_complete;"] if bounds.rewrite_id else []),
    ]
    remembered = dict.fromkeys(role.memory(name) for role in lab.roles() for name in role.remembers)
    sizes = {"v": "VCPUS", "p": "PCPUS", "i": "AGENTS", "0": "1"}
    for memory in remembered:
        name, _, index = memory.rstrip("]").partition("[")
        lines.append(f"bool {name}[{sizes[index]}];")
    return [
        *lines,
        "/* Always 0: what is said of them is never true. */",
        *(f"bool {_never(name)};" for name in [*PROPERTIES, "reached"]),
    ]


def _never(name: str) -> str:
    return f"never_{name.replace('-', '_')}"


def _has_events(lab: Laboratory) -> bool:
    return any("event" in str(step) for steps in lab.program["routines"].values() for step in steps)


def _macros(lab: Laboratory) -> Lines:
    vectors = sum(1 << agent for agent in range(0, 8, lab.bounds.vcpus))
    senders = " && ".join(f"!asked[{sender}]" for sender in range(lab.bounds.senders)) or "true"
    lines = [
        "#define irq_on(p) ((p) >= ROOT)",
        "#define free(p) (current[p] == 0 && handler[p] == NO_HANDLER)",
        "#define calm(v) (handler[at[v]] == NO_HANDLER)",
        "#define target(i) ((i) % VCPUS)",
        f"#define vectors_of(v) (({vectors} << (v)) & 255)",
        "#define list_free(v) (list[v] == 0 || !locked[list[v] - 1])",
    ]
    if lab.refreshes:
        lines.append(f"#define no_sender_asked ({senders})")
    if lab.facts.tso:
        lines += [
            "#define mode_of_own(v) (buffered[v] > 0 -> newest[v] : mode[v])",
            "#define mode_on(v, p) ((current[p] == (v) + 1 && buffered[v] > 0) -> newest[v] : mode[v])",
        ]
    return lines


# Processes.


@dataclass(frozen=True)
class _Process:
    """A kind of actor, and the numbers of those that take part."""

    name: str
    parameter: str
    comment: str
    numbers: range
    transitions: list[Transition]

    def text(self) -> Lines:
        """The macro that says whether it must go on sooner or later, and the process."""
        must = [transition.enabled for transition in self.transitions if not transition.optional]
        guards = [f"  ({guard})" for guard in must or ["false"]]
        parameter = f"byte {self.parameter}" if self.parameter else ""
        loop = [line for transition in self.transitions for line in _option(transition)]
        return [
            f"/* {self.comment} */",
            f"#define can_{self.name}({self.parameter or '_'}) ( \\",
            *(f"{guard} || \\" for guard in guards[:-1]),
            f"{guards[-1]} )",
            f"proctype {self.name}({parameter}) {{",
            "end:",
            "do",
            *loop,
            *self.idles(),
            "od",
            "}",
        ]

    def idles(self) -> Lines:
        """Where nothing but optional transitions may be left, fairness must not make one happen."""
        where = {
            "vcpu": "place[v] == GUEST && pending[at[v]] == 0",
            "sender": "agent[i] == IDLE",
            "device": "agent[i] == IDLE",
            "software": "agent[i] == IDLE",
        }
        if self.name not in where:
            return []
        idle = Transition(f"{where[self.name]} && !can_{self.name}({self.parameter})", ["skip;"], "idle")
        return ["#ifdef LIVELOCK", *_option(idle), "#endif"]


def _option(transition: Transition) -> Lines:
    comment = f"{transition.comment}{' (optional)' if transition.optional else ''}"
    inner = [f"{transition.enabled} ->", *transition.effects]
    return [f":: d_step {{ /* {comment} */", *(f"   {line}" for line in indented(inner)), "   }"]


def _processes(lab: Laboratory) -> Iterable[_Process]:
    bounds = lab.bounds
    first_device, first_software = bounds.senders, bounds.senders + bounds.devices
    kinds: list[tuple[str, str, str, range, Callable[[Laboratory], list[Transition]]]] = [
        ("vcpu", "v", "The thread of a vCPU.", range(bounds.vcpus), vcpu),
        ("handlers", "p", "The interrupt handlers of a pCPU.", range(bounds.pcpus), handlers),
        ("sender", "i", "Another vCPU of the VM, which sends IPIs.", range(first_device), sender),
        ("device", "i", "A device that posts.", range(first_device, first_software), device),
        ("software", "i", "A thread of the hypervisor that posts.", range(first_software, bounds.agents), software),
        ("host_actor", "", "The host: table, APICv, xAPIC ID.", range(1 if lab.phases else 0), host_actor),
        ("store_buffer", "v", "A store buffer.", range(bounds.vcpus if lab.facts.tso else 0), store_buffer),
    ]
    for name, parameter, comment, numbers, made in kinds:
        does = made(lab) if numbers else []
        if does:
            yield _Process(name, parameter, comment, numbers, does)


def _monitor(lab: Laboratory, processes: list[_Process]) -> Lines:
    """What is looked at in every state, in the process that starts the others."""
    bounds = lab.bounds
    everybody = [_can(process, number) for process in processes for number in process.numbers]
    waiting = [f"(pir[{v}] | virr[{v}]) != 0" for v in range(bounds.vcpus)]
    at_rest = [f"(place[{v}] == GUEST || place[{v}] == ASLEEP || place[{v}] == STOPPED)" for v in range(bounds.vcpus)]
    at_rest += [f"handler[{p}] == NO_HANDLER" for p in range(bounds.pcpus)]
    at_rest += [f"agent[{i}] == IDLE" for i in range(bounds.agents)]
    at_rest += ["host == DONE"] if lab.phases else []
    asleep = " || ".join(f"(place[{v}] == ASLEEP && {one})" for v, one in enumerate(waiting))
    started = [
        f"run {process.name}({number if process.parameter else ''});"
        for process in processes
        for number in process.numbers
    ]
    return [
        f"#define quiet (!({' || '.join(everybody)}))",
        f"#define something_waits ({' || '.join(waiting)})",
        f"#define a_sleeper_waits ({asleep})",
        f"#define all_at_rest ({' && '.join(at_rest)})",
        "init {",
        "  atomic {",
        *(f"    cpu[{v}] = {v}; ndst[{v}] = {v}; sn[{v}] = 1;" for v in range(bounds.vcpus)),
        *(f"    left[{i}] = {bounds.posts};" for i in range(bounds.agents)),
        *(["    begin_host();"] if lab.phases else []),
        *(f"    {start}" for start in started),
        "  }",
        "#ifndef LIVELOCK",
        "end:",
        "  do",
        *(
            f"  :: d_step {{ place[{v}] == ASLEEP && sn[{v}] -> assert({_never('sn-while-blocked')}); }}"
            for v in range(bounds.vcpus)
        ),
        f"  :: d_step {{ a_sleeper_waits && quiet -> assert({_never('lost-wakeup')}); }}",
        f"  :: d_step {{ something_waits && !a_sleeper_waits && quiet -> assert({_never('lost-interrupt')}); }}",
        f"  :: d_step {{ !something_waits && !all_at_rest && quiet -> assert({_never('deadlock')}); }}",
        "  od",
        "#endif",
        "}",
    ]


def _claim(processes: list[_Process]) -> Lines:
    """Livelock. On a cycle no agent moves and none could."""
    agents = ("sender", "device", "software", "host_actor")
    moving = [_can(process, number) for process in processes if process.name in agents for number in process.numbers]
    return [
        "#ifdef LIVELOCK",
        f"#define waits_for_ever (something_waits{''.join(f' && !{can}' for can in moving)})",
        "never { /* from some time on, something waits in every state */",
        "  do",
        "  :: true",
        "  :: waits_for_ever -> break",
        "  od;",
        "accept:",
        "  do",
        "  :: waits_for_ever",
        "  od",
        "}",
        "#endif",
    ]


def _can(process: _Process, number: int) -> str:
    """The condition that an actor must go on sooner or later."""
    return f"can_{process.name}({number})"
