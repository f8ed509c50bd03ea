"""The protocol laboratory, from Python and from the shell."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ipivrs
from conftest import Shell
from ipivrs import _core, check_command
from ipivrs.check_report import KINDS
from ipivrs.cli import app
from ipivrs.entries import HOLDS
from ipivrs.policies import shipped

ENTRIES = {entry.name: entry for entry in ipivrs.collection()}
LOST = "put_blocking: if on: self_ipi wakeup"
SMALL = ("--senders", "1", "--software", "0")


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What `ipivrs check --all --json` prints, run once for all tests that only look at it."""
    result = CliRunner().invoke(app, ["check", "--all", "--json"])
    values: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if values["unexpected"] else 0)
    return values


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_of_the_collection_has_its_verdict(whole: dict[str, Any], name: str) -> None:
    found = next(entry for entry in whole["entries"] if entry["name"] == name)
    assert found["found"] == found["expected"] == ENTRIES[name].verdict
    assert found["holds"] == (ENTRIES[name].verdict == HOLDS)
    assert (found["counterexample"] is None) == found["holds"]
    assert (found["diagnosis"] is None) == found["holds"]


def test_nothing_in_the_collection_is_unexpected(whole: dict[str, Any]) -> None:
    assert whole["unexpected"] == 0
    assert [entry["name"] for entry in whole["entries"]] == list(ENTRIES)


def test_every_shipped_policy_is_in_the_collection() -> None:
    assert set(shipped()) <= set(ENTRIES)
    assert all(ENTRIES[name].policy == name for name in shipped())
    assert all(entry.title and entry.source for entry in ENTRIES.values())
    assert {entry.verdict for entry in ENTRIES.values()} <= {HOLDS, *KINDS}


def test_the_kinds_are_those_of_the_core() -> None:
    assert set(KINDS) == {each["name"] for each in ipivrs.check("kvm", senders=1, software=0).properties}


def test_a_proof_says_what_it_is_worth(shell: Shell) -> None:
    result = shell("check", "kvm", *SMALL)
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"kvm holds: [\d,]+ states, \d+\.\d\d s, \d+ threads?", lines[0])
    assert lines[1].split(", ")[0].strip() == "1 sender"
    assert lines[1].endswith("memory model sc")
    assert re.fullmatch(r"  at worst \d+ spurious notifications? and \d+ spurious wake-ups?", lines[2])


def test_a_refutation_is_drawn_with_a_column_for_each_actor(shell: Shell) -> None:
    result = shell("check", "kvm", "--without", LOST, *SMALL, "--pcpus", "1", "--migrations", "0")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (1, "")
    assert lines[0].startswith("kvm is refuted: lost wake-up (")
    assert lines[2] == f"  without {LOST}"
    assert lines[4].split() == ["pCPU", "0", "sender", "0"]
    assert any(re.match(r" *\d+  put_blocking:19 control nv=wakeup", line) for line in lines)
    assert "NV notify -> wakeup" in result.stdout
    assert lines[-2].startswith("lost-wakeup: ")
    assert "vCPU 0 is asleep with 30H in PIR" in lines[-1]


def test_in_a_narrow_terminal_steps_stand_below_each_other(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    report = re.sub(r"\x1b\[[\d;]*m", "", shell("check", "on-not-retested").stdout)
    drawing = report[report.index("\n\n") :]
    assert "sender 0: posts 30H" in drawing
    assert all(len(line) <= 40 for line in drawing[: drawing.index("lost-wakeup: ")].splitlines())


def test_a_cycle_is_marked(shell: Shell) -> None:
    values = json.loads(
        shell("check", "kvm", "--without", "block_check: if on: clear_on; fence; harvest", "--json").stdout
    )
    assert values["violation"]["kind"] == "livelock"
    begin = values["cycle_from"]
    assert 0 <= begin < len(values["counterexample"])
    report = shell("check", "kvm", "--without", "block_check: if on: clear_on; fence; harvest").stdout
    assert "-- from here on for ever --" in report
    assert f"-- and so on from step {begin + 1} --" in report


def test_json_has_its_names(shell: Shell) -> None:
    values = json.loads(shell("check", "kvm", "--without", LOST, *SMALL, "--json").stdout)
    assert {"policy", "holds", "states", "seconds", "properties", "counterexample", "diagnosis"} <= values.keys()
    assert {"bounds", "without", "threads", "transitions", "depth", "bytes_per_state", "worst_case"} <= values.keys()
    assert (values["policy"], values["holds"], values["without"]) == ("kvm", False, [LOST])
    assert values["bounds"]["senders"] == 1
    assert values["version"] == ipivrs.__version__
    for step in values["counterexample"]:
        assert {"actor", "step", "line", "changes"} <= step.keys()


def test_from_python() -> None:
    result = ipivrs.check("kvm", without=[LOST], senders=1, software=0, threads=1)
    assert result.holds is False
    assert result.violation == {"kind": "lost-wakeup", "message": result.as_dict()["violation"]["message"]}
    assert result.counterexample is not None
    assert result.diagnosis is not None
    assert result.worst_case is None
    assert repr(result).startswith("<CheckResult kvm: lost-wakeup, ")
    assert ipivrs.check("kvm", without=LOST, senders=1, software=0).as_dict()["without"] == [LOST]
    fine = ipivrs.check("kvm", senders=1, software=0)
    assert (fine.holds, fine.violation, fine.counterexample, fine.verdict) == (True, None, None, HOLDS)
    assert all(each["holds"] for each in fine.properties)
    assert fine.worst_case is not None
    assert json.loads(json.dumps(fine.as_dict())) == fine.as_dict()


@pytest.mark.parametrize("name", ["on-not-retested", "acrn-4978", "avic"])
def test_the_verdict_does_not_depend_on_threads(name: str) -> None:
    one, other = (ipivrs.check(name, threads=threads).as_dict() for threads in (1, 3))
    for of in ("seconds", "threads", "bytes_per_state"):
        del one[of], other[of]
    assert one == other


def test_bounds_come_from_the_entry_unless_they_are_given() -> None:
    entry = ENTRIES["acrn-4978"]
    assert ipivrs.check("acrn-4978").bounds == entry.bounds
    assert ipivrs.check("acrn-4978", software=1).bounds.software == 1
    assert ipivrs.check("kvm", senders=1, software=0, exits=0).bounds == ipivrs.Bounds(senders=1, software=0, exits=0)
    assert ipivrs.check("acrn-1462", without=["before_entry: if not pir: stop"]).holds


def test_seen_both_costs_a_notification() -> None:
    both, one = (ipivrs.check(name, senders=1).worst_case for name in ("kvm-both-seen", "kvm"))
    assert both is not None
    assert one is not None
    assert (both["spurious_notifications"] or 0) > (one["spurious_notifications"] or 0)


def test_the_barrier_matters_with_store_buffers_only() -> None:
    without = ["before_entry: fence"]
    assert ipivrs.check("kvm", without=without, senders=0, memory_model="sc").holds
    assert ipivrs.check("kvm", without=without, senders=0, memory_model="tso").verdict == "lost-interrupt"


def test_a_bound_that_is_hit_is_no_verdict(shell: Shell) -> None:
    for option, value in (("--max-states", "1000"), ("--max-memory", "1")):
        result = shell("check", "kvm", option, value)
        assert result.exit_code == 2
        assert result.stdout.startswith("kvm is not decided: ")
        assert option in result.stdout
        values = json.loads(shell("check", "kvm", option, value, "--json").stdout)
        assert (values["holds"], values["counterexample"]) == (None, None)
        assert value in values["undecided"]


def test_the_list_has_names_verdicts_and_sources(shell: Shell) -> None:
    result = shell("check", "--list")
    assert result.exit_code == 0
    for entry in ENTRIES.values():
        assert any(line.split()[:2] == [entry.name, entry.verdict] for line in result.stdout.splitlines())
        assert entry.source in result.stdout
    listed = json.loads(shell("check", "--list", "--json").stdout)
    assert listed == [entry.as_dict() for entry in ENTRIES.values()]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection of three quick entries."""
    entries = [ENTRIES[name] for name in ("table-low-half-first", "table-one-store", "acrn-4778")]
    monkeypatch.setattr(check_command, "collection", lambda: entries)


@pytest.mark.usefixtures("few")
def test_all_of_the_collection_in_a_table(shell: Shell) -> None:
    result = shell("check", "--all")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:3] for line in result.stdout.splitlines()[1:4]}
    assert rows["acrn-4778"] == ["lost-interrupt", "lost-interrupt"]
    assert "all 3 verdicts are the expected ones" in result.stdout


@pytest.mark.usefixtures("few")
def test_an_unexpected_verdict_is_exit_code_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    core = _core.check
    monkeypatch.setattr(_core, "check", lambda _, bounds, **limits: core(shipped()["kvm"], bounds, **limits))
    result = shell("check", "--all")
    assert result.exit_code == 1
    assert "2 of 3 verdicts are not the expected ones" in result.stdout
    values = json.loads(shell("check", "--all", "--json").stdout)
    assert values["unexpected"] == 2
    assert [entry["found"] for entry in values["entries"]] == [HOLDS] * 3


def test_mutations_tell_what_a_proof_needs(shell: Shell) -> None:
    words = ("check", "acrn-4978", "--software", "1", "--mutate")
    result = shell(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    head, needed, redundant = re.split(r"\nThe proof needs\n|\nRedundant as far as these bounds go: ", result.stdout)
    assert re.match(r"acrn-4978 holds; \d+ changes: \d+ break it, \d+ do not\n", head)
    assert re.search(r"without  on_notify: if on: set_event; wake \(line \d+\) +lost interrupt", needed)
    bounds = str(ENTRIES["acrn-4978"].bounds).replace("2 software senders", "1 software sender")
    assert redundant.startswith(f"{bounds}\n")
    assert "no sender" not in head, "it has no IPI virtualization, so none can be missing"
    values = json.loads(shell(*words, "--json").stdout)
    assert len(values["mutations"]) == values["needed"] + values["redundant"]
    for one in values["mutations"]:
        assert one["kind"] in {"drop", "swap"}
        assert one["needed"] == (one["verdict"] != HOLDS)


def test_mutations_of_what_never_runs_are_left_alone(shell: Shell) -> None:
    report = shell("check", "kvm", *SMALL, "--preemptions", "0", "--exits", "0", "--mutate").stdout
    assert "never run them: put_preempted, software_post, publish, refresh_apicv, set_apic_id" in report
    assert "software_post: " not in report


def test_bounds_in_which_hardware_posts_nothing_are_said_to_be_such(shell: Shell) -> None:
    few = ("check", "kvm", "--preemptions", "0", "--exits", "0", "--migrations", "0", "--pcpus", "1", "--mutate")
    for bounds, warned in ((("--senders", "0"), True), (SMALL, False), (("--senders", "0", "--devices", "1"), False)):
        report = shell(*few, *bounds).stdout
        assert ("hardware posts nothing here" in report) == warned
        _, _, redundant = report.partition("Redundant as far as")
        assert ("without  put_blocking: list_add" in redundant) == warned


def test_what_is_refuted_has_no_needs(shell: Shell) -> None:
    result = shell("check", "on-not-retested", "--mutate")
    assert result.exit_code == 1
    assert result.stdout.startswith("on-not-retested is refuted: lost wake-up")
    assert "must hold" in result.stderr


def test_the_model_for_spin_is_that_of_the_variant_and_the_bounds(shell: Shell) -> None:
    whole = shell("check", "kvm", "--export", "promela")
    less = shell("check", "kvm", "--without", "before_entry: fence", "--memory-model", "tso", "--export", "promela")
    assert (whole.exit_code, less.exit_code) == (0, 0)
    assert "proctype" in whole.stdout
    assert "line 31: fence" in whole.stdout
    assert "line 31: fence" not in less.stdout
    assert "memory_model=tso" in less.stdout


@pytest.mark.parametrize("name", ["on-not-retested", "acrn-4778", "no-entry-barrier", "table-low-half-first"])
def test_a_counterexample_is_replayed(shell: Shell, tmp_path: Path, name: str) -> None:
    file = tmp_path / "saved.json"
    drawn = shell("check", name, "--save", file).stdout
    result = shell("check", "--replay", file)
    kind = KINDS[ENTRIES[name].verdict]
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == f"{name}: {kind} confirmed, step by step"
    assert drawn.rstrip().endswith(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["on-not-retested", "acrn-4778", "icr-passed-through"])
def test_a_counterexample_is_confirmed_on_threads(shell: Shell, tmp_path: Path, name: str) -> None:
    file = tmp_path / "saved.json"
    file.write_text(shell("check", name, "--json").stdout, encoding="utf-8")
    result = shell("check", "--replay", file, "--on-threads", "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 1
    assert values["confirmed"]
    assert values["violation"]["kind"] == ENTRIES[name].verdict


def test_a_mended_policy_does_not_end_like_that(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    shell("check", "on-not-retested", "--save", file)
    result = shell("check", "kvm", "--replay", file)
    assert result.exit_code == 0
    assert result.stdout.startswith("kvm: lost wake-up not confirmed, step by step (nothing is wrong at the end")


def test_no_threads_hold_back_a_store(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    shell("check", "no-entry-barrier", "--save", file)
    result = shell("check", "--replay", file, "--on-threads")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "under tso a schedule is replayed without threads" in result.stderr


def test_steps_that_a_policy_does_not_have(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    shell("check", "acrn-4778", "--save", file)
    values = json.loads(file.read_text(encoding="utf-8"))
    values["counterexample"][3]["choice"] = 50
    file.write_text(json.dumps(values), encoding="utf-8")
    result = shell("check", "--replay", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "step 4" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file"),
        ("letter", "is no result of a check"),
        ("{}", "policy_text"),
        ("[]", "is no result of a check"),
        ('{"policy_text": "", "counterexample": null, "violation": null, "bounds": {"posts": 9}}', "(posts must be"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_replayed(shell: Shell, tmp_path: Path, text: str | None, expected: str) -> None:
    file = tmp_path / "saved.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    result = shell("check", "--replay", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert "--save FILE" in result.stderr


def test_a_proof_has_nothing_to_replay(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    shell("check", "kvm", *SMALL, "--save", file)
    result = shell("check", "--replay", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "was not refuted" in result.stderr


def test_a_policy_of_ones_own(shell: Shell, tmp_path: Path) -> None:
    mine = tmp_path / "mine.policy"
    mine.write_text(shipped()["kvm"].replace("policy kvm", "policy mine").replace("new on: self", "new sn: self"))
    result = shell("check", mine, *SMALL)
    assert result.exit_code == 1
    assert result.stdout.startswith("mine is refuted: lost wake-up")


def test_a_file_whose_policy_has_another_name_is_named_too(shell: Shell, tmp_path: Path) -> None:
    mine = tmp_path / "copy.policy"
    mine.write_text(shipped()["kvm"])
    assert shell("check", mine, *SMALL).stdout.startswith(f"kvm ({mine}) holds: ")
    assert json.loads(shell("check", mine, *SMALL, "--json").stdout)["file"] == str(mine)
    assert shell("check", "kvm", *SMALL).stdout.startswith("kvm holds: ")
    mine.write_text(shipped()["kvm"].partition("  before_entry:")[0])
    refused = shell("check", mine, *SMALL)
    assert (refused.exit_code, refused.stderr.startswith(f"error: {mine}: kvm has no routine ")) == (2, True)


def test_a_mistake_in_a_policy_is_named_by_its_place(shell: Shell, tmp_path: Path) -> None:
    bad = tmp_path / "bad.policy"
    bad.write_text(shipped()["kvm"].replace("if on: clear_on; fence; harvest", "if onn: clear_on; fence; harvest", 1))
    result = shell("check", bad)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f'error: {bad}:27:8: no condition "onn"; did you mean on?\n'


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["give a policy", "--list"]),
        ("kwm", ["no policy 'kwm'", "did you mean kvm?"]),
        ("zzzz", ["no policy 'zzzz'", "shipped are", "acrn-4778", *ENTRIES]),
        ("on-not-retest", ["did you mean on-not-retested?"]),
        ("kvm --senders 9", ["--senders must be 0 to 8", "not 9"]),
        ("kvm --senders 8", ["1 to 8 together", "lower one of them by 1"]),
        ("kvm --vcpus 3", ["--vcpus must be 1 to 2", "--pcpus 3"]),
        ("kvm --posts two", ["--posts must be a number", "'two'"]),
        ("kvm --memory-model pso", ["--memory-model", "sc, tso"]),
        ("kvm --urgent", ["--urgent", "--devices 1"]),
        ("kvm --threads 0", ["--threads must be 1 to 256"]),
        ("kvm --sender 2", ["no option --sender", "did you mean --senders?"]),
        ("kvm --without lod:fence", ["no routine lod", "did you mean load?"]),
        ("kvm --without load:fense", ["no such line", "did you mean fence?"]),
        ("acrn-4978 --publish", ["routine publish"]),
        ("kvm --list", ["--list", "leave out kvm"]),
        ("--all --senders 1", ["--all", "leave out --senders"]),
        ("--all --list", ["either --list or --all"]),
        ("kvm --export tla", ["--export", "promela"]),
        ("kvm --on-threads", ["--on-threads is an option of --replay"]),
        ("kvm --mutate --save x", ["--save is an option of a check"]),
    ],
)
def test_bad_input(shell: Shell, words: str, expected: list[str]) -> None:
    result = shell("check", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert 1 <= len(result.stderr.splitlines()) <= 2
    assert all(part in result.stderr for part in expected), result.stderr


def test_ctrl_c_is_one_line_and_exit_code_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_core, "check", interrupted)
    result = shell("check", "kvm")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, checks: int) -> None:
    """Ctrl-C comes in the check after so many."""
    check, calls = _core.check, 0

    def interrupted(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls > checks:
            raise KeyboardInterrupt
        return check(*args, **options)

    monkeypatch.setattr(_core, "check", interrupted)


@pytest.mark.parametrize("done", [0, 3])
def test_ctrl_c_leaves_the_mutations_that_are_checked(shell: Shell, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    words = ("check", "acrn-4978", "--software", "1", "--mutate")
    whole = json.loads(shell(*words, "--json").stdout)["mutations"]
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1 + done)  # the first is the policy as it is
        result = shell(*words, "--json")
    assert result.exit_code == 130
    if not done:
        assert (result.stdout, result.stderr) == ("", "error: interrupted\n")
        return
    assert result.stderr == f"error: interrupted: {done} of {len(whole)} changes are checked\n"
    values = json.loads(result.stdout)
    assert [one["description"] for one in values["mutations"]] == [one["description"] for one in whole[:done]]
    _interrupt_after(monkeypatch, 1 + done)
    assert f"acrn-4978 holds; {done} changes: " in shell(*words).stdout


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("done", [0, 2])
def test_ctrl_c_leaves_what_of_the_collection_is_checked(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    whole = json.loads(shell("check", "--all", "--json").stdout)["entries"]
    with monkeypatch.context() as patch:
        _interrupt_after(patch, done)
        result = shell("check", "--all", "--json")
    assert result.exit_code == 130
    if not done:
        assert (result.stdout, result.stderr) == ("", "error: interrupted\n")
        return
    assert result.stderr == "error: interrupted: 2 of 3 protocols are checked\n"
    values = json.loads(result.stdout)
    assert [entry["name"] for entry in values["entries"]] == [entry["name"] for entry in whole[:done]]
    _interrupt_after(monkeypatch, done)
    assert "all 2 verdicts are the expected ones" in shell("check", "--all").stdout
