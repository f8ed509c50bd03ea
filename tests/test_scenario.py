"""Scenarios: what comes of them, from Python and from the shell."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ipivrs
from conftest import Shell
from ipivrs.running import shipped_path, shipped_scenarios
from ipivrs.statements import AnyStatement


def balanced(result: ipivrs.ScenarioResult) -> None:
    counts = result.counters
    assert (
        counts["posted"] == counts["virtualized"] + counts["self"] + counts["software_posts"] + counts["device_posts"]
    )
    assert counts["posted"] == counts["delivered"] + counts["coalesced"] + counts["discarded"] + counts["pending"]
    fates = ("virtualized", "self", "exited", "faulted", "escaped", "wild")
    assert counts["total"] == sum(counts[fate] for fate in fates)  # type: ignore[literal-required]


def fine(
    scenario: ipivrs.Scenario, *, seconds: float | None = None, policy: str | None = None
) -> ipivrs.ScenarioResult:
    result = scenario.run(seconds=seconds, policy=policy)
    assert result.violations == []
    assert not result.partial
    balanced(result)
    return result


def storm(**vm: object) -> ipivrs.Scenario:
    whole = {"vcpus": 8, "workload": {"name": "storm"}, **vm}
    chaos = ipivrs.Chaos(preempt=True, migrate=True, toggle_apicv=True, hot_add=2)
    return ipivrs.Scenario(vm=[ipivrs.VM.model_validate(whole)], chaos=chaos, seconds=0.3)


@pytest.mark.parametrize("name", [name for name in shipped_scenarios() if name != "storm"])
def test_the_shipped_scenarios_end_without_violations(name: str) -> None:
    result = ipivrs.run(shipped_path(name), engine="threads")
    assert result.violations == []
    balanced(result)


@pytest.mark.parametrize("policy", ["kvm", "kvm-5.14", "kvm-both-seen", "kvm-sn-in-host"])
def test_a_storm_loses_nothing(policy: str) -> None:
    result = fine(storm(), policy=policy)
    assert result.vms[0]["vcpus"] == 10
    assert result.policy == policy


def test_without_the_series_hunks_a_wakeup_is_lost(shell: Shell) -> None:
    result = shell("run", shipped_path("storm"), "--policy", "kvm-pre-ipiv", "--json")
    assert result.exit_code == 1
    violations = json.loads(result.stdout)["violations"]
    lost = [violation for violation in violations if violation["kind"] == "lost-wakeup"]
    assert lost
    assert "NV=F2H" in lost[0]["message"]
    assert "nobody will wake it" in lost[0]["message"]


def test_xapic_to_x2apic_under_load() -> None:
    result = ipivrs.run(shipped_path("mode-switch"), engine="threads")
    counts = result.counters
    assert counts["total"] == counts["virtualized"] == 160_000
    assert [item["count"] for item in result.exits if item["name"] == "WRMSR"] == [8], "a move and an SVR each"


def test_the_table_is_reported_as_the_kernel_allocates_it() -> None:
    ping = {"name": "ping", "rounds": 10}
    result = fine(ipivrs.Scenario(vm=[ipivrs.VM.model_validate({"workload": ping})]))
    assert result.vms[0]["table"] == {"entries": 4096, "order": 3, "bytes": 32768}
    assert result.vms[0]["last_index"] == 4095
    small = ipivrs.VM.model_validate({"workload": ping, "max_vcpu_ids": 2})
    assert fine(ipivrs.Scenario(vm=[small])).vms[0]["table"] == {"entries": 2, "order": 0, "bytes": 4096}


@pytest.mark.parametrize(("model", "virtualized"), [("sapphire-rapids", 10), ("ice-lake", 0), ("pre-apicv", 0)])
def test_the_processor_decides(model: str, virtualized: int) -> None:
    vm = ipivrs.VM.model_validate({"workload": {"name": "ping", "rounds": 10}})
    processor = ipivrs.Processor.model_validate({"model": model})
    result = fine(ipivrs.Scenario(vm=[vm], processor=processor))
    assert result.counters["virtualized"] == virtualized
    assert result.counters["delivered"] == 10
    assert result.vms[0]["apicv"] == (model != "pre-apicv")


def test_capability_msrs_decide_too() -> None:
    vm = ipivrs.VM.model_validate({"workload": {"name": "ping", "rounds": 10}})
    result = fine(ipivrs.Scenario(vm=[vm], processor=ipivrs.Processor(procbased_ctls3=0)))
    assert not result.vms[0]["ipi_virtualization"]
    with pytest.raises(ValueError, match="does not allow"):
        ipivrs.Scenario(vm=[vm], processor=ipivrs.Processor(procbased_ctls=0)).run()


def test_an_identity_rewritten_inhibits_or_misleads() -> None:
    scenario = ipivrs.Scenario.load(shipped_path("apic-id"))
    assert fine(scenario).vms[0]["inhibits"] == ["APIC_ID_MODIFIED"]
    naive = ipivrs.Scenario.model_validate({**dict(scenario), "host": ipivrs.Host(apic_id_rewrite="naive")})
    kinds = {violation["kind"] for violation in naive.run().violations}
    assert kinds == {"misdelivery", "more"}


def test_a_program_is_built_in_python() -> None:
    sender = ipivrs.Program().loop(100, ipivrs.Program().send(0xFB, to=1).wait("handled"))
    handler = ipivrs.Handler(vector=0xFB, program=ipivrs.Program().signal("handled").eoi())
    vm = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=sender)], handler=[handler])
    result = fine(ipivrs.Scenario(vm=[vm], title="by hand"))
    assert result.counters["virtualized"] == result.counters["delivered"] == 100
    assert repr(result).startswith("<ScenarioResult by hand: 100 IPIs, 100 virtualized")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ipivrs.Program().loop(-1, ipivrs.Program().hlt()), "Loop.times: must be 0 or more, not -1"),
        (lambda: ipivrs.Program().send(256, to=1), "Send.vector: must be 255 or less, not 256"),
        (
            lambda: ipivrs.Program().send(0x41, to="nxt"),  # type: ignore[arg-type]  # that is the point
            "Send.to: must be a whole number or one of next, random, others, not 'nxt'; did you mean next?",
        ),
        (
            lambda: ipivrs.Program().send(0x41),
            "Send: give to (a vCPU, next, random, others) or dest (the raw value)",
        ),
        (lambda: ipivrs.Program().choose((0, ipivrs.Program().hlt())), "Branch.weight: must be 1 or more, not 0"),
        (lambda: ipivrs.VM(vcpu=2), "VM.vcpu: no such field; did you mean vcpus?"),  # type: ignore[call-arg]
        (lambda: ipivrs.Host(pcpus=0, apic="x"), "Host.pcpus: must be 1 or more, not 0\nHost.apic: must be one of "),
        (lambda: ipivrs.Group(program=[]), "Group.vcpus: it is missing, and must be given"),  # type: ignore[call-arg]
        (
            lambda: ipivrs.Scenario(vm=[{"workload": {"name": "ping", "rounds": 0}}]),
            "Scenario.vm[0].workload.rounds: must be 1 or more, not 0",
        ),
    ],
)
def test_mistakes_in_python_are_said_as_in_files(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_every_statement_does_something() -> None:
    program = (
        ipivrs.Program()
        .send(0x41, to="random")
        .send(0x41, to="others")
        .send(0, dest=1, mode="nmi")
        .send(0x51, to="next", logical=True, mode="lowest-priority")
        .broadcast(0x42)
        .broadcast(0x43, including_self=True)
        .self_ipi(0x44)
        .call(0xFB, "others")
        .await_calls()
        .message(0xFD, "next")
        .receive()
        # A change of mode discards what is pending: nobody may wait for its answer.
        .signal("called")
        .wait("called", 3)
        .compute(100)
        .tpr(0x50)
        .tpr(0)
        .apic("xapic")
        .send(0x41, to=1)
        .apic("x2apic")
        .register(0x280, 0)
        .cli()
        .sti()
        .lock("a")
        .unlock("a")
        .choose((1, ipivrs.Program().self_ipi(0x45)), (2, ipivrs.Program().self_ipi(0x46)))
        .signal("done")
        .wait("done", 3)
    )
    handler = ipivrs.Handler(vector=0xFB, program=ipivrs.Program().answer().eoi())
    vm = ipivrs.VM(vcpus=3, group=[ipivrs.Group(vcpus=[0, 1, 2], program=program)], handler=[handler])
    # Of the policies that stand for other hypervisors none is made for a processor with IPI virtualization.
    for policy in ("kvm", "kvm-5.14", "kvm-both-seen", "kvm-sn-in-host"):
        result = fine(ipivrs.Scenario(vm=[vm]), policy=policy)
        assert result.counters["nmis"] == 1 or result.counters["signalled"] == 3
        assert result.as_dict()["unfinished"] == 0


def test_a_vcpu_that_polls_is_called_without_an_ipi() -> None:
    caller = ipivrs.Program().loop(100, ipivrs.Program().call(0xFB, to=1).await_calls().compute(1000))
    idle = ipivrs.Program().loop("forever", ipivrs.Program().poll().answer())
    handler = ipivrs.Handler(vector=0xFB, program=ipivrs.Program().answer().eoi())
    groups = [ipivrs.Group(vcpus=[0], program=caller), ipivrs.Group(vcpus=[1], program=idle)]
    scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, group=groups, handler=[handler])])
    result = scenario.run(engine="virtual-time")
    assert not result.violations
    # The first may come before the other has begun to poll.
    assert result.counters["virtualized"] <= 1
    assert fine(scenario).as_dict()["unfinished"] == 0


def test_illegal_vectors_are_errors_and_nothing_is_delivered() -> None:
    program = ipivrs.Program().send(3, to=1).self_ipi(5).send(0x41, dest=77)
    vm = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=program)])
    counts = fine(ipivrs.Scenario(vm=[vm])).counters
    assert (counts["exited"], counts["delivered"], counts["signalled"], counts["dropped"]) == (3, 0, 2, 1)


@pytest.mark.parametrize("urgent", [False, True])
def test_devices_post_whatever_the_guest_does(urgent: bool) -> None:
    scenario = storm(workload={"name": "storm", "rounds": 2000})
    device = ipivrs.Device(posts=3000, urgent=urgent, gap=0)
    result = fine(ipivrs.Scenario.model_validate({**dict(scenario), "device": [device]}), seconds=60)
    assert result.counters["device_posts"] == 3000


def test_json_keeps_its_names(shell: Shell) -> None:
    result = shell("run", shipped_path("ping"), "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    wanted = {"ipis", "exits", "notifications", "violations", "engine", "seed", "policy", "seconds", "ipis_per_second"}
    assert wanted <= values.keys()
    assert {"total", "virtualized", "self", "exited", "faulted", "delivered", "coalesced", "pending"} <= values[
        "ipis"
    ].keys()
    assert (values["engine"], values["policy"], values["seed"]) == ("threads", "kvm", 1)


def test_the_report_says_how_it_was_obtained(shell: Shell) -> None:
    report = shell("run", shipped_path("ping"), "--seed", "7").stdout
    assert report.startswith("no violations: 100000 interrupts posted, all accounted for\nvmexit/ipi\n")
    assert "PID-pointer table of 4096 entries, order 3 (32768 bytes), last index 4095" in report
    assert "engine threads, policy kvm, seed 7:" in report


def test_a_recording_takes_no_options_of_a_scenario() -> None:
    with pytest.raises(TypeError, match="secnods is no option of a scenario; did you mean seconds"):
        ipivrs.run(storm(), secnods=3)  # type: ignore[call-overload]  # that is the point
    with pytest.raises(TypeError, match="apic is an option of recordings, and this is a scenario"):
        ipivrs.run(storm(), apic="xapic")  # type: ignore[call-overload]  # that is the point
    with pytest.raises(TypeError, match="seed is an option of scenarios, and this is a recording"):
        ipivrs.run("perf.data", seed=3)  # type: ignore[call-overload]  # that is the point
    with pytest.raises(ValueError, match='engine must be "threads"'):
        ipivrs.run(storm(), engine="fast")  # type: ignore[call-overload]  # that is the point


def test_interrupted_the_result_is_partial() -> None:
    command = [sys.executable, "-m", "ipivrs", "run", shipped_path("storm"), "--seconds", "60", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # noqa: PLW1509 (no threads here)
    ) as process:
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    values = json.loads(output)
    assert process.returncode == 130
    assert values["partial"]
    assert values["violations"] == []
    assert values["seconds"] < 10
    assert "partial" in errors


# What a guest may do to its local APIC: any register, any mode, any interrupt command.
def _programs() -> st.SearchStrategy[ipivrs.Program]:
    number = st.integers
    statements = st.one_of(
        st.builds(
            lambda vector, dest, mode, logical: ipivrs.Program().send(vector, dest=dest, mode=mode, logical=logical),
            number(0, 255),
            st.one_of(number(0, 8), number(0, 2**32 - 1)),
            st.sampled_from(["fixed", "lowest-priority", "nmi", "smi"]),
            st.booleans(),
        ),
        st.builds(
            lambda offset, value: ipivrs.Program().register(offset * 16, value), number(0, 63), number(0, 2**32 - 1)
        ),
        st.builds(lambda mode: ipivrs.Program().apic(mode), st.sampled_from(["xapic", "x2apic", "disabled"])),
        st.builds(lambda vector: ipivrs.Program().self_ipi(vector), number(0, 255)),
        st.builds(lambda vector: ipivrs.Program().broadcast(vector), number(0, 255)),
        st.builds(lambda value: ipivrs.Program().tpr(value), number(0, 255)),
        st.just(ipivrs.Program().eoi()),
    )
    return st.lists(statements, max_size=12).map(lambda parts: ipivrs.Program(s for part in parts for s in part))


@settings(max_examples=30)
@given(_programs(), _programs(), st.sampled_from(["x2apic", "xapic"]), st.booleans())
@example(ipivrs.Program(), ipivrs.Program().register(0x3F0, 0x10), "x2apic", False)
@example(ipivrs.Program().register(0x300, 0x1_00F1), ipivrs.Program().register(0x300, 0x41), "x2apic", True)
def test_no_guest_reaches_another_vm(one: list[AnyStatement], other: list[AnyStatement], apic: str, ipiv: bool) -> None:
    """Whatever VM 0 does: nothing is posted for VM 1, whose only interrupts are its own ten."""
    groups = [{"vcpus": [0], "program": one}, {"vcpus": [1], "program": other}]
    mine = ipivrs.VM.model_validate({"vcpus": 2, "apic": apic, "group": groups})
    ten = ipivrs.Program().loop(10, ipivrs.Program().send(0x77, to=1).wait("got"))
    handler = ipivrs.Handler(vector=0x77, program=ipivrs.Program().signal("got").eoi())
    theirs = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=ten)], handler=[handler])
    host = ipivrs.Host(enable_ipiv=ipiv, pcpus=2)
    result = ipivrs.Scenario(vm=[mine, theirs], host=host).run(seconds=30)
    assert result.violations == []
    assert result.vms[1]["inhibits"] == []
    balanced(result)


def test_the_scenario_file_and_python_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        "[[vm]]\nvcpus = 2\n[[vm.group]]\nvcpus = 0\n"
        'program = [{ loop = 3, body = [{ send = 0x41, to = "next" }, "hlt"] }]\n'
    )
    built = ipivrs.Program().loop(3, ipivrs.Program().send(0x41, to="next").hlt())
    scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=built)])])
    assert ipivrs.Scenario.load(file).description() == scenario.description()
