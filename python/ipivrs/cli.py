"""The shell's face: `ipivrs run | check | sweep | explain | info`.

Exit codes: 0 fine; 1 a violation was found; 2 bad input; 130 interrupted, 143 by SIGTERM; 141 the reader of a pipe
went away.
"""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import typer
from rich.text import Text
from typer.core import TyperGroup

from ipivrs import __version__, _core, completion, names, report, scenario_report
from ipivrs.bars import watching
from ipivrs.bench_command import bench
from ipivrs.bench_command import profile as profile_commands
from ipivrs.check_command import check
from ipivrs.doubts import doubts
from ipivrs.explanation import explanation
from ipivrs.icr import explain as explain_icr
from ipivrs.machine import Machine, describe, machine
from ipivrs.options import (
    BadInputError,
    choice,
    decimal,
    did_you_mean,
    nearest,
    number,
    numbers,
    refusals_are_bad_input,
)
from ipivrs.outputs import wanted
from ipivrs.policies import ELSEWHERE
from ipivrs.policies import find as find_policy
from ipivrs.results import RunResult, run_recording
from ipivrs.running import load as load_scenario
from ipivrs.running import mistakes_of, shipped_path, shipped_scenarios
from ipivrs.scenario import MOST_SECONDS, MOST_SEED, Scenario
from ipivrs.scenario_text import read, shortened
from ipivrs.schema_command import schema
from ipivrs.simulation import ScenarioResult
from ipivrs.starting import INTERRUPTED
from ipivrs.sweep_command import sweep
from ipivrs.terminal import complain, escape_what_cannot_be_shown, remark, show, show_json, stand_in_for_closed_streams
from ipivrs.wording import noun

_VIOLATION = 1
_BAD_INPUT = 2
_BROKEN_PIPE = 141

# A command has so many options that one is always a little like any word.
_LIKE = 0.6

_U8_MAX = 2**8 - 1
_U16_MAX = 2**16 - 1
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1

# typer has click's exceptions, but exports only this one of them: reach the others as its ancestors.
_ClickException = cast("type[Exception]", typer.BadParameter.__mro__[2])


class _Commands(TyperGroup):
    """Commands whose errors are a line or two on stderr and an exit code: never a traceback, never a box."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line, give its exit code."""
        stand_in_for_closed_streams()
        escape_what_cannot_be_shown()
        try:
            code = super().main(*args, **(kwargs | {"standalone_mode": False})) or 0
            sys.stdout.flush()
        except BadInputError as error:
            complain(str(error))
            code = _BAD_INPUT
        except _ClickException as error:
            complain(_usage_message(error))
            code = _BAD_INPUT
        except OSError as error:
            code = _output_lost(error)
        if kwargs.get("standalone_mode", True):
            sys.exit(code)
        return code

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Take the words of a command line apart. What typer makes of Ctrl-C depends on its version."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None

    def invoke(self, ctx: Any) -> Any:
        """Run a command. What ends it early is met here, before typer turns it into something else."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            complain("interrupted")
            return INTERRUPTED
        except OSError as error:
            return _output_lost(error)
        return code

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or name the nearest one."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            raise BadInputError(f"no command {args[0]}: it is one of {', '.join(known)}{did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    name="ipivrs",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _usage_message(error: Exception) -> str:
    """What typer found wrong with the command line, in one line that leads on."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if hasattr(error, "possibilities"):  # NoSuchOption
        option: str = getattr(error, "option_name", "")
        message = f"no option {option}{_nearest_option(option, context)}"
    else:
        text = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        message = text[:1].lower() + text[1:]
    return f"{message} (see {context.command_path} --help)" if context else message


def _nearest_option(option: str, context: "typer.Context | None") -> str:
    """The question whether another option is meant; the dashes make none like another."""
    params = context.command.get_params(context) if context else []
    names = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    bare = {name.removeprefix("--"): name for name in names if name.startswith("--")}
    match = nearest(option.lstrip("-"), list(bare), _LIKE)
    return f"; did you mean {bare[match]}?" if match else ""


def _output_lost(error: OSError) -> int:
    """Stop writing to stdout, so that the interpreter's last flush is quiet; complain unless its reader just left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return _BROKEN_PIPE
    complain(f"the output cannot be written: {error.strerror}")
    return _BAD_INPUT


def _given(**values: object) -> dict[str, Any]:
    """The options that were given: the others keep the defaults of the function that takes them."""
    return {name: value for name, value in values.items() if value is not None}


def _number(option: str, text: str | None, low: int, high: int) -> int | None:
    return None if text is None else number(option, text, low, high)


def _choice(option: str, text: str | None, known: object) -> str | None:
    return None if text is None else choice(option, text, get_args(known))


def _show_version(wanted: bool) -> None:
    if wanted:
        build = _core.build_info()
        show(f"ipivrs {__version__} (commit {build['commit']}, {build['profile']} build)")
        raise typer.Exit


_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_NoIpiv = Annotated[bool, typer.Option("--no-ipiv", help="With the IPI-virtualization control = 0.")]
_LastIndex = Annotated[str | None, typer.Option(metavar="N", help="Last PID-pointer index, 0 to 65535.")]


@app.callback(invoke_without_command=True)
def _ipivrs(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback is what counts)
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print version, commit and build profile."
        ),
    ] = False,
) -> None:
    """An emulator of Intel's IPI virtualization.

    Numbers are decimal, or hexadecimal with 0x in front.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command()
def run(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="perf.data, or perf script, ftrace, trace-cmd text; or a scenario (.toml)."
        ),
    ],
    apic: Annotated[
        str | None,
        typer.Option(
            metavar="x2apic|xapic",
            help="The guest's APIC mode, where the file does not show it.",
            autocompletion=completion.one_of(names.Apic),
        ),
    ] = None,
    apic_ids: Annotated[
        str | None, typer.Option(metavar="0,2,4", help="APIC IDs of vCPU 0, 1, ..., where the file does not show them.")
    ] = None,
    vcpus: Annotated[
        str | None, typer.Option(metavar="N", help="Number of vCPUs, if more than the file shows.")
    ] = None,
    last_index: _LastIndex = None,
    pace: Annotated[
        str | None,
        typer.Option(
            metavar="recorded|free",
            help="Keep the recorded order, or every sender for itself.",
            autocompletion=completion.one_of(names.Pace),
        ),
    ] = None,
    process: Annotated[str | None, typer.Option(metavar="PID", help="Only the VM of this process.")] = None,
    no_ipiv: _NoIpiv = False,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Scenario, virtual time: the posted-interrupt protocol of the host.",
            autocompletion=completion.policy,
        ),
    ] = None,
    seconds: Annotated[str | None, typer.Option(metavar="S", help="Scenario: endless loops end after this.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Scenario: what random numbers begin with.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="threads|virtual-time",
            help="Who acts when, default threads.",
            autocompletion=completion.one_of(names.Engine),
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Virtual time: what acts cost, in cycles.", autocompletion=completion.profile
        ),
    ] = None,
    report_file: Annotated[
        str | None, typer.Option("--report", metavar="OUT.html", help="Write a report to look at in a browser.")
    ] = None,
    perfetto_file: Annotated[
        str | None, typer.Option("--perfetto", metavar="OUT.pftrace", help="Write a trace for ui.perfetto.dev.")
    ] = None,
    json: _Json = False,
) -> int:
    """Say which IPIs of a recording need no VM exit, or run a scenario.

    The report of a recording says why the others exit and what to change, that of a scenario whether anything is lost.
    Several recordings are shown side by side; several results are a list with --json.
    """
    for_recordings = _given(
        apic=_choice("--apic", apic, names.Apic),
        apic_ids=None if apic_ids is None else numbers("--apic-ids", apic_ids, 0, _U16_MAX),
        vcpus=_number("--vcpus", vcpus, 1, _U16_MAX + 1),
        last_index=_number("--last-index", last_index, 0, _U16_MAX),
        pace=_choice("--pace", pace, names.Pace),
        process=_number("--process", process, 0, _U32_MAX),
    )
    for_both = _given(policy=policy, engine=_choice("--engine", engine, names.Engine), profile=profile)
    for_scenarios = _given(
        seconds=None if seconds is None else decimal("--seconds", seconds, 0, MOST_SECONDS),
        seed=_number("--seed", seed, 0, MOST_SEED),
    )
    if profile is not None and engine != "virtual-time":
        raise BadInputError("--profile is an option of --engine virtual-time")
    scenarios = [_is_scenario(file) for file in files]
    only_recordings = for_recordings | _given(no_ipiv=no_ipiv or None)
    _refuse_unused(only_recordings, all(scenarios), "recordings")
    _refuse_unused(for_scenarios, not any(scenarios), "scenarios")
    if engine == "virtual-time":
        _refuse_what_virtual_time_decides(only_recordings)
    elif policy is not None and not any(scenarios):
        raise BadInputError("--policy is an option of scenarios, and of recordings with --engine virtual-time")
    outputs = wanted(report_file, perfetto_file, files, engine)
    # Every mistake in a file is found before anything runs.
    with refusals_are_bad_input():
        loaded = [_load(file, for_scenarios | for_both) for file in files]
        for_recordings |= (
            for_both if engine == "virtual-time" else _given(ipi_virtualization=False if no_ipiv else None)
        )
        _remark_whose_policies(loaded, policy)
        _remark_doubts(files, loaded)
        with watching() as progress:
            told = _given(progress=progress)
            of_scenarios = _given(engine=engine, profile=profile) | {"log": outputs.log}
            results = _in_turn(files, loaded, for_recordings | told, of_scenarios | told)
    _remark_more_vcpus(results, for_recordings.get("vcpus"))
    lost = [message for result in results for message in outputs.write(result)]
    if json:
        dicts = [result.as_dict() for result in results]
        show_json(dicts[0] if len(files) == 1 else dicts)
    else:
        _show_results(results)
        for line in [] if lost else outputs.names():
            show(Text(line))
    if lost:
        raise BadInputError("; ".join(lost))
    if _is_partial(results[-1]):
        complain(_interrupted(len(results), len(files)))
        return INTERRUPTED
    return _VIOLATION if any(result.violations for result in results) else 0


def _is_scenario(file: str) -> bool:
    return file.endswith(".toml")


def _load(file: str, options: dict[str, Any]) -> Scenario | str:
    """A scenario with the options of the command line in it; a recording is its path."""
    if not file:
        raise BadInputError("the name of a file is empty: give a recording or a scenario")
    path, name = Path(file), Path(file).stem
    if path.suffix in ("", ".toml") and not path.exists() and name in shipped_scenarios():
        raise BadInputError(f"{file}: no such file; the shipped scenario of this name is {shipped_path(name)}")
    if path.suffix == ".policy":
        instead = f"`ipivrs run SCENARIO --policy {file}` runs under it, `ipivrs check {file}` examines it"
        raise BadInputError(f"{file}: this is a policy: {instead}")
    if not _is_scenario(file):
        return file
    policy = options.get("policy")
    scenario = load_scenario(file, policy)
    if policy is not None:
        find_policy(policy)
    host = dict(scenario.host) | _given(policy=policy)
    whole = dict(scenario) | {key: options[key] for key in ("seconds", "seed") if key in options} | {"host": host}
    return Scenario.model_validate(whole)


def _in_turn(
    files: list[str], loaded: list[Scenario | str], of_recordings: dict[str, Any], of_scenarios: dict[str, Any]
) -> list[RunResult | ScenarioResult]:
    """The results of one after the other; one that Ctrl-C ended is the last."""
    results: list[RunResult | ScenarioResult] = []
    for file, what in zip(files, loaded, strict=True):
        ran = run_recording(what, **of_recordings) if isinstance(what, str) else _run(file, what, **of_scenarios)
        results.append(ran)
        if _is_partial(ran):
            break
    return results


def _is_partial(result: RunResult | ScenarioResult) -> bool:
    return isinstance(result, ScenarioResult) and result.partial


def _run(file: str, scenario: Scenario, **options: Any) -> ScenarioResult:
    with mistakes_of(file):
        return scenario.run(**options)


def _interrupted(ran: int, files: int) -> str:
    if files == 1:
        return "interrupted: the result is partial"
    left = files - ran
    others = f"{left} of {files} files {noun(left, 'was', 'were')} not run" if left else "all others are whole"
    return f"interrupted: result {ran} is partial, {others}"


def _refuse_unused(options: dict[str, Any], unused: bool, what: str) -> None:
    if unused and options:
        raise BadInputError(f"--{next(iter(options)).replace('_', '-')} is an option of {what}")


def _refuse_what_virtual_time_decides(options: dict[str, Any]) -> None:
    if "pace" in options:
        raise BadInputError("--pace is an option of --engine threads: in virtual time each IPI has its recorded time")
    if "no_ipiv" in options:
        message = (
            "--no-ipiv is an option of --engine threads: virtual time runs a recording both with IPI virtualization"
        )
        raise BadInputError(f"{message} and without it")


_OF_A_SCENARIO = "With host.enable_ipiv = false all go through it"
_OF_A_RECORDING = (
    "A recording also runs without IPI virtualization, and there all go through it; without --policy both are under kvm"
)


def _remark_whose_policies(loaded: list[Scenario | str], given: str | None) -> None:
    """What a run does to a policy of something else says little about it.

    It is said before the run: a vCPU may wait for ever for an IPI that was lost so.
    """
    policies = [
        (given, _OF_A_RECORDING)
        if isinstance(what, str)
        else (what.host.enable_ipiv and what.host.policy, _OF_A_SCENARIO)
        for what in loaded
    ]
    for policy, all_through_it in dict.fromkeys(policies):
        if policy and policy in ELSEWHERE:
            remark(
                f"policy {policy} belongs to {ELSEWHERE[policy]}: IPIs that Intel's IPI virtualization posts go past "
                f"it, and an interrupt that is lost so is not its fault. {all_through_it}; `ipivrs check {policy}` has "
                "it where it belongs"
            )


def _remark_doubts(files: list[str], loaded: list[Scenario | str]) -> None:
    """What is no mistake, and is seldom meant; the result alone does not show why nothing comes of it."""
    for file, what in zip(files, loaded, strict=True):
        if isinstance(what, Scenario) and (found := list(doubts(what))):
            source = read(Path(file))
            for line in shortened(source.about(*doubt) for doubt in found).split("\n"):
                remark(line)


def _remark_more_vcpus(results: list[RunResult | ScenarioResult], given: int | None) -> None:
    """What was recorded on a host says so itself, VM by VM."""
    for result in results:
        if given is None or not isinstance(result, RunResult) or result.recording["side"] == "host":
            continue
        if (shown := len(result.recording["vcpus"])) > given:
            remark(f"{result.recording['path']}: {shown} vCPUs are in the recording, --vcpus {given} changes nothing")


def _show_results(results: list[RunResult | ScenarioResult]) -> None:
    recordings = [result for result in results if isinstance(result, RunResult)]
    if len(recordings) > 1:
        show(report.side_by_side(recordings))
    elif recordings:
        show(report.full(recordings[0]))
    for result in results:
        if isinstance(result, ScenarioResult):
            show(scenario_report.full(result))


app.command()(check)
app.add_typer(bench, name="bench")
app.add_typer(profile_commands, name="profile")
app.command()(sweep)
app.command()(schema)


@app.command()
def explain(
    icr: Annotated[
        str | None,
        typer.Argument(metavar="ICR", help="The value written; in xAPIC mode with ICR_HI in bits 63:32."),
    ] = None,
    vector: Annotated[str | None, typer.Option(metavar="N", help="0 to 255, instead of an ICR.")] = None,
    dest: Annotated[str | None, typer.Option(metavar="N", help="Destination, default 0.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Delivery mode, default fixed.", autocompletion=completion.one_of(names.DeliveryMode)
        ),
    ] = None,
    destination_mode: Annotated[
        str | None,
        typer.Option(
            metavar="physical|logical",
            help="Default physical.",
            autocompletion=completion.one_of(names.DestinationMode),
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="deassert|assert", help="Default deassert.", autocompletion=completion.one_of(names.Level)
        ),
    ] = None,
    trigger: Annotated[
        str | None,
        typer.Option(metavar="edge|level", help="Default edge.", autocompletion=completion.one_of(names.Trigger)),
    ] = None,
    shorthand: Annotated[
        str | None,
        typer.Option(
            metavar="none|self|all|all-but-self",
            help="Default none.",
            autocompletion=completion.one_of(names.Shorthand),
        ),
    ] = None,
    apic: Annotated[
        str,
        typer.Option(
            metavar="x2apic|xapic", help="The sender's APIC mode.", autocompletion=completion.one_of(names.Apic)
        ),
    ] = "x2apic",
    access: Annotated[
        str | None,
        typer.Option(
            metavar="icr|self-ipi",
            help="The register written, default icr.",
            autocompletion=completion.one_of(names.Access),
        ),
    ] = None,
    vcpus: Annotated[
        str | None, typer.Option(metavar="N", help="Go on through the table and descriptors of N vCPUs.")
    ] = None,
    last_index: _LastIndex = None,
    no_ipiv: _NoIpiv = False,
    json: _Json = False,
) -> int:
    """Say what the processor does when a guest writes one ICR value.

    Rule by rule, with the clause of the manual that decides.
    """
    mode_of_apic = choice("--apic", apic, get_args(names.Apic))
    dest_option, dest_max = ("--dest with --apic xapic", _U8_MAX) if mode_of_apic == "xapic" else ("--dest", _U32_MAX)
    fields = _given(
        vector=_number("--vector", vector, 0, _U8_MAX),
        dest=_number(dest_option, dest, 0, dest_max),
        mode=_choice("--mode", mode, names.DeliveryMode),
        destination_mode=_choice("--destination-mode", destination_mode, names.DestinationMode),
        level=_choice("--level", level, names.Level),
        trigger=_choice("--trigger", trigger, names.Trigger),
        shorthand=_choice("--shorthand", shorthand, names.Shorthand),
    )
    value = _number("ICR", icr, 0, _U64_MAX)
    if value is None and "vector" not in fields:
        raise BadInputError("give an ICR such as 0x1000000fb, or --vector with --dest, --mode and so on")
    if value is not None and fields:
        raise BadInputError(f"give either an ICR or --{next(iter(fields)).replace('_', '-')} and the like, not both")
    setting = _given(
        apic=mode_of_apic,
        access=_choice("--access", access, names.Access),
        vcpus=_number("--vcpus", vcpus, 1, _U16_MAX + 1),
        last_index=_number("--last-index", last_index, 0, _U16_MAX),
    )
    with refusals_are_bad_input():
        answer = explain_icr(value, **fields, **setting, ipi_virtualization=not no_ipiv).as_dict()
    if json:
        show_json(answer)
    else:
        show(explanation(answer, setting.get("vcpus"), setting.get("last_index")))
    if "last_index" not in setting:
        _remark_that_nobody_is_there(answer, setting.get("vcpus"))
    return 0


def _remark_that_nobody_is_there(answer: dict[str, Any], vcpus: int | None) -> None:
    """An APIC ID that no vCPU has may be a slip, but the processor has an answer to it. Broadcasts are meant."""
    destination = answer["fields"]["destination"]
    broadcast = destination == (_U8_MAX if answer["apic"] == "xapic" else _U32_MAX)
    if vcpus is None or broadcast or answer["condition"] != "last-index":
        return
    remark(
        f"APIC ID {destination} is beyond a PID-pointer table of {vcpus} {noun(vcpus, 'vCPU')}, whose last index is "
        f"{vcpus - 1}; {_another_table(destination)}"
    )


def _another_table(destination: int) -> str:
    if destination > _U16_MAX:
        return f"no table is longer than to index {_U16_MAX}"
    return "for a longer table, such as KVM's for all that may be added, say --last-index"


def _missing_here(found: Machine) -> Iterator[Text]:
    yield Text("\nWhat KVM lacks here to use IPI virtualization:" if found["missing"] else "", style="bold")
    yield from (Text(f"  {line}") for line in found["missing"])
    if not found["missing"]:
        yield Text("KVM has all that it needs to use IPI virtualization.", style="green")


@app.command()
def info(json: _Json = False) -> int:
    """Say what this build is made of, and what this machine has.

    Of the machine: its processor, its KVM, and what either lacks for IPI virtualization.
    """
    build = {**_core.build_info(), "python": platform.python_version(), "numpy": np.__version__}
    found = machine()
    if json:
        show_json({**build, "machine": found})
        return 0
    show(
        *(Text(f"{name:8} {value}") for name, value in build.items()),
        Text("\nThis machine (ipivrs needs none of it, it emulates the processor):", style="bold"),
        *(Text(f"  {line}") for line in describe(found)),
        *_missing_here(found),
    )
    return 0
