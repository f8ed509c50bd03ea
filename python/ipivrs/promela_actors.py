"""What the actors of the protocol laboratory do, as transitions of a Promela model.

The vCPU's thread, the host's handlers, the agents and the host actor are the same for every policy; the routines of the
policy are what happens between. A routine begins by an inline `begin_...` and ends by an inline `end_...`, which says
where its actor goes on; both happen within the transition that leads to them.
"""

from dataclasses import dataclass, replace
from typing import Any

from ipivrs.bounds import Bounds
from ipivrs.promela_steps import (
    Facts,
    Lines,
    Owner,
    Role,
    Step,
    Transition,
    choice,
    described,
    expression,
    follow,
    places,
    transitions,
)

# Each run of a routine by the vCPU's thread: its name, the routine, and whether host interrupts are on.
THREAD_ROUTINES = {
    "load": ("load", False),
    "before_entry": ("before_entry", False),
    "after_exit": ("after_exit", False),
    "pre_block": ("pre_block", False),
    "post_block": ("post_block", False),
    "put_blocking": ("put_blocking", False),
    "put_preempted": ("put_preempted", False),
    "check_1": ("block_check", True),
    "check_2": ("block_check", True),
}


@dataclass(frozen=True)
class Laboratory:
    """A policy, and who takes part."""

    program: dict[str, Any]
    bounds: Bounds

    @property
    def facts(self) -> Facts:
        """What never changes."""
        bounds = self.bounds
        groups = {"GROUP_0": bounds.senders > 0, "GROUP_1": bounds.devices + bounds.software > 0}
        used = tuple(name for name, is_used in groups.items() if is_used)
        return Facts(bounds.ipiv, bounds.devices > 0, bounds.memory_model == "tso", used)

    @property
    def refreshes(self) -> bool:
        """Whether vCPUs are asked to look at APICv's controls again."""
        return self.bounds.inhibit or self.bounds.rewrite_id

    @property
    def intercepts(self) -> bool:
        """Whether there are senders whose IPIs may exit one day."""
        return self.refreshes and self.bounds.senders > 0

    @property
    def phases(self) -> list[str]:
        """What the host actor does, in this order."""
        bounds = self.bounds
        asked = {"publish": bounds.publish, "inhibit": bounds.inhibit, "set_apic_id": bounds.rewrite_id}
        return [name for name, is_asked in asked.items() if is_asked]

    def steps(self, routine: str) -> tuple[Step, ...]:
        """A routine; no steps where the policy does nothing."""
        return tuple(self.program["routines"].get(routine, ()))

    def thread(self, name: str) -> Role:
        """A routine of the vCPU's thread; a handler on its pCPU holds it up where host interrupts are on."""
        routine, irq_on = THREAD_ROUTINES[name]
        cancels = name in {"pre_block", "post_block"}
        calm = "calm(v)" if irq_on else ""
        return self._role("vcpu", name, routine, f"end_{name}(v);", myself=True, cancels=cancels, calm=calm)

    def handler(self, name: str) -> Role:
        """`on_notify` is about the vCPU that the pCPU runs, `on_wakeup` about any."""
        return self._role("handler", name, name, "end_handler(p);", myself=name == "on_notify")

    def software_post(self, name: str) -> Role:
        """The hypervisor posts: in a thread of its own ("software"), or for an IPI that exits ("intercepted")."""
        return self._role("agent", name, "software_post", "end_software_post(i);", calm="left[i] > 0")

    def refresh(self) -> Role:
        """A sender takes over APICv's controls."""
        return self._role("agent", "refresh_apicv", "refresh_apicv", "skip;")

    def host(self, name: str) -> Role:
        """The host's routine about vCPU 0."""
        return self._role("host", name, name, f"end_{name}();")

    def _role(self, owner: Owner, name: str, routine: str, end: str, **others: Any) -> Role:  # noqa: ANN401
        about: dict[Owner, dict[str, Any]] = {
            "vcpu": {"index": "v", "position": "place[v]", "subject": "v", "here": "at[v]"},
            "handler": {"index": "p", "position": "handler[p]", "subject": "subject[p]", "here": "p"},
            "agent": {"index": "i", "position": "agent[i]", "subject": "target(i)", "here": None},
            "host": {"index": "0", "position": "host", "subject": "0", "here": None},
        }
        return Role(name, self.steps(routine), owner, end=end, facts=self.facts, **about[owner], **others)

    def roles(self) -> list[Role]:
        """Everybody who runs a routine step by step."""
        found = [self.thread(name) for name in THREAD_ROUTINES]
        found += [self.handler(name) for name in ("on_notify", "on_wakeup")]
        found += [self.software_post("software")] * (self.bounds.software > 0)
        found += [self.software_post("intercepted")] * self.intercepts
        return found + [self.host(name) for name in self.phases if name != "inhibit"]

    def drained(self, *effects: str) -> Lines:
        """Effects of the vCPU's thread that find its store buffer empty."""
        return [*(["drain(v);"] if self.facts.tso else []), *effects]


# The vCPU's thread.


def vcpu(lab: Laboratory) -> list[Transition]:
    """All that a vCPU's thread does."""
    steps = {name: transitions(lab.thread(name)) for name in THREAD_ROUTINES}
    set_task = lab.drained("interruptible[v] = 1;", "begin_check_2(v);")
    set_running = lab.drained("interruptible[v] = 0;", "begin_post_block(v);")
    lie_down = lab.drained("leave(v);", "place[v] = (interruptible[v] -> ASLEEP : QUEUED);")
    return [
        *(load for pcpu in range(lab.bounds.pcpus) for load in _loads(lab, pcpu)),
        *steps["load"],
        _at("ROOT && calm(v)", "enter", _enter(lab)),
        _preempt("ROOT && calm(v)", "begin_put_preempted(v);"),
        *steps["before_entry"],
        *_guest(lab),
        *steps["after_exit"],
        *steps["check_1"],
        *steps["pre_block"],
        _at("SET_TASK && calm(v)", "task := interruptible", set_task),
        *steps["check_2"],
        _at("SET_RUNNING && calm(v)", "task := running", set_running),
        _at("SCHEDULE && calm(v)", "sleep", ["begin_put_blocking(v);"]),
        _preempt("SCHEDULE && calm(v)", "begin_put_preempted(v);"),
        *steps["put_blocking"],
        _at("LIE_DOWN", "lie down", lie_down),
        *steps["put_preempted"],
        *steps["post_block"],
    ]


def _at(where: str, comment: str, effects: Lines, *, optional: bool = False) -> Transition:
    return Transition(f"place[v] == {where}", effects, comment, optional)


def _loads(lab: Laboratory, pcpu: int) -> list[Transition]:
    """The pCPU it ran on last, if that is free; else any; any other one as a migration."""
    effects = [f"current[{pcpu}] = v + 1;", f"at[v] = {pcpu};", "begin_load(v);"]
    where = f"QUEUED && free({pcpu}) && "
    found = [_at(f"{where}(cpu[v] == {pcpu} || !free(cpu[v]))", f"load on {pcpu}", effects)]
    if lab.bounds.pcpus > 1 and lab.bounds.migrations:
        other = f"{where}cpu[v] != {pcpu} && migrations > 0"
        found.append(_at(other, f"migrate to {pcpu}", ["migrations--;", *effects], optional=True))
    return found


def _preempt(where: str, then: str) -> Transition:
    return _at(f"{where} && preemptions > 0", "preempt", ["preemptions--;", then], optional=True)


def _enter(lab: Laboratory) -> Lines:
    asked = choice("vcpu_asked[v]", ["vcpu_asked[v] = 0;", "apicv_off[v] = 1;"], []) if lab.refreshes else []
    return [*asked, "begin_before_entry(v);"]


def _guest(lab: Laboratory) -> list[Transition]:
    return [
        _at("GUEST && pending[at[v]] != 0", "take an interrupt", _take(lab)),
        _at("GUEST", "hlt", ["begin_after_exit(v, EXIT_HLT);"], optional=True),
        _at("GUEST && exits > 0", "exit", ["exits--;", "begin_after_exit(v, EXIT_TO_ROOT);"], optional=True),
        _preempt("GUEST", "begin_after_exit(v, EXIT_PREEMPTED);"),
        *_notified(lab),
    ]


def _notified(lab: Laboratory) -> list[Transition]:
    """Notification processing: ON, then PIR word by word, then delivery."""
    groups = lab.facts.groups
    behind = [f"HARVEST_{number}" for number in range(len(groups))]
    found = [_at("CLEAR_ON", "notification: clear ON", lab.drained("on[v] = 0;", f"place[v] = {behind[0]};"))]
    for place, then, group in zip(behind, [*behind[1:], "GUEST"], groups, strict=True):
        effects = [f"harvest(v, {group});", f"place[v] = {then};", *(["deliver(v);"] if then == "GUEST" else [])]
        found.append(_at(place, f"notification: {group}", effects))
    return found


def _take(lab: Laboratory) -> Lines:
    """The highest pending interrupt: processed in the guest, or by an exit and a handler."""
    pending = "pending[at[v]]"
    by_exit = ["begin_after_exit(v, EXIT_NOTIFY);"]
    notify = choice("apicv_off[v]" if lab.refreshes else "false", by_exit, ["place[v] = CLEAR_ON;"])
    wakeup = [f"{pending} = 0;", "begin_after_exit(v, EXIT_WAKEUP);"]
    resched = [f"{pending} = {pending} - RESCHED;", "begin_after_exit(v, EXIT_TO_ROOT);"]
    rest = choice(f"{pending} >= NOTIFY", [f"{pending} = {pending} - NOTIFY;", *notify], wakeup)
    return choice(f"{pending} >= RESCHED", resched, rest) if lab.refreshes else rest


# The handlers of a pCPU.


def handlers(lab: Laboratory) -> list[Transition]:
    """An interrupt is taken, and its handler's routine runs."""
    notify = ["pending[p] = pending[p] - NOTIFY;", "begin_on_notify(p);"]
    rest = choice("pending[p] >= NOTIFY", notify, ["pending[p] = 0;", "begin_on_wakeup(p);"])
    effects = choice("pending[p] >= RESCHED", ["pending[p] = pending[p] - RESCHED;"], rest) if lab.refreshes else rest
    takes = "handler[p] == NO_HANDLER && pending[p] != 0 && (current[p] == 0 || irq_on(place[current[p] - 1]))"
    take = Transition(takes, effects, "take an interrupt")
    return [take, *transitions(lab.handler("on_notify")), *transitions(lab.handler("on_wakeup"))]


# Agents.


def device(lab: Laboratory) -> list[Transition]:
    """PIR, then the notification, then its arrival."""
    suppressed = "" if lab.bounds.urgent else "sn[target(i)] || "
    return [_begin("IDLE && left[i] > 0", "PIR", _set_pir()), *_notification(suppressed)]


def _agent(where: str, comment: str, effects: Lines) -> Transition:
    return Transition(f"agent[i] == {where}", effects, comment)


def _begin(where: str, comment: str, effects: Lines) -> Transition:
    """A post begins, or never does."""
    return replace(_agent(where, comment, effects), optional=True)


def _set_pir() -> Lines:
    return ["pir[target(i)] = pir[target(i)] | (1 << i);", "sent = sent | (1 << i);", "agent[i] = NOTIFICATION;"]


def _notification(suppressed: str) -> list[Transition]:
    found = "flight[i] = 2 * ndst[target(i)] + nv_wakeup[target(i)];"
    send = ["on[target(i)] = 1;", found, "agent[i] = DELIVER;"]
    pending = "pending[flight[i] / 2]"
    arrive = [f"{pending} = {pending} | ((flight[i] & 1) -> WAKEUP : NOTIFY);", "flight[i] = 0;", "next_post(i);"]
    return [
        _agent("NOTIFICATION", "notification", choice(f"{suppressed}on[target(i)]", ["next_post(i);"], send)),
        _agent("DELIVER", "deliver", arrive),
    ]


def sender(lab: Laboratory) -> list[Transition]:
    """An IPI: by hardware, or by an exit once IPI virtualization is off."""
    begins = "IDLE && left[i] > 0 && !asked[i]" if lab.refreshes else "IDLE && left[i] > 0"
    virtualized = f"{begins} && !ipiv_off[i]" if lab.refreshes else begins
    post = [*_wrong_target(lab), *_set_pir()]
    if lab.bounds.publish:
        found = [_begin(virtualized, "look up the entry", _look_up()), _agent("POST", "PIR", post)]
    else:
        found = [_begin(virtualized, "PIR", post)]
    found += _notification("sn[target(i)] || ")
    return [*found, *_intercepted(lab, f"{begins} && ipiv_off[i]")] if lab.intercepts else found


def _wrong_target(lab: Laboratory) -> Lines:
    """Once the ID is written, what goes through the table under it goes to the owner of before."""
    if not lab.bounds.rewrite_id:
        return []
    return choice("write_complete && target(i) == 0", ["assert(never_misdelivery);"], [])


def _look_up() -> Lines:
    """Only the entry of vCPU 0 is being written; V is in the low half."""
    refused = choice("entry_low", ["assert(never_wild_post);"], ["next_post(i);"])
    return choice("target(i) != 0 || (entry_low && entry_high)", ["agent[i] = POST;"], refused)


def _intercepted(lab: Laboratory, begins: str) -> list[Transition]:
    """With IPI virtualization off the IPI exits, if the ICR is intercepted."""
    role = lab.software_post("intercepted")
    routed = follow(role, 0)
    if lab.bounds.rewrite_id:
        routed = choice("write_complete && target(i) == 0", ["next_post(i);"], routed)
    return [
        _agent("IDLE && asked[i]", "take over APICv's controls", ["asked[i] = 0;", *_at_once(lab.refresh(), 0)]),
        _begin(f"{begins} && icr_intercepted[i]", "the IPI exits", routed),
        _begin(f"{begins} && !icr_intercepted[i]", "the IPI escapes", ["assert(never_escape);"]),
        *transitions(role),
    ]


def _at_once(role: Role, at: int) -> Lines:
    """A routine in one transition: `refresh_apicv` runs in a VM exit of its own vCPU."""
    if at >= len(role.steps):
        return []
    step = role.steps[at]
    comment = f"/* {described(step)} */"
    if "goto" in step:
        return _at_once(role, step["goto"])
    if "if" in step:
        look = expression(role, step["if"])
        return [comment, *choice(look, _at_once(role, at + 1), _at_once(role, step["otherwise"]))]
    acts = {"ipiv_off": ["ipiv_off[i] = 1;"], "intercept_icr": ["icr_intercepted[i] = 1;"], "done": []}
    return [comment, *acts[step["act"]], *([] if step["act"] == "done" else _at_once(role, at + 1))]


def software(lab: Laboratory) -> list[Transition]:
    """A thread of the hypervisor: one step of `software_post` after the other."""
    role = lab.software_post("software")
    first = software_begins(lab)
    if first is None:
        return [_begin("IDLE && left[i] > 0", "begin", follow(role, 0)), *transitions(role)]
    # No step comes back to the first: to be there is to be between two posts.
    begin, *others = sorted(transitions(role), key=lambda step: f"== {first} " not in f"{step.enabled} ")
    return [replace(begin, optional=True), *others]


def software_begins(lab: Laboratory) -> str | None:
    """The step that each post begins with; None if that depends on what the agent sees then."""
    role = lab.software_post("software")
    begin = [line for line in follow(role, 0) if not line.startswith("/*")]
    return next((place for place in places(role) if begin == [f"{role.position} = {place};"]), None)


# The host actor and store buffers.


def host_actor(lab: Laboratory) -> list[Transition]:
    """The table's entry is written, APICv inhibited, the guest's write of its ID handled."""
    found: list[Transition] = []
    for phase in lab.phases:
        if phase == "inhibit":
            found.append(Transition("host == INHIBIT", ["inhibit();", "host = INHIBIT_WAIT;"], "inhibit APICv"))
            seen = Transition("host == INHIBIT_WAIT && no_sender_asked", ["end_inhibit();"], "all have seen it")
            found.append(seen)
            continue
        role = lab.host(phase)
        if phase == "set_apic_id":
            found.append(Transition("host == WRITE_ID", follow(role, 0), "the guest writes its xAPIC ID"))
        found += transitions(role)
    return found


def store_buffer(_lab: Laboratory) -> list[Transition]:
    """The oldest store reaches memory."""
    older = ["mode[v] = older[v];", "older[v] = 0;"]
    only = ["mode[v] = newest[v];", "newest[v] = 0;"]
    effects = [*choice("buffered[v] == 2", older, only), "buffered[v]--;"]
    return [Transition("buffered[v] > 0", effects, "the oldest store reaches memory")]
