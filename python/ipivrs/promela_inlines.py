"""The Promela inlines of the protocol laboratory: what happens within transitions.

They stand in the order in which they use each other. None loops back: `post_block` would go on at the first look at
pending interrupts if nothing were in VIRR and the sleep not cancelled, and no way leads there like that, for only
the guest takes from VIRR; an assertion says so.
"""

from ipivrs.promela_actors import Laboratory
from ipivrs.promela_steps import Lines, choice, follow, indented

Named = tuple[str, Lines]

_AGENTS: list[Named] = [
    ("next_post(i)", ["left[i]--;", "agent[i] = IDLE;"]),
    (
        "end_software_post(i)",
        [*choice("!posted[i]", ["assert(never_unposted);"], []), "posted[i] = 0;", "next_post(i);"],
    ),
]


def inlines(lab: Laboratory) -> Lines:
    """Every inline, each before those that use it."""
    named = [*_memory(lab), *_host_calls(), *_handlers(lab), *_thread(lab), *_AGENTS, *_host(lab)]
    return [line for name, body in named for line in (f"inline {name} {{", *indented(body or ["skip;"]), "}")]


def _memory(lab: Laboratory) -> list[Named]:
    """Store buffers, PIR and VIRR."""
    strange = "(virr[v] & (255 - vectors_of(v))) != 0 || (virr[v] & (255 - sent)) != 0"
    found: list[Named] = [
        ("harvest(v, group)", ["virr[v] = virr[v] | (pir[v] & group);", "pir[v] = pir[v] & (255 - group);"]),
        ("deliver(v)", [*choice(strange, ["assert(never_unsent);"], []), "virr[v] = 0;"]),
    ]
    if lab.facts.tso:
        write = ["mode[v] = newest[v];", "older[v] = 0;", "newest[v] = 0;", "buffered[v] = 0;"]
        full = ["mode[v] = older[v];", "older[v] = newest[v];"]
        room = [*choice("buffered[v] == 1", ["older[v] = newest[v];"], []), "buffered[v]++;"]
        store = [*choice("buffered[v] == 2", full, room), "newest[v] = stored;"]
        found += [("drain(v)", choice("buffered[v] > 0", write, [])), ("store_mode(v, stored)", store)]
    return found


def _host_calls() -> list[Named]:
    """Lists, waking, giving a pCPU up."""
    away = ["current[at[v]] = 0;", "at[v] = 0;"]
    return [
        ("list_add(v, p)", [*choice("list[v] != 0", ["assert(never_two_lists);"], []), "list[v] = p + 1;"]),
        ("wake(v)", ["interruptible[v] = 0;", *choice("place[v] == ASLEEP", ["place[v] = QUEUED;"], [])]),
        ("leave(v)", away),
        ("stop(v)", [*choice("current[at[v]] == v + 1", away, []), "place[v] = STOPPED;"]),
    ]


def _handlers(lab: Laboratory) -> list[Named]:
    """A handler begins and ends. One that leaves a loop early unlocks the list."""
    about_current = ["subject[p] = current[p] - 1;", *follow(lab.handler("on_notify"), 0)]
    return [
        ("end_handler(p)", ["handler[p] = NO_HANDLER;", "subject[p] = 0;", "locked[p] = 0;"]),
        ("begin_on_notify(p)", choice("current[p] != 0", about_current, [])),
        ("begin_on_wakeup(p)", follow(lab.handler("on_wakeup"), 0)),
    ]


def _thread(lab: Laboratory) -> list[Named]:
    """Where the vCPU's thread goes on behind each routine."""
    found: list[Named] = []
    for name, end in _thread_ends(lab).items():
        cause = ", exit" if name == "after_exit" else ""
        begin = [*(["why[v] = exit;"] if cause else []), *follow(lab.thread(name), 0)]
        found += [(f"end_{name}(v)", end), (f"begin_{name}(v{cause})", begin)]
    return found


def _thread_ends(lab: Laboratory) -> dict[str, Lines]:
    enter = ["place[v] = GUEST;", "deliver(v);"]
    behind = {
        "EXIT_NOTIFY": "place[v] = ROOT; begin_on_notify(at[v]);",
        "EXIT_WAKEUP": "place[v] = ROOT; begin_on_wakeup(at[v]);",
        "EXIT_HLT": "begin_check_1(v);",
        "EXIT_PREEMPTED": "begin_put_preempted(v);",
    }
    return {
        "post_block": [
            "blocking[v] = 0;",
            *choice("virr[v] != 0 || cancelled[v]", ["place[v] = ROOT;"], ["assert(never_reached);"]),
            "cancelled[v] = 0;",
        ],
        "pre_block": choice("cancelled[v]", ["begin_post_block(v);"], ["blocking[v] = 1;", "place[v] = SET_TASK;"]),
        "check_1": choice("virr[v] != 0", ["begin_post_block(v);"], ["begin_pre_block(v);"]),
        "check_2": ["place[v] = (virr[v] != 0 -> SET_RUNNING : SCHEDULE);"],
        "put_blocking": ["place[v] = LIE_DOWN;"],
        "put_preempted": lab.drained("leave(v);", "place[v] = QUEUED;"),
        "after_exit": [
            "if",
            ":: why[v] == EXIT_TO_ROOT -> place[v] = ROOT;",
            *(f":: why[v] == {why} -> why[v] = EXIT_TO_ROOT; {then}" for why, then in behind.items()),
            "fi;",
        ],
        "before_entry": choice("vcpu_asked[v]", ["begin_after_exit(v, EXIT_TO_ROOT);"], enter)
        if lab.refreshes
        else enter,
        "load": ["cpu[v] = at[v];", "place[v] = (blocking[v] -> SET_TASK : ROOT);"],
    }


def _host(lab: Laboratory) -> list[Named]:
    """What the host actor does next; last first."""
    found: list[Named] = []
    then: Lines = ["host = DONE;"]
    for phase in reversed(lab.phases):
        end = ["write_complete = 1;", *then] if phase == "set_apic_id" else then
        found.append((f"end_{phase}()", end))
        first = {"inhibit": ["host = INHIBIT;"], "set_apic_id": ["host = WRITE_ID;"]}
        then = first.get(phase) or follow(lab.host(phase), 0)
    if lab.refreshes:
        found.append(("inhibit()", _inhibit(lab)))
    return [*found, ("begin_host()", then)]


def _inhibit(lab: Laboratory) -> Lines:
    """Everybody is asked; whoever shows as in its guest is kicked."""
    bounds = lab.bounds
    kicks = [
        choice(f"current[{p}] != 0 && mode[current[{p}] - 1]", [f"pending[{p}] = pending[{p}] | RESCHED;"], [])
        for p in range(bounds.pcpus)
    ]
    return [
        *(f"asked[{i}] = 1;" for i in range(bounds.senders)),
        *(f"vcpu_asked[{v}] = 1;" for v in range(bounds.vcpus)),
        *(line for kick in kicks for line in kick),
    ]
