"""Scenario files: what is read, and what every mistake says."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import ipivrs
from conftest import Shell
from ipivrs import profiles, published
from ipivrs.doubts import doubts
from ipivrs.policies import ELSEWHERE, shipped
from ipivrs.running import shipped_path, shipped_scenarios
from pages import ROOT, blocks
from shipped import X2APIC_BOOT

FINITE = '[[vm]]\nworkload = { name = "ping", rounds = 10 }\n'


def mistake(tmp_path: Path, text: str) -> str:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(ipivrs.ScenarioError) as caught:
        ipivrs.Scenario.load(file)
    return str(caught.value).replace(f"{file}:", "a.toml:")


def test_the_scenario_of_the_readme_comes_to_its_end(shell: Shell, tmp_path: Path) -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if block.language == "toml"]
    file = tmp_path / "readme.toml"
    file.write_text(block.text, encoding="utf-8")
    result = shell("run", file, "--engine", "virtual-time")
    assert (result.exit_code, "did not come to" in result.stdout) == (0, False)


def test_a_program_that_sleeps_for_good_is_one_program(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "asleep.toml"
    file.write_text('[[vm]]\nvcpus = 1\n[[vm.group]]\nvcpus = 0\nprogram = ["hlt"]\n', encoding="utf-8")
    printed = shell("run", file, "--engine", "virtual-time").stdout
    assert "1 program did not come to its end: its time was over, or what it waits for did not come" in printed
    assert "slept once" in printed


def test_a_program_that_spins_for_good_is_not_said_to_sleep(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "spins.toml"
    spins = '[[vm.group]]\nvcpus = {}\nprogram = [{{ wait = "go" }}, {{ signal = "go" }}]\n'
    file.write_text(f"[[vm]]\nvcpus = 2\n{spins.format(0)}{spins.format(1)}", encoding="utf-8")
    result = shell("run", file, "--engine", "virtual-time")
    assert (result.exit_code, "stall ended the run" in result.stdout) == (1, True)
    closing = "2 programs did not come to their end: their time was over, or what they wait for did not come"
    assert closing in result.stdout


def test_a_stall_is_of_all_vcpus_and_names_the_first_that_waits(tmp_path: Path) -> None:
    file = tmp_path / "waits.toml"
    file.write_text(
        '[[vm]]\nvcpus = 2\n[[vm.group]]\nvcpus = 1\nprogram = [{ wait = "go" }, { signal = "go" }]\n', encoding="utf-8"
    )
    (stall,) = ipivrs.run(file, engine="virtual-time").violations
    assert (stall["kind"], stall["vcpu"]) == ("stall", 1)
    assert "\n  vCPU 0: sleeps, at its program's end" in stall["message"]
    assert "\n  vCPU 1: runs, where its program waits for" in stall["message"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[vm]]\nvcpus = 0\n", "a.toml:2: vm[0].vcpus: must be 1 or more, not 0"),
        ("[[vm]]\nvcpus = 70000\n", "a.toml:2: vm[0].vcpus: must be 65536 or less, not 70000"),
        ("[[vm]]\nvcpsu = 3\n", "a.toml:2: vm[0].vcpsu: no such field; did you mean vcpus?"),
        ('[[vm]]\nworkload = "storm"\n', 'must be a table with a name, such as { name = "ping" }, not '),
        ("vm = 3\n", "a.toml:1: vm: must be a list in square brackets, not 3"),
        ("", "a.toml:1: vm: it is missing, and must be given"),
        ('[[vm]]\nvcpus = "a"\n', "a.toml:2: vm[0].vcpus: must be a whole number, not 'a'"),
        ("[[vm]]\nvcpus = true\n", "a.toml:2: vm[0].vcpus: must be a whole number, not true"),
        ('[[vm]]\nworkload = { name = "strom" }\n', "did you mean storm?"),
        ('[[vm]]\napic = "apic"\n', "a.toml:2: vm[0].apic: must be one of x2apic, xapic, not 'apic'; did you mean"),
        ('[processor]\nmodel = "ice"\n[[vm]]\n', "a.toml:2: processor.model: must be one of sapphire-rapids, ice-lake"),
        ('[host]\nenable_ipiv = "no"\n[[vm]]\n', "a.toml:2: host.enable_ipiv: must be true or false, not 'no'"),
        ("[host]\nenable_ipiv = 0\n[[vm]]\n", "a.toml:2: host.enable_ipiv: must be true or false, not 0"),
        ('[chaos]\npreempt = "on"\n[[vm]]\n', "a.toml:2: chaos.preempt: must be true or false, not 'on'"),
        ('seconds = "1"\n[[vm]]\n', "a.toml:1: seconds: must be a number, not '1'"),
        ("seconds = true\n[[vm]]\n", "a.toml:1: seconds: must be a number, not true"),
        (
            '[[vm]]\n[[vm.group]]\nvcpus = "0-1,1"\nprogram = []\n',
            "a.toml:3: vm[0].group[0].vcpus: vCPU 1 is there twice",
        ),
        ("[host\n", "a.toml:1:6: unclosed table"),
        ("[[vm]]\nvcpus = four\n", 'a.toml:2:9: four is no number, and a text needs quotes: "four"'),
        ("[[vm]]\nworkload = { name = ping }\n", 'a.toml:2:21: ping is no number, and a text needs quotes: "ping"'),
        ("[[vm]]\nassigned_device = True\n", "a.toml:2:19: must be written true, not True"),
        ("[[vm]]\nvcpus =\n", "a.toml:2:8: a value is missing"),
        ("[[vm]]\nvcpus = 08\n", "a.toml:2:9: unexpected leading zero"),
        ('[[vm]]\nworkload = { Name = "ping" }\n', "a.toml:2: vm[0].workload: no field 'Name'; did you mean name?"),
        ("[[Vm]]\n[[vm]]\n", "a.toml:1: Vm: no such field; did you mean vm?"),
        ("a = 1\na = 2\n", "a.toml:2:1: duplicate key: a is there already"),
        ("[host]\n[[vm]]\n[ host ]\n", "a.toml:3:3: duplicate key: host is there already"),
        ('[host]\n"p q"=1\n  "p q"=2\n', 'a.toml:3:3: duplicate key: "p q" is there already'),
        ("[host]\na.b = 1\na.b = 2\n", "a.toml:3:3: duplicate key: b is there already"),
        ("seconds = nan\n[[vm]]\n", "a.toml:1: seconds: must be a finite number, not nan"),
        (
            '[[vm]]\n[[vm.group]]\nvcpus = "0,3-1"\nprogram = []\n',
            "a.toml:3: vm[0].group[0].vcpus: the range 3-1 runs backwards: write 1-3",
        ),
        ("seed = -1\n[[vm]]\n", "a.toml:1: seed: must be 0 or more, not -1"),
        ('[[vm]]\nvcpus = 300\napic = "xapic"\n', "vcpus must be 255 or less in xAPIC mode"),
        (
            "[[vm]]\nvcpus = 9\nmax_vcpu_ids = 8\n",
            "a.toml:3: vm[0].max_vcpu_ids: must be 9 or more, one for each vCPU, not 8",
        ),
        ("[[vm]]\n[[device]]\nvm = 3\n", "a.toml:3: device[0].vm: device.vm must be 0 to 0, not 3"),
        (
            "[[vm]]\n[[device]]\n[[device]]\ngap = 1\nvcpu = 2\n",
            "a.toml:5: device[1].vcpu: device.vcpu must be 0 to 1, not 2",
        ),
        ("[[vm]]\n[[device]]\nvectors = [3]\n", "a.toml:3: device[0].vectors[0]: must be 16 or more, not 3"),
        (
            '[[vm]]\n[[vm.group]]\nvcpus = 0\nprogram = []\n[[vm.group]]\nprogram = []\nvcpus = "1-9"\n',
            "a.toml:7: vm[0].group[1].vcpus: group names vCPU 9, and the VM has 0 to 1",
        ),
        (
            "[[vm]]\n[[vm.group]]\nvcpus = 0\nprogram = []\n[[vm.group]]\nvcpu = 1\nprogram = []\n",
            "a.toml:6: vm[0].group[1].vcpu: no such field; did you mean vcpus?",
        ),
        (
            '[[vm]]\n[[vm.group]]\nvcpus = "0"\nprogram = [{ loop = 2, body = [{ send = 0xFD, to = 2 }] }]\n',
            "a.toml:4: vm[0].group[0].program[0].body[0].to: to = 2 names a vCPU, and VM 0 has 0 to 1; nobody's",
        ),
        (
            "[[vm]]\n[[vm]]\n[[vm.handler]]\nvector = 65\nprogram = [{choose = [{body = [{call = 65, to = 7}]}]}]\n",
            "a.toml:5: vm[1].handler[0].program[0].choose[0].body[0].to: to = 7 names a vCPU, and VM 1 has 0 to 1",
        ),
        ("[vm]\nvcpus = 2\n", "a.toml:1: vm: there may be several: write [[vm]] for each, not [vm]"),
        (
            '[[vm]]\n[vm.group]\nvcpus = "0"\nprogram = []\n',
            "a.toml:2: vm[0].group: there may be several: write [[vm.group]] for each, not [vm.group]",
        ),
        ("[[host]]\npcpus = 2\n[[vm]]\n", "host: there is one: write [host], not [[host]]"),
        (
            '[[vm]]\n[[vm.group]]\nvcpus = "0-1"\nprogram = []\n[[vm.group]]\nvcpus = 1\nprogram = ["hlt"]\n',
            "a.toml:6: vm[0].group[1].vcpus: vCPU 1 has a program already, in group[0] (line 3)",
        ),
        (
            "[[vm]]\n[[vm.handler]]\nvector = 65\nprogram = []\n[[vm.handler]]\nvector = 65\nprogram = []\n",
            "a.toml:6: vm[0].handler[1].vector: vector 0x41 has a program already, in handler[0] (line 3)",
        ),
        (
            "[[vm]]\n[[vm.handler]]\nvector = 15\nprogram = []\n",
            "a.toml:3: vm[0].handler[0].vector: must be 16 or more, not 15: the local APIC takes no interrupt with a",
        ),
        ('[[vm]]\nworkload = { name = "ping", vector = 0 }\n', "workload.vector: must be 16 or more, not 0: the local"),
        ('[[vm]]\n[[vm.group]]\nvcpus = "x"\nprogram = []\n', 'must be numbers or ranges such as "0-3,8"'),
    ],
)
def test_a_mistake_has_file_line_field_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    assert message in mistake(tmp_path, text)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('{ send = 3, to = 1, logical = "yes" }', "program[0].logical: must be true or false, not 'yes'"),
        ('"htl"', "program[0]: no statement 'htl'; did you mean hlt?"),
        ("{ sned = 3 }", "program[0]: no statement 'sned'; did you mean send?"),
        ("{ lop = 3000, body = ['hlt'] }", "program[0]: no statement 'lop'; did you mean loop?"),
        ("{ mode = 'nmi', sedn = 3, to = 1, }", "program[0]: no statement 'sedn'; did you mean send?"),
        ("{ qqq = 3, body = ['hlt'] }", "program[0]: no statement 'qqq': it is one of hlt, eoi"),
        ("{ body = ['hlt'] }", "program[0]: no statement 'body'"),
        ("7", "program[0]: no statement 7: it is one of hlt, eoi"),
        ("{ send = 300, to = 1 }", "program[0].send: must be 255 or less, not 300"),
        ("{ call = 3, to = 1 }", "program[0].call: must be 16 or more, not 3: the local APIC takes no interrupt"),
        ("{ message = 3, to = 1 }", "program[0].message: must be 16 or more, not 3"),
        ("{ send = 3 }", "give to (a vCPU, next, random, others) or dest"),
        ('{ send = 3, to = 1, mode = "fix" }', "did you mean fixed?"),
        ("{ loop = 3, body = [] }", "program[0].body: must be a list with something in it"),
        ("{ loop = 3, body = [{ compute = -1 }] }", "program[0].body[0].compute: must be 0 or more, not -1"),
        ("{ register = 0x21, value = 0 }", "program[0].register: must be a multiple of 16, not 33"),
        ("{ compute = 3, too = 4 }", "program[0].too: no such field"),
    ],
)
def test_mistakes_in_programs(tmp_path: Path, statement: str, message: str) -> None:
    text = f"[[vm]]\n[[vm.group]]\nvcpus = 0\nprogram = [{statement}]\n"
    found = mistake(tmp_path, text)
    assert found.startswith("a.toml:4: vm[0].group[0].")
    assert message in found


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('{ wait = "dome" }', "wait: waits for 'dome', which nobody in the VM signals; did you mean done?"),
        (
            '{ loop = 2, body = [\n{ wait = "x" }] }',
            "body[0].wait: waits for 'x', which nobody in the VM signals",
        ),
        (
            '{ choose = [{ body = ["hlt"] }, { body = ["hlt",\n{ unlock = "tbale" }] }] }',
            "choose[1].body[1].unlock: releases 'tbale', which nobody in the VM takes; did you mean table?",
        ),
    ],
)
def test_a_name_that_nobody_answers_for_is_a_mistake_of_its_line(tmp_path: Path, statement: str, message: str) -> None:
    group = f'[[vm.group]]\nvcpus = 0\nprogram = [\n{{ lock = "table" }},\n{statement}]\n'
    handler = '[[vm.handler]]\nvector = 0xFB\nprogram = [{ loop = 2, body = [{ signal = "done" }] }, "eoi"]\n'
    line = 6 + statement.count("\n")
    assert mistake(tmp_path, f"[[vm]]\n{group}{handler}") == f"a.toml:{line}: vm[0].group[0].program[1].{message}"


def test_whoever_signals_in_the_vm_ends_a_wait(tmp_path: Path) -> None:
    waits = '[[vm]]\n[[vm.handler]]\nvector = 0xFB\nprogram = [{ wait = "x" }, { unlock = "y" }, "eoi"]\n'
    signals = '[[vm.group]]\nvcpus = 1\nprogram = [{ choose = [{ body = [{ signal = "x" }, { lock = "y" }] }] }]\n'
    file = tmp_path / "a.toml"
    file.write_text(waits + signals)
    ipivrs.Scenario.load(file)
    # A signal of another VM is another signal.
    assert "a.toml:4: vm[0].handler[0].program[0].wait: waits for 'x'" in mistake(tmp_path, f"{waits}[[vm]]\n{signals}")


def test_programs_of_python_are_held_to_the_same() -> None:
    group = ipivrs.Group(vcpus=[0], program=ipivrs.Program().signal("done").wait("dome"))
    with pytest.raises(ValueError, match="waits for 'dome', which nobody in the VM signals; did you mean done"):
        ipivrs.VM(group=[group])
    with pytest.raises(ValueError, match=r"vCPU 0 has a program already, in group\[0\]"):
        ipivrs.VM(group=[ipivrs.Group(vcpus=[0], program=[]), ipivrs.Group(vcpus=[1, 0], program=[])])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            '{ send = 3, to = "nxet" }',
            "to: must be a whole number or one of next, random, others, not 'nxet'; did you mean next?",
        ),
        ("{ send = 3, to = 1.5 }", "to: must be a whole number or one of next, random, others, not 1.5"),
        ("{ send = 3, to = 70000 }", "to: must be 65535 or less, not 70000"),
        (
            '{ loop = "foever", body = ["hlt"] }',
            "loop: must be a whole number or forever, not 'foever'; did you mean forever?",
        ),
        ("{ loop = -1, body = ['hlt'] }", "loop: must be 0 or more, not -1"),
        ("{ apic = 'x2apci' }", "apic: must be one of x2apic, xapic, disabled, not 'x2apci'; did you mean x2apic?"),
    ],
)
def test_a_value_that_may_be_several_things_has_one_mistake(tmp_path: Path, statement: str, message: str) -> None:
    found = mistake(tmp_path, f"[[vm]]\n[[vm.group]]\nvcpus = 0\nprogram = [{statement}]\n")
    assert found == f"a.toml:4: vm[0].group[0].program[0].{message}"


def test_a_grid_is_no_scenario_and_its_command_is_named(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "g.toml"
    file.write_text('scenario = "ping"\n[grid]\nseed = [1, 2]\n')
    result = shell("run", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {file}:2: this is a grid: `ipivrs sweep {file}` runs it\n"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            profiles.shipped()["sapphire-rapids"],
            "this is a profile: `ipivrs run SCENARIO --engine virtual-time --profile {}` uses it",
        ),
        (published.shipped()["ipiv-v4"], "these are measurements: `ipivrs bench published {}` compares them"),
    ],
)
def test_what_is_no_scenario_is_called_what_it_is(shell: Shell, file: Path, says: str) -> None:
    for command in ("run", "sweep"):
        result = shell(command, file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.fullmatch(rf"error: {re.escape(str(file))}:\d+: {re.escape(says.format(file))}\n", result.stderr)


def test_many_mistakes_are_shown_together_and_counted(tmp_path: Path) -> None:
    lines = mistake(tmp_path, "[[vm]]\nvcpus = 0\n" * 8).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "and 3 more"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ipivrs.Scenario(vm=[ipivrs.Vm(vcpus=2)]), r"Scenario.vm\[0\]: must be an ipivrs.VM, .* an ipivrs.Vm"),
        (lambda: ipivrs.Scenario(vm=ipivrs.VM()), r"^Scenario.vm: must be a list, such as \[VM\(...\)\], not one VM$"),
        (lambda: ipivrs.VM(group=ipivrs.Group(vcpus=[0], program=[])), r"^VM.group: must be a list, such as \[Group"),
        (lambda: ipivrs.Profile.load("sapphire-rapids"), "No such file.*profiles/sapphire-rapids.toml$"),
        (lambda: ipivrs.Scenario.load("ping"), "No such file.*; shipped with this name is .*scenarios/ping.toml$"),
        (lambda: ipivrs.Scenario.load("pong"), "^pong: No such file or directory$"),
    ],
)
def test_python_is_told_what_to_give_instead(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ipivrs.ScenarioError, match="No such file"):
        ipivrs.Scenario.load(tmp_path / "no.toml")
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ipivrs.ScenarioError, match="not UTF-8"):
        ipivrs.Scenario.load(binary)


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_title_that_counts_vcpus_counts_those_that_are_added(name: str) -> None:
    scenario = ipivrs.Scenario.load(shipped_path(name))
    counted = re.search(r"(\d+) vCPUs", scenario.title)
    if counted:
        assert int(counted[1]) == scenario.vm[0].vcpus
        added = re.search(r"and (\d+) that are added", scenario.title)
        assert int(added[1] if added else 0) == scenario.chaos.hot_add


@pytest.mark.parametrize("name", shipped_scenarios())
def test_the_shipped_scenarios_are_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(shipped_scenarios()[name])
    assert ipivrs.Scenario.load(file).title


def test_the_shell_refuses_and_runs_nothing(tmp_path: Path, shell: Shell) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(FINITE)
    bad.write_text("[[vm]]\nvcpus = 0\n")
    result = shell("run", good, bad)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {bad}:2: vm[0].vcpus: must be 1 or more, not 0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", ""], "the name of the policy is empty; shipped are acrn-1462, acrn-4778"),
        (["--policy", "kmv"], "did you mean kvm?"),
        (["--policy", "kvm-tso"], "policy kvm-tso is for `ipivrs check`: it is kvm under bounds of its own; use kvm\n"),
        (
            ["--policy", "on-not-retested"],
            "policy on-not-retested is for `ipivrs check`: it is kvm with lines changed; use kvm, or a file with",
        ),
        (["--policy", "nosuch"], "shipped are acrn-1462, acrn-4778, acrn-4978, avic, avic-1235, kvm, kvm-5.14"),
        (["--seconds", "x"], "--seconds must be a number"),
        (["--seconds", "-1"], "--seconds must be a number"),
        (["--seconds", "nan"], "--seconds must be a number"),
        (["--seed", "-1"], "--seed must be 0 to"),
        (["--pace", "free"], "--pace is an option of recordings"),
        (["--no-ipiv"], "--no-ipiv is an option of recordings"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, shell: Shell, options: list[str], message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(FINITE)
    result = shell("run", file, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_policy_with_a_mistake_names_its_place(tmp_path: Path, shell: Shell) -> None:
    file, policy = tmp_path / "a.toml", tmp_path / "x.policy"
    file.write_text(FINITE)
    policy.write_text("policy x\n  laod: fence\n")
    result = shell("run", file, "--policy", policy)
    assert result.exit_code == 2
    assert result.stderr == f'error: {policy}:2:3: no routine "laod"; did you mean load?\n'


def test_a_policy_that_is_not_there_is_a_mistake_of_its_line(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'[host]\npcpus = 2\npolicy = "kvmm"\n{FINITE}')
    result = shell("run", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file}:3: host.policy: no policy 'kvmm'")
    assert result.stderr.endswith("; did you mean kvm?\n")
    with pytest.raises(ipivrs.PolicyError, match=r"a\.toml:3: host\.policy: no policy 'kvmm'"):
        ipivrs.run(str(file), engine="threads")
    assert shell("run", file, "--policy", "kvm").exit_code == 0, "another policy is asked for"
    assert ipivrs.run(str(file), engine="threads", policy="kvm").policy == "kvm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[processor]\npinbased_ctls = 0",
            "2: processor.pinbased_ctls: the processor does not allow external-interrupt",
        ),
        (
            "[processor]\nprocbased_ctls = 0",
            "2: processor.procbased_ctls: the processor does not allow HLT exiting and",
        ),
        (
            "[processor]\nprocbased_ctls = 0x8400_0000_0000",
            "2: processor.procbased_ctls: the processor does not allow HLT exiting and",
        ),
        (
            "[processor]\nprocbased_ctls = 0x84_0000_0000",
            "2: processor.procbased_ctls: the processor does not allow use TPR shadow, use MSR bitmaps and activate",
        ),
        (
            "[processor]\n\nprocbased_ctls2 = 0",
            "3: processor.procbased_ctls2: the processor does not allow virtualize APIC accesses",
        ),
        ("[processor]\npinbased_ctls = 1", "2: processor.pinbased_ctls: VM entry of vCPU 0 fails: pin-based controls"),
        (
            "[processor]\nprocbased_ctls = 0xFFFF_FFFF_FFFF_FFFF",
            "2: processor.procbased_ctls: VM entry of vCPU 0 fails: primary processor-based controls",
        ),
        ("[host]\npcpus = 300", "2: host.pcpus: must be 256 or less on threads, not 300"),
        ("[[vm]]\nvcpus = 5000\nworkload = { name = 'tlb-shootdown' }", "1: vm[0]: programs that call other vCPUs can"),
        (
            "[[vm]]\nworkload = { name = 'storm' }",
            "1: seconds: no program and no device of this scenario ends by itself",
        ),
    ],
)
def test_a_machine_that_cannot_be_is_a_mistake_of_a_line(tmp_path: Path, shell: Shell, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text if "[[vm]]" in text else f"{text}\n{FINITE}", encoding="utf-8")
    result = shell("run", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file}:{message}")
    with pytest.raises(ipivrs.ScenarioError, match=f"^{re.escape(f'{file}:{message}')}"):
        ipivrs.run(file)
    with pytest.raises(ValueError, match=f"^{re.escape(message.partition(': ')[2])}"):
        ipivrs.Scenario.load(file).run()


def test_what_would_never_end_is_refused(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[[vm]]\nworkload = { name = "storm" }\n')
    result = shell("run", file)
    assert result.exit_code == 2
    assert "for how many seconds" in result.stderr
    assert shell("run", file, "--seconds", "0.1").exit_code == 0


def test_a_shipped_scenario_is_found_by_its_name(shell: Shell) -> None:
    for word in ("nowhere/storm.toml", "storm"):
        result = shell("run", word)
        assert result.exit_code == 2
        assert "the shipped scenario of this name is" in result.stderr
    assert "the shipped scenario" not in shell("run", "storm.data").stderr


ONE = "[[vm]]\nvcpus = 1\n[[vm.group]]\nvcpus = 0\n"
TO_NEXT = '{ send = 0x41, to = "next" }'
HANDLER = "[[vm.handler]]\nvector = 0x41\n"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            f'{ONE}program = [{{ loop = 2, body = [{{ send = 0x41, to = "random" }}] }}]\n',
            ['note: a.toml:5: vm[0].group[0].program[0].body[0].to: "random" is about other vCPUs, and the VM has one'],
        ),
        (f'{ONE}program = [{{ call = 0x41, to = "others" }}, {{ message = 0x41, to = "next" }}]\n', ["note: "] * 2),
        (f"{ONE}program = [{{ send = 0x41, to = 0 }}, {{ send = 0x41, dest = 0 }}]\n", []),
        (f"[chaos]\nhot_add = 1\n{ONE}program = [{TO_NEXT}]\n", []),
        (
            f'{ONE}program = [{{ self = 0x41 }}]\n{HANDLER}program = ["sti"]\n',
            ["note: a.toml:8: vm[0].handler[0].program: no eoi: vector 0x41 stays in service once it is delivered"],
        ),
        (f'{ONE}program = ["eoi"]\n{HANDLER}program = ["sti"]\n', []),
        (f'{ONE}program = []\n{HANDLER}program = [{{ choose = [{{ body = ["eoi"] }}] }}]\n', []),
        (f"{ONE}program = []\n{HANDLER}program = [{{ register = 0xB0, value = 0 }}]\n", []),
        (f"{ONE}program = [{', '.join([TO_NEXT] * 7)}]\n", ["note: "] * 6),
        (
            "[[vm]]\nlast_index = 4096\n",
            ["note: a.toml:2: vm[0].last_index: 4096 is beyond the table of 4096 entries: the processor reads past"],
        ),
        (
            "[[vm]]\nmax_vcpu_ids = 8\nlast_index = 8\n",
            ["note: a.toml:3: vm[0].last_index: 8 is beyond the table of 8 "],
        ),
        ("[[vm]]\nmax_vcpu_ids = 8\nlast_index = 7\n", []),
        ("[chaos]\nhot_add = 2\n[[vm]]\nvcpus = 4096\nlast_index = 4097\n", []),
        (
            "[chaos]\nhot_add = 2\n[[vm]]\nvcpus = 4096\nlast_index = 4098\n",
            ["note: a.toml:5: vm[0].last_index: 4098 is beyond the table of 4098 entries"],
        ),
    ],
)
def test_what_is_seldom_meant_is_remarked(tmp_path: Path, shell: Shell, text: str, notes: list[str]) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    result = shell("run", file, "--engine", "virtual-time", "--seconds", "0.001", "--json")
    assert (result.exit_code, json.loads(result.stdout)["violations"]) == (0, [])
    said = result.stderr.replace(str(file), "a.toml").splitlines()
    assert len(said) == len(notes)
    assert all(line.startswith(note) for line, note in zip(said, notes, strict=True)), said


@pytest.mark.parametrize("name", shipped_scenarios())
def test_shipped_scenarios_mean_what_they_say(name: str) -> None:
    assert list(doubts(ipivrs.Scenario.load(shipped_path(name)))) == []


def test_it_is_said_whose_a_policy_is_that_ipis_go_past(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "a.toml"
    file.write_text(FINITE)
    run = ("run", file, "--engine", "virtual-time", "--seconds", "0.001", "--policy")
    for policy, whose in (("avic-1235", "AMD's AVIC"), ("acrn-1462", "ACRN")):
        result = shell(*run, policy, "--json")
        assert json.loads(result.stdout)["policy"] == policy
        assert result.stderr.startswith(f"note: policy {policy} belongs to {whose}: IPIs that Intel's")
        assert f"`ipivrs check {policy}`" in result.stderr
        assert "With host.enable_ipiv = false all go through it; " in result.stderr
    assert shell(*run, "kvm-sn-in-host").stderr == ""
    said = shell("run", X2APIC_BOOT, "--engine", "virtual-time", "--policy", "avic").stderr
    assert said.startswith("note: policy avic belongs to AMD's AVIC: ")
    assert "runs without IPI virtualization, and there all go through it; without --policy" in said
    assert "host." not in said, "a recording has no such field"
    file.write_text(f'[host]\npolicy = "avic"\n{FINITE}')
    assert "policy avic belongs to" in shell(*run[:-1]).stderr
    file.write_text(f"[host]\nenable_ipiv = false\n{FINITE}")
    assert shell(*run, "avic").stderr == ""


def test_every_shipped_policy_is_kvms_or_it_is_said_whose() -> None:
    others = {name for name in shipped() if not name.startswith("kvm")}
    assert set(ELSEWHERE) == others


MINE = shipped()["kvm"].replace("policy kvm", "policy mine")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy in it; the current directory is another one, with another policy under the same name."""
    (tmp_path / "home" / "sub").mkdir(parents=True)
    (tmp_path / "away" / "sub").mkdir(parents=True)
    (tmp_path / "home" / "sub" / "my.policy").write_text(MINE)
    (tmp_path / "away" / "sub" / "my.policy").write_text("this is not read\n")
    (tmp_path / "away" / "here.policy").write_text(MINE.replace("policy mine", "policy given"))
    monkeypatch.chdir(tmp_path / "away")
    return tmp_path / "home"


def test_the_path_of_a_policy_begins_where_it_stands(elsewhere: Path, shell: Shell) -> None:
    file = elsewhere / "a.toml"
    file.write_text(f'[host]\npolicy = "sub/my.policy"\n{FINITE}')
    for name in (str(file), "../home/a.toml"):
        result = shell("run", name, "--engine", "virtual-time", "--json")
        assert (result.exit_code, result.stderr, json.loads(result.stdout)["policy"]) == (0, "", "mine")
        assert ipivrs.run(name, engine="threads").policy == "mine"
        loaded = ipivrs.Scenario.load(name)
        assert loaded.run(engine="virtual-time").policy == "mine"
        assert ipivrs.run(loaded).policy == "mine"
    assert shell("run", file, "--policy", "here.policy").exit_code == 0, "from the current directory"
    assert ipivrs.run(str(file), engine="threads", policy="here.policy").policy == "given"
    by_hand = ipivrs.Scenario(host=ipivrs.Host(policy="here.policy"), vm=loaded.vm)
    assert by_hand.run(engine="virtual-time").policy == "given"


def test_a_policy_of_the_current_directory_is_not_meant_by_a_file(elsewhere: Path, shell: Shell) -> None:
    file = elsewhere / "a.toml"
    for given in ("here.policy", "kvmm", "kvm-tso"):
        file.write_text(f'[host]\npolicy = "{given}"\n{FINITE}')
        start = f"error: {file}:2: host.policy: "
        tried = f"no policy {given!r}: as a file {elsewhere}/{given}, No such file or directory"
        wanted = f"{start}policy kvm-tso is for `ipivrs check`" if given == "kvm-tso" else f"{start}{tried}"
        assert shell("run", file).stderr.startswith(wanted)
    with pytest.raises(ipivrs.PolicyError, match="policy kvm-tso is for `ipivrs check`"):
        ipivrs.Scenario.load(file).run()
    (elsewhere / "sub" / "my.policy").write_text("policy x\n  laod: fence\n")
    file.write_text(f'[host]\npolicy = "sub/my.policy"\n{FINITE}')
    assert shell("run", file).stderr.startswith(
        f'error: {file}:2: host.policy: {elsewhere}/sub/my.policy:2:3: no routine "laod"'
    )
    absolute = elsewhere.parent / "away" / "here.policy"
    file.write_text(f'[host]\npolicy = "{absolute}"\n{FINITE}')
    assert ipivrs.run(str(file), engine="threads").policy == "given"


def test_policies_of_measurements_are_in_their_folder(elsewhere: Path) -> None:
    file = elsewhere / "m.toml"
    row = '[[row]]\nname = "r"\nmeasured = 1\nquantity = "speed-up"\n'
    scenario = 'host = { policy = "sub/my.policy" }, vm = [{ workload = { name = "ping", rounds = 5 } }]'
    for baseline in ('"host.policy" = "sub/my.policy"', 'host = { policy = "sub/my.policy", pcpus = 1 }'):
        file.write_text(f'title = "t"\nsource = "s"\n{row}scenario = {{ {scenario} }}\nbaseline = {{ {baseline} }}\n')
        (found,) = published.find(str(file)).row
        assert found.scenario.run(engine="virtual-time").policy == "mine"
        assert found.compared().run(engine="virtual-time").policy == "mine"
