"""`ipivrs check`: the protocol laboratory from the shell.

Exit codes: 0 holds; 1 refuted; 2 bad input, or a bound was hit before the verdict was clear; 130 interrupted.
"""

import json as json_format
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from ipivrs import _core, check_report, completion, promela, replays
from ipivrs.bars import steps, watching
from ipivrs.bounds import RANGES, MemoryModel
from ipivrs.entries import HOLDS, Entry, collection
from ipivrs.laboratory import LIMITS, CheckResult, Subject, subject
from ipivrs.mutation import Mutant, changes, mutant
from ipivrs.options import BadInputError, check_writable, choice, number, option, refusals_are_bad_input
from ipivrs.progress import Progress
from ipivrs.replacing import replace_text
from ipivrs.starting import INTERRUPTED
from ipivrs.terminal import complain, show, show_json, width
from ipivrs.variants import Mutation

_REFUTED = 1
_NOT_DECIDED = 2

_Asked = TypeVar("_Asked")
_Found = TypeVar("_Found")


def _count(help_text: str, metavar: str = "N") -> Any:  # noqa: ANN401 (typer's own type is private to it)
    return typer.Option(metavar=metavar, help=help_text)


def check(
    policy: Annotated[
        str | None,
        typer.Argument(
            metavar="POLICY",
            help="A name that --list shows, or a file.",
            show_default=False,
            autocompletion=completion.protocol,
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar='"ROUTINE: LINE"', help="Leave out a line; may be given several times.")
    ] = None,
    senders: Annotated[str | None, _count("vCPUs that send IPIs.")] = None,
    devices: Annotated[str | None, _count("Devices that post.")] = None,
    software: Annotated[str | None, _count("Threads of the hypervisor that post.")] = None,
    posts: Annotated[str | None, _count("Interrupts that each of them posts.")] = None,
    preemptions: Annotated[str | None, _count("Preemptions in the whole run.")] = None,
    migrations: Annotated[str | None, _count("Migrations in the whole run.")] = None,
    exits: Annotated[str | None, _count("VM exits of the guest's own in the whole run.")] = None,
    pcpus: Annotated[str | None, _count("Processors for the targets, 1 to 4.")] = None,
    vcpus: Annotated[str | None, _count("Targets, 1 to the number of processors.")] = None,
    memory_model: Annotated[str | None, _count("Store buffers or none.", "sc|tso")] = None,
    urgent: Annotated[bool | None, typer.Option(help="Devices post although SN is 1.", show_default=False)] = None,
    publish: Annotated[
        bool | None, typer.Option(help="vCPU 0's table entry is written meanwhile.", show_default=False)
    ] = None,
    inhibit: Annotated[bool | None, typer.Option(help="APICv is inhibited meanwhile.", show_default=False)] = None,
    rewrite_id: Annotated[
        bool | None, typer.Option(help="The guest rewrites its xAPIC ID meanwhile.", show_default=False)
    ] = None,
    ipiv: Annotated[bool | None, typer.Option(help="With IPI virtualization.", show_default=False)] = None,
    threads: Annotated[str | None, _count("Threads that search.")] = None,
    max_states: Annotated[str | None, _count("Give up beyond so many states.")] = None,
    max_memory: Annotated[str | None, _count("Give up beyond so many MiB.", "MIB")] = None,
    mutate: Annotated[bool, typer.Option("--mutate", help="Leave out or move each line in turn.")] = False,
    replay: Annotated[str | None, typer.Option(metavar="FILE", help="Make the steps of a saved result again.")] = None,
    on_threads: Annotated[
        bool, typer.Option("--on-threads", help="Replay with a thread for each actor, on real atomics.")
    ] = False,
    save: Annotated[str | None, typer.Option(metavar="FILE", help="Write the result to a file, for --replay.")] = None,
    export: Annotated[str | None, typer.Option(metavar="promela", help="Print the same model for SPIN.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show the collection.")] = False,
    check_all: Annotated[bool, typer.Option("--all", help="Check the whole collection.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> int:
    """Prove a posted-interrupt policy, or see how it loses interrupts.

    Every interleaving of its steps is explored, within bounds, and the shortest counterexample is shown.

    What is not given comes from the collection's entry, or else has its default: 2 senders, 1 software sender, 1 post
    of each, 1 preemption, 1 migration, 1 exit, 2 pCPUs, 1 target vCPU.
    """
    bounds = _bounds(
        senders=senders,
        devices=devices,
        software=software,
        posts=posts,
        preemptions=preemptions,
        migrations=migrations,
        exits=exits,
        pcpus=pcpus,
        vcpus=vcpus,
        memory_model=memory_model,
        urgent=urgent,
        publish=publish,
        inhibit=inhibit,
        rewrite_id=rewrite_id,
        ipiv=ipiv,
    )
    limits = {
        "threads": _limit("threads", threads),
        "max_states": _limit("max_states", max_states),
        "max_memory": _limit("max_memory", max_memory),
    }
    modes = {
        "--list": list_all,
        "--all": check_all,
        "--mutate": mutate,
        "--replay": replay is not None,
        "--export": export is not None,
    }
    mode = _only(modes)
    _refuse("--on-threads", on_threads, mode == "--replay", "--replay")
    _refuse("--save", save is not None, not mode, "a check of one policy")
    if save is not None:
        check_writable("--save", Path(save))
    if mode in {"--list", "--all"}:
        named = [policy] if policy else [*("--without" for _ in without or ()), *map(option, bounds)]
        if named:
            raise BadInputError(f"{mode} is about the whole collection: leave out {named[0]}")
        return _list(json) if list_all else _check_all(limits, json)
    with refusals_are_bad_input():
        if replay is not None:
            return _replay(replay, policy, without or [], bounds, on_threads, json)
        if policy is None:
            raise BadInputError("give a policy: a name that `ipivrs check --list` shows, or a file")
        what = subject(policy, without or [], bounds)
        if export is not None:
            return _export(export, what)
        if mutate:
            return _mutate(what, limits, json)
        return _check(what, limits, save, json)


def _bounds(**words: str | bool | None) -> dict[str, Any]:
    """The bounds that were given."""
    bounds: dict[str, Any] = {}
    for name, word in words.items():
        if isinstance(word, bool):
            bounds[name] = word
        elif word is not None and name in RANGES:
            bounds[name] = number(option(name), word, *RANGES[name])
        elif word is not None:
            bounds[name] = choice(option(name), word, get_args(MemoryModel))
    return bounds


def _limit(name: str, word: str | None) -> int | None:
    return None if word is None else number(option(name), word, *LIMITS[name])


def _only(modes: dict[str, bool]) -> str:
    given = [name for name, wanted in modes.items() if wanted]
    if len(given) > 1:
        raise BadInputError(f"give either {given[0]} or {given[1]}, not both")
    return given[0] if given else ""


def _refuse(name: str, given: bool, allowed: bool, what: str) -> None:
    if given and not allowed:
        raise BadInputError(f"{name} is an option of {what}")


def _check(what: Subject, limits: dict[str, int | None], save: str | None, json: bool) -> int:
    with watching() as progress:
        result = what.check(progress=progress, **limits)
    if save is not None:
        _write(save, result)
    _print(json, result.as_dict, lambda: show(check_report.full(result, width())))
    return _exit_code(result.holds)


def _write(path: str, result: CheckResult) -> None:
    try:
        replace_text(Path(path), json_format.dumps(result.as_dict(), indent=2) + "\n")
    except OSError as error:
        raise BadInputError(f"--save {path}: {error.strerror}") from error


def _exit_code(holds: bool | None) -> int:
    if holds is None:
        return _NOT_DECIDED
    return 0 if holds else _REFUTED


def _print(json: bool, values: Callable[[], object], text: Callable[[], None]) -> None:
    if json:
        show_json(values())
    else:
        text()


def _list(json: bool) -> int:
    entries = collection()
    _print(json, lambda: [entry.as_dict() for entry in entries], lambda: show(check_report.listing(entries)))
    return 0


def _check_all(limits: dict[str, int | None], json: bool) -> int:
    entries = collection()

    def checked(entry: Entry, progress: Progress) -> tuple[Entry, CheckResult]:
        return entry, subject(entry.name).check(progress=progress, **limits)

    results = _one_by_one(entries, lambda entry: entry.name, checked)
    unexpected = sum(result.verdict != entry.verdict for entry, result in results)
    whole = {
        "entries": [
            {**_without_text(result), "name": entry.name, "expected": entry.verdict, "found": result.verdict}
            for entry, result in results
        ],
        "unexpected": unexpected,
    }
    _print(json, lambda: whole, lambda: show(check_report.comparison(results)))
    return _ended(len(results), len(entries), "protocols", _REFUTED if unexpected else 0)


def _without_text(result: CheckResult) -> dict[str, Any]:
    """The result without the policy's text, which the name of the entry stands for."""
    return {name: value for name, value in result.as_dict().items() if name != "policy_text"}


def _mutate(what: Subject, limits: dict[str, int | None], json: bool) -> int:
    with watching() as progress:
        whole = what.check(progress=progress, **limits)
    if not whole.holds:
        complain("the policy as it is must hold: what its proof needs cannot be asked of one that has none")
        _print(json, whole.as_dict, lambda: show(check_report.full(whole, width())))
        return _exit_code(whole.holds)
    asked = changes(what)

    def checked(change: Mutation, progress: Progress) -> Mutant:
        return mutant(what, change, progress=progress, **limits)

    found = _one_by_one(asked, lambda change: change.description, checked)
    values = {
        **whole.as_dict(),
        "mutations": [one.as_dict() for one in found],
        "needed": sum(one.needed for one in found),
        "redundant": sum(one.verdict == HOLDS for one in found),
        "undecided_mutations": sum(one.verdict == "undecided" for one in found),
    }
    _print(json, lambda: values, lambda: show(check_report.mutated(whole, found)))
    return _ended(len(found), len(asked), "changes", 0)


def _one_by_one(
    asked: list[_Asked], name: Callable[[_Asked], str], check_one: Callable[[_Asked, Progress], _Found]
) -> list[_Found]:
    """What each of them comes to, up to Ctrl-C; before the first there is nothing to give."""
    found: list[_Found] = []
    with steps(len(asked)) as bar:
        try:
            for one in asked:
                bar(name(one))
                found.append(check_one(one, bar.tell))
        except KeyboardInterrupt:
            if not found:
                raise
    return found


def _ended(done: int, of: int, what: str, code: int) -> int:
    """The exit code: this one, unless Ctrl-C came before all were done."""
    if done == of:
        return code
    complain(f"interrupted: {done} of {of} {what} are checked")
    return INTERRUPTED


def _replay(
    file: str,
    policy: str | None,
    without: list[str],
    bounds: dict[str, Any],
    on_threads: bool,
    json: bool,
) -> int:
    recorded = replays.load(file)
    if policy is not None:
        # The same choices, of a policy that may have been mended since; the bounds stay the file's.
        text = subject(policy, without).text
        recorded = replace(recorded, subject=replace(recorded.subject, name=policy, text=text))
    elif without:
        raise BadInputError("--without with --replay needs a policy: the file's has its lines left out already")
    if bounds:
        raise BadInputError(f"--replay takes its bounds from the file: leave out {option(next(iter(bounds)))}")
    found = recorded.replay(on_threads=on_threads)
    _print(json, lambda: found, lambda: show(check_report.replayed(found, width())))
    return _REFUTED if found["confirmed"] else 0


def _export(form: str, what: Subject) -> int:
    choice("--export", form, ("promela",))
    typer.echo(promela.export(json_format.loads(_core.policy_steps(what.text)), what.bounds), nl=False)
    return 0
