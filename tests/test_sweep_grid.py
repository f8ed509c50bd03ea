"""Grids: what they mean, and what every mistake says."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import ipivrs
from conftest import Shell
from ipivrs import profiles
from ipivrs.engines import DEFAULT_ENGINE
from ipivrs.field_paths import known_paths, plain
from ipivrs.grid import find_grid, shipped_grids
from ipivrs.grid_points import Plan
from ipivrs.rows import run_point
from ipivrs.running import shipped_path, shipped_scenarios
from sweeps import QUICK, write_grid

NOTHING = 'nothing varies: write under [grid] fields and their values, such as "host.pcpus" = [1, 2, 4]'


def values(folder: Path, grid: str, scenario: str = QUICK) -> list[dict[str, Any]]:
    plan = Plan(find_grid(write_grid(folder, grid, scenario)))
    return [plan.values(point) for point in plan.points]


def mistake(folder: Path, text: str) -> str:
    (folder / "base.toml").write_text(QUICK)
    file = folder / "g.toml"
    file.write_text(text)
    with pytest.raises(ipivrs.SweepError) as caught:
        Plan(find_grid(file))
    return str(caught.value).replace(f"{folder}/", "")


def mistake_in(folder: Path, grid: str) -> str:
    return mistake(folder, f'scenario = "base.toml"\n[grid]\n{grid}\n')


def test_the_points_are_the_product_and_the_last_key_is_the_fastest(tmp_path: Path) -> None:
    found = values(tmp_path, 'seed = [3, 1]\n"host.pcpus" = [1, 2]\n"host.apic" = ["xapic", "x2apic"]')
    expected = itertools.product([3, 1], [1, 2], ["xapic", "x2apic"])
    assert [tuple(point.values()) for point in found] == list(expected)
    assert list(found[0]) == ["seed", "host.pcpus", "host.apic"]


def test_keys_without_quotes_are_the_same(tmp_path: Path) -> None:
    found = values(tmp_path, "vm.0.vcpus = [2, 3]\nhost.pcpus = { from = 1, to = 2 }\nseed = [1]")
    assert found == values(tmp_path, '"vm.0.vcpus" = [2, 3]\n"host.pcpus" = [1, 2]\nseed = [1]')
    assert list(found[0]) == ["vm.0.vcpus", "host.pcpus", "seed"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{ from = 1, to = 4 }", [1, 2, 3, 4]),
        ("{ from = 1, to = 6, step = 2 }", [1, 3, 5]),
        ("{ from = 1, to = 256, factor = 4 }", [1, 4, 16, 64, 256]),
        ("{ from = 3, to = 3 }", [3]),
    ],
)
def test_ranges(tmp_path: Path, written: str, meant: list[int]) -> None:
    assert [point["host.time_slice"] for point in values(tmp_path, f'"host.time_slice" = {written}')] == meant


def test_ranges_of_fractions_end_where_they_say(tmp_path: Path) -> None:
    found = values(tmp_path, "seconds = { from = 0.7, to = 1, step = 0.1 }")
    assert [point["seconds"] for point in found] == pytest.approx([0.7, 0.8, 0.9, 1])


def test_coupled_fields_vary_together(tmp_path: Path) -> None:
    found = values(tmp_path, '"vm.0.vcpus, host.pcpus" = [[8, 2], [4, 1]]\nseed = [1, 2]')
    assert [tuple(point.values()) for point in found] == [(8, 2, 1), (8, 2, 2), (4, 1, 1), (4, 1, 2)]
    assert list(found[0]) == ["vm.0.vcpus", "host.pcpus", "seed"]


def test_tables_and_missing_tables_can_be_set(tmp_path: Path) -> None:
    found = find_grid(
        write_grid(
            tmp_path, '"chaos.preempt" = [true]\n"vm.0.workload" = [{ name = "ping" }, { name = "storm", rounds = 3 }]'
        )
    )
    plan = Plan(found)
    scenarios = [ipivrs.Scenario.model_validate(plan.description(point)["scenario"]) for point in plan.points]
    assert all(scenario.chaos.preempt for scenario in scenarios)
    assert [scenario.vm[0].workload.name for scenario in scenarios if scenario.vm[0].workload] == ["ping", "storm"]


def test_statements_of_programs_can_be_set(tmp_path: Path) -> None:
    scenario = "[[vm]]\n[[vm.group]]\nvcpus = 0\nprogram = [{ send = 0xFD, to = 1 }, 'hlt']\n"
    assert len(values(tmp_path, '"vm.0.group.0.program.0.send" = [0xFD, 0xFB]', scenario)) == 2
    # The field's name in Python, beside which the file's would count.
    with pytest.raises(ipivrs.SweepError, match="extra inputs are not permitted"):
        values(tmp_path, '"vm.0.group.0.program.0.vector" = [0xFD, 0xFB]', scenario)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "g.toml:1: scenario: it is missing, and must be given"),
        ('scenario = "base.toml"\n', f"g.toml:1: grid: {NOTHING}"),
        ('scenario = "base.toml"\ngrid = 3\n', "g.toml:2: grid: must be a table, not 3"),
        ('scenario = "base.toml"\n[grid]\n', f"g.toml:2: grid: {NOTHING}"),
        ('scenaro = "base.toml"\n[grid]\nseed = [1]\n', "g.toml:1: scenaro: no such field; did you mean scenario?"),
        ("scenario = 3\n[grid]\nseed = [1]\n", "g.toml:1: scenario: must be the path of a scenario, or the name of a"),
        ('\nscenario = "no.toml"\n[grid]\nseed = [1]\n', "g.toml:2: scenario: no scenario 'no.toml': there is no file"),
        ('scenario = "pnig"\n[grid]\nseed = [1]\n', "no scenario 'pnig': there is no file pnig; did you mean ping?"),
        ('scenario = "ping.toml"\n[grid]\nseed = [1]\n', "the shipped scenario of this name is 'ping'"),
        (
            'scenario = "base.toml"\nengine = "thread"\n[grid]\nseed = [1]\n',
            "g.toml:2: engine: must be one of threads, virtual-time, not 'thread'; did you mean threads?",
        ),
        ("[grid\n", "g.toml:1:6: unclosed table"),
    ],
)
def test_mistakes_around_the_grid(tmp_path: Path, text: str, message: str) -> None:
    assert message in mistake(tmp_path, text)


def test_a_key_without_values_is_one_mistake(tmp_path: Path) -> None:
    wanted = "g.toml:3: grid.host.pcpus: must be a list with something in it, not []"
    assert mistake(tmp_path, 'scenario = "base.toml"\n[grid]\n"host.pcpus" = []\n').splitlines() == [wanted]
    with pytest.raises(ValueError, match="must be a list with something in it"):
        ipivrs.Grid(scenario="ping", grid={"host.pcpus": range(0)})
    with pytest.raises(ValueError, match="nothing varies"):
        ipivrs.Grid(scenario="ping", grid={})


def test_a_scenario_is_no_grid_and_its_command_is_named(shell: Shell) -> None:
    file = shipped_path("ping")
    result = shell("sweep", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file}:")
    assert result.stderr.endswith(f": this is a scenario: `ipivrs run {file}` runs it\n")
    for name in ("ping", "ping.toml"):
        named = shell("sweep", name)
        assert (named.exit_code, named.stdout) == (2, "")
        assert named.stderr.startswith(f"error: no grid '{name}': ping is a scenario; `ipivrs run {file}` runs it, ")
        assert 'scenario = "ping" and under [grid] ' in named.stderr


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ('"host.pcpu" = [1]', "g.toml:3: grid.host.pcpu: no such field of the scenario; did you mean host.pcpus?"),
        ('"pcpus" = [1]', "g.toml:3: grid.pcpus: no such field of the scenario; did you mean host.pcpus?"),
        ('"hots.pcpus" = [1]', "no such field of the scenario; did you mean host.pcpus?"),
        ('"vm.0.workload.ronds" = [1]', "no such field of the scenario; did you mean vm.0.workload.rounds?"),
        ('"vm.1.vcpus" = [1]', "g.toml:3: grid.vm.1.vcpus: the scenario has no vm.1: it has vm.0"),
        ('"vm.x.vcpus" = [1]', "the scenario has no vm.x: it has vm.0"),
        ('"device.0.gap" = [1]', "the scenario has no device.0: it has no device"),
        ('"Vm.0.vcpus" = [1]', "the scenario has no Vm.0: it has no Vm; did you mean vm?"),
        ('"vm.0.workload.rounds.x" = [1]', "vm.0.workload.rounds is 5, not a table"),
        ('"host.pcpus" = [\n  1,\n  70000,\n]', "g.toml:5: grid.host.pcpus: must be 65536 or less, not 70000"),
        ('"host.pcpus" = ["2"]', "grid.host.pcpus: must be a whole number, not '2'"),
        ('"host.pcpus" = [2.5]', "grid.host.pcpus: must be a whole number, not 2.5"),
        ('"host.pcpus" = { from = 0, to = 3 }', "g.toml:3: grid.host.pcpus: must be 1 or more, not 0"),
        ('"host.apic" = ["x3apic"]', "must be one of x2apic, xapic, not 'x3apic'; did you mean xapic?"),
        (
            '"host.policy" = ["kvm", "kmv"]',
            "g.toml:3: grid.host.policy: no policy 'kmv': as a file kmv, No such file or directory; did",
        ),
        ('"vm.0.workload" = [{ name = "strom" }]', "grid.vm.0.workload: must be one of"),
        (
            '"vm.0.workload" = [{ name = "ping", rounds = 0 }]',
            "grid.vm.0.workload: vm.0.workload.rounds: must be 1 or more, not 0",
        ),
        (
            'seed = [1, 2]\n"vm.0.vcpus" = [9, 300]\n"vm.0.apic" = ["xapic"]',
            "vm.0: vcpus must be 255 or less in xAPIC mode: its APIC IDs have 8 bits (with vm.0.vcpus = 300, vm.0.apic",
        ),
        ('"host.pcpus" = []', "g.toml:3: grid.host.pcpus: must be a list with something in it"),
        ('"host.pcpus" = 3', "must be a list of values, or a range such as { from = 1, to = 16 }, not 3"),
        ('"host.pcpus" = [1, 2, 1]', "grid.host.pcpus: 1 is there twice"),
        ('"host.pcpus" = [1]\nhost.pcpus = [2]', "grid.host.pcpus: it is there twice"),
        ('"seed, host.pcpus" = [[1, 2]]\nseed = [2]', "grid.seed: 'seed, host.pcpus' has this field already"),
        ('"vm.0.workload" = [1]\n"vm.0.workload.rounds" = [2]', "vm.0.workload.rounds and vm.0.workload (of vm.0.work"),
        ('"seed, host.pcpus" = [[1]]', "grid.seed, host.pcpus: each must be a list, [seed, host.pcpus]; not [1]"),
        ('"seed, host.pcpus" = [1]', "each must be a list, [seed, host.pcpus]; not 1"),
        ('"seed, host.pcpus" = { from = 1, to = 2 }', "must be a list of lists, [seed, host.pcpus]; not a range"),
        ('"seed," = [1]', "write fields with dots, such as vm.0.vcpus, and commas between several"),
        ('"host..pcpus" = [1]', "write fields with dots"),
        ("seed = { form = 1, to = 2 }", "g.toml:3: grid.seed.form: no such field; did you mean from?"),
        ("host.pcpus = 3", "g.toml:3: grid.host.pcpus: must be a list of values, or a range such as"),
        ('host.pcpus = [1]\nhost.policy = "kvm"', "g.toml:4: grid.host.policy: must be a list of values, or a range"),
        ("host.pcpus = [1]\nseed = {}", "g.toml:4: grid.seed: must be a list of values, or a range such as"),
        ("seed = { frm = 1, to = 2 }", "g.toml:3: grid.seed.frm: no such field; did you mean from?"),
        ("seed = { from = 1 }", "grid.seed.to: it is missing, and must be given"),
        ('seed = { from = "a", to = 2 }', "grid.seed.from: must be a number, not 'a'"),
        ("seed = { from = 1, to = 2, step = true }", "grid.seed.step: must be a number, not true"),
        ("seed = { from = 1, to = 2, step = 0 }", "grid.seed: step must be above 0, not 0"),
        ("seed = { from = 1, to = 2, factor = 1 }", "grid.seed: factor must be above 1, not 1"),
        ("seed = { from = 0, to = 2, factor = 2 }", "grid.seed: with a factor, from must be above 0, not 0"),
        ("seed = { from = 1, to = 2, step = 1, factor = 2 }", "grid.seed: give either step or factor, not both"),
        ("seed = { from = 3, to = 2 }", "grid.seed: from (3) must not exceed to (2)"),
        ("seed = { from = 0, to = 1000000 }", "grid.seed: has more than 1,000,000 values"),
        (
            "seed = { from = 0, to = 9999 }\n'host.time_slice' = { from = 1, to = 101 }",
            "g.toml:2: grid: it has 1,010,000 points, and a sweep at most 1,000,000",
        ),
    ],
)
def test_mistakes_in_the_grid(tmp_path: Path, grid: str, message: str) -> None:
    assert message in mistake_in(tmp_path, grid)


def test_a_group_that_a_vm_is_too_small_for_is_told_with_what_varies_in_the_vm(tmp_path: Path) -> None:
    group = '[[vm]]\nvcpus = 8\n[[vm.group]]\nvcpus = "0-5"\nprogram = ["hlt"]\n'
    grid = write_grid(tmp_path, 'seed = [1, 2]\n"vm.0.vcpus" = [8, 2]', group)
    with pytest.raises(ipivrs.SweepError) as caught:
        Plan(find_grid(grid))
    wanted = "vm.0.group.0.vcpus: group names vCPU 5, and the VM has 0 to 1 (with vm.0.vcpus = 2)"
    assert str(caught.value).endswith(f": grid.vm.0.vcpus: {wanted}")


def test_a_value_that_is_wrong_at_many_points_is_said_once(tmp_path: Path) -> None:
    found = mistake_in(tmp_path, '"host.pcpus" = [0, 70000]\nseed = [1, 2, 3]').splitlines()
    assert len(found) == 2
    many = mistake_in(tmp_path, '"host.pcpus" = [-1, -2, -3, -4, -5, -6, -7]').splitlines()
    assert len(many) == 6
    assert many[-1] == "and 2 more"


def test_a_mistake_in_the_scenario_is_the_scenarios(tmp_path: Path) -> None:
    with pytest.raises(ipivrs.SweepError, match=r"base\.toml:2: vm\[0\]\.vcpus: must be 1 or more, not 0"):
        values(tmp_path, "seed = [1]", "[[vm]]\nvcpus = 0\n")


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ipivrs.SweepError, match="engine must be one of threads"):
        Plan(find_grid(write_grid(tmp_path, "seed = [1]")), engine="steam")


def test_what_the_engine_refuses_is_said_before_anything_runs(tmp_path: Path) -> None:
    found = mistake(tmp_path, 'scenario = "base.toml"\nengine = "threads"\n[grid]\n"host.pcpus" = [1, 300]\n')
    assert found.startswith("g.toml:4: grid.host.pcpus: must be 256 or less on threads, not 300")


def test_a_profile_of_ones_own_stands_beside_the_grid_and_travels_with_the_points(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(profiles.shipped()[profiles.DEFAULT].read_text())
    grid = write_grid(tmp_path, "seed = [1]")
    grid.write_text('profile = "mine.toml"\n' + grid.read_text())
    plan = Plan(find_grid(grid))
    (point,) = plan.points
    described = json.loads(json.dumps(plan.description(point)))
    profile.unlink()
    row = run_point(described)
    assert (row["error"], row["profile"]) == (None, "mine.toml")


def test_a_profile_that_changes_changes_the_points(tmp_path: Path) -> None:
    text = profiles.shipped()[profiles.DEFAULT].read_text()
    (tmp_path / "mine.toml").write_text(text)
    grid = write_grid(tmp_path, "seed = [1]")
    grid.write_text('profile = "mine.toml"\n' + grid.read_text())
    before = Plan(find_grid(grid)).points
    (tmp_path / "mine.toml").write_text(text.replace("hz = 2", "hz = 3"))
    assert Plan(find_grid(grid)).points != before


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ('profile = "no-such"', "g.toml:2: profile: no profile 'no-such'"),
        (
            'engine = "threads"\nprofile = "sapphire-rapids"',
            "g.toml:3: profile: the engine threads takes no profile: leave out 'sapphire-rapids'",
        ),
        ('profile = "base.toml"', "g.toml:2: profile: base.toml:"),
    ],
)
def test_profiles_that_cannot_be_used(tmp_path: Path, top: str, message: str) -> None:
    assert mistake(tmp_path, f'scenario = "base.toml"\n{top}\n[grid]\nseed = [1]\n').startswith(message)


def test_an_engine_without_profiles_that_is_given_instead_does_without_the_grids(tmp_path: Path, shell: Shell) -> None:
    grid = write_grid(tmp_path, "seed = [1]")
    plain_points = Plan(find_grid(grid), "threads").points
    grid.write_text('profile = "sapphire-rapids"\n' + grid.read_text())
    plan = Plan(find_grid(grid), "threads")
    assert (plan.profile, plan.points) == (None, plain_points)
    note = "note: the engine threads takes no profile: that of the grid is not used\n"
    for options, said in (["--engine", "threads"], note), (["--engine", "virtual-time", "--restart"], ""):
        result = shell("sweep", grid, "--out", tmp_path / "r.csv", "--workers", "1", *options)
        assert (result.exit_code, result.stderr) == (0, said)
    result = shell("sweep", grid, "--engine", "threads", "--profile", "sapphire-rapids")
    assert "the engine threads takes no profile: leave out 'sapphire-rapids'" in result.stderr


def test_help_names_the_engine_that_a_sweep_has_by_default(shell: Shell) -> None:
    said = "".join(shell("sweep", "--help").stdout.split())
    assert f"Instead of the grid's engine, which is {DEFAULT_ENGINE} if it names none.".replace(" ", "") in said


def test_a_grid_is_no_scenario_of_a_grid(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "e.toml"
    file.write_text('title = "x"\nscenario = "e.toml"\n[grid]\nseed = [1]\n')
    what = f"must be a scenario, a file with [[vm]], and {file} is a grid"
    assert shell("sweep", file).stderr == f"error: {file}:2: scenario: {what}\n"
    with pytest.raises(ipivrs.SweepError, match=rf"^scenario: {re.escape(what)}$"):
        Plan(find_grid(ipivrs.Grid(scenario=file, grid={"seed": [1]})))


def test_a_profile_that_is_given_instead_is_no_mistake_of_the_grid(tmp_path: Path) -> None:
    with pytest.raises(ipivrs.SweepError, match=r"^no profile 'no-such'"):
        Plan(find_grid(write_grid(tmp_path, "seed = [1]")), profile="no-such")


def test_from_python() -> None:
    ping = ipivrs.Program().loop(3, ipivrs.Program().send(0xFB, to=1).compute(500)).hlt()
    vm = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=ping)])
    grid = ipivrs.Grid(
        scenario=ipivrs.Scenario(vm=[vm]),
        grid={"vm.0.group.0.program.0.body.1.compute": [1, 2], "seed": range(2), "host.pcpus": {"from": 1, "to": 2}},
    )
    plan = Plan(find_grid(grid))
    assert len({point.key for point in plan.points}) == 8
    with pytest.raises(ValueError, match=r"^Grid\.grid: nothing varies: write "):
        ipivrs.Grid(scenario="ping", grid={})
    with pytest.raises(ipivrs.SweepError, match=r"^grid\.sed: no such field of the scenario; did you mean seed\?"):
        Plan(find_grid(ipivrs.Grid(scenario="ping", grid={"sed": [1]})))


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_scenario_in_plain_types_is_the_same(name: str) -> None:
    scenario = ipivrs.Scenario.load(shipped_path(name))
    again = ipivrs.Scenario.model_validate(plain(scenario))
    assert again.description() == scenario.description()
    assert "host.pcpus" in known_paths(scenario)


def test_a_point_is_known_by_all_that_its_result_comes_of(tmp_path: Path) -> None:
    policy = tmp_path / "mine.policy"
    policy.write_text("policy mine\n  load:\n    fence\n")
    file = write_grid(tmp_path, f'"host.policy" = ["{policy}"]')
    before = Plan(find_grid(file)).points
    assert Plan(find_grid(file)).points == before
    policy.write_text("policy mine\n  load:\n    fence; fence\n")
    assert Plan(find_grid(file)).points != before
    scenario = write_grid(tmp_path, "seed = [1]")
    before = Plan(find_grid(scenario)).points
    assert Plan(find_grid(write_grid(tmp_path, "seed = [1]", QUICK + "vcpus = 3\n"))).points != before


def test_policies_of_a_grid_are_in_its_folder_and_those_of_its_scenario_in_that_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("grids", "of-the-grid"), ("scenarios", "of-the-scenario"), ("away", "of-the-caller")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.policy").write_text(f"policy {name}\n  load:\n    fence\n")
    (tmp_path / "scenarios" / "s.toml").write_text(f'[host]\npolicy = "my.policy"\n{QUICK}')
    monkeypatch.chdir(tmp_path / "away")
    file = tmp_path / "grids" / "g.toml"

    def names(grid: ipivrs.Grid | Path) -> list[str]:
        plan = Plan(find_grid(grid))
        return [str(run_point(plan.description(point))["policy"]) for point in plan.points]

    scenario = "../scenarios/s.toml"
    for varied, wanted in {
        '"host.policy" = ["my.policy", "kvm"]': ["of-the-grid", "kvm"],
        'host.policy = ["my.policy"]': ["of-the-grid"],
        'host = [{ policy = "my.policy" }, { pcpus = 1 }]': ["of-the-grid", "kvm"],
        f'"host.policy" = ["{tmp_path}/away/my.policy"]': ["of-the-caller"],
        "seed = [1]": ["of-the-scenario"],
    }.items():
        file.write_text(f'scenario = "{scenario}"\n[grid]\n{varied}\n')
        assert names(file) == wanted
    in_python = {"scenario": scenario, "grid": {"host.policy": ["my.policy"]}}
    assert names(ipivrs.Grid.model_validate(in_python)) == ["of-the-caller"]
    assert names(ipivrs.Grid(scenario=scenario, grid={"seed": [1]})) == ["of-the-scenario"]
    loaded = ipivrs.Scenario.load(scenario)
    assert names(ipivrs.Grid(scenario=loaded, grid={"seed": [1]})) == ["of-the-scenario"]


def test_a_policy_that_a_grid_does_not_find_is_a_mistake_of_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_grid(tmp_path, '"host.policy" = [\n  "kvm",\n  "my.policy",\n]')
    away = tmp_path / "away"
    away.mkdir()
    (away / "my.policy").write_text("policy mine\n")
    monkeypatch.chdir(away)
    with pytest.raises(ipivrs.SweepError) as caught:
        Plan(find_grid(file))
    wanted = f"{file}:5: grid.host.policy: no policy 'my.policy': as a file {tmp_path}/my.policy, No such file"
    assert str(caught.value).startswith(wanted)


def test_the_shipped_grids(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in shipped_grids():
        plan = Plan(find_grid(name))
        assert plan.title
        assert len(plan.points) > 4
    assert (tuple(shipped_grids())) == ("overcommit",)
    result = shell("sweep")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: give a grid: a TOML file, or one of the shipped: overcommit\n",
    )
    assert "no grid 'overcomit': there is no such file; did you mean overcommit?" in shell("sweep", "overcomit").stderr
    assert "it is a folder; give a grid, a TOML file" in shell("sweep", tmp_path).stderr
