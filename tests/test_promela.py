"""`ipivrs.promela`: a policy as a model for SPIN, and what SPIN says about it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipivrs import _core, variants
from ipivrs.bounds import Bounds
from ipivrs.entries import collection
from ipivrs.policies import shipped
from ipivrs.promela import LIVELOCK_OPTIONS, PROPERTIES, SAFETY_OPTIONS, export

SMALL = Bounds(senders=1, software=0)
EVERYTHING = Bounds(
    senders=1,
    devices=1,
    software=1,
    vcpus=2,
    memory_model="tso",
    urgent=True,
    publish=True,
    inhibit=True,
    rewrite_id=True,
)
needs_spin = pytest.mark.skipif(shutil.which("spin") is None, reason="SPIN is not installed (Debian package spin)")

Verdict = Callable[..., str]


def program(text: str) -> dict[str, Any]:
    steps: dict[str, Any] = json.loads(_core.policy_steps(text))
    return steps


def policy(**routines: str) -> dict[str, Any]:
    lines = [f"  {name}:\n    {steps}" for name, steps in routines.items()]
    return program("\n".join(["policy made-up", *lines, ""]))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def verdict(tmp_path: Path) -> Verdict:
    """What SPIN says: "holds", or the property that breaks first."""

    def look(model: str, *, livelock: bool = False) -> str:
        (tmp_path / "model.pml").write_text(model, encoding="utf-8")
        run(tmp_path, "spin", "-a", *(["-DLIVELOCK"] if livelock else []), "model.pml")
        run(tmp_path, "cc", "-O0", "-w", *(LIVELOCK_OPTIONS if livelock else SAFETY_OPTIONS), "-o", "pan", "pan.c")
        report = run(tmp_path, "./pan", "-m1000000", *(["-a", "-f"] if livelock else ["-E"]))
        assert "too small" not in report
        if "errors: 0" in report:
            return "holds"
        broken = re.search(r"assertion violated never_(\w+)", report)
        return broken[1].replace("_", "-") if broken else "livelock"

    return look


def test_the_same_policy_gives_the_same_model() -> None:
    model = export(program(shipped()["kvm"]), Bounds())
    assert model == export(program(shipped()["kvm"]), Bounds())
    assert model != export(program(shipped()["kvm"]), SMALL)
    assert model.endswith("#endif\n")


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("bounds", [SMALL, Bounds()], ids=["small", "default"])
def test_every_step_is_there_with_its_line_and_its_words(name: str, bounds: Bounds) -> None:
    steps = program(shipped()[name])["routines"]
    model = export(program(shipped()[name]), bounds)
    for step in (step for routine in steps.values() for step in routine):
        assert f"line {step['line']}: {step['text']}" in model


def test_the_heading_says_what_it_is_and_how_to_run_it() -> None:
    heading = export(program(shipped()["kvm"]), SMALL).partition("*/")[0]
    assert "Policy: kvm\n" in heading
    assert "senders=1 devices=0 software=0 posts=1" in heading
    assert f"cc -O2 {' '.join(SAFETY_OPTIONS)} -o pan pan.c && ./pan" in heading
    assert "spin -a -DLIVELOCK model.pml" in heading


def test_what_a_policy_says_of_itself_stays_inside_of_the_comment() -> None:
    strange = {**program(shipped()["kvm"]), "source": 'a "*/ b \\'}
    assert 'Source: a "* / b /\n' in export(strange, SMALL)


def test_every_property_is_asserted_where_it_can_break() -> None:
    model = export(program(shipped()["kvm"]), EVERYTHING)
    for name in PROPERTIES:
        assert f"assert(never_{name.replace('-', '_')});" in model


def test_what_no_bound_asks_for_is_not_in_the_model() -> None:
    model = export(program(shipped()["kvm"]), SMALL)
    for word in ("ipiv_off[", "write_complete", "buffered[", "proctype software", "proctype host_actor"):
        assert word not in model


@pytest.mark.parametrize(
    ("routines", "bounds", "message"),
    [
        ({"load": "clear_sn"}, Bounds(), "no routine software_post"),
        ({"load": "clear_sn"}, Bounds(software=0, publish=True), "no routine publish"),
        ({"load": "clear_sn"}, Bounds(software=0, inhibit=True), "no routine refresh_apicv"),
        ({"load": "clear_sn", "refresh_apicv": "ipiv_off"}, Bounds(software=0, rewrite_id=True), "set_apic_id"),
        ({"load": "for_listed: wake"}, SMALL, "line 3: there can be no 'for_listed' in load"),
        ({"on_wakeup": "for_listed:\n      for_listed: wake"}, SMALL, "line 4: .* 'for_listed' inside for_listed"),
        (
            {"software_post": "control ndst=here"},
            Bounds(),
            "line 3: there can be no 'control ndst=here' in software_post",
        ),
        ({"on_notify": "stop"}, SMALL, "line 3: there can be no 'stop' in on_notify"),
        ({"refresh_apicv": "wake"}, SMALL, "line 3: there can be no 'wake' in refresh_apicv"),
    ],
)
def test_what_has_no_meaning_is_refused(routines: dict[str, str], bounds: Bounds, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(policy(**routines), bounds)


@needs_spin
@pytest.mark.parametrize("name", shipped())
def test_spin_reads_every_policy(name: str, tmp_path: Path) -> None:
    routines = program(shipped()[name])["routines"]
    bounds = EVERYTHING if "publish" in routines else Bounds(devices=1, vcpus=2, memory_model="tso")
    (tmp_path / "model.pml").write_text(export(program(shipped()[name]), bounds), encoding="utf-8")
    for defines in ([], ["-DLIVELOCK"]):
        assert "rror" not in run(tmp_path, "spin", "-a", *defines, "model.pml")


@needs_spin
def test_spin_proves_kvm(verdict: Verdict) -> None:
    model = export(program(shipped()["kvm"]), SMALL)
    assert verdict(model) == "holds"
    assert verdict(model, livelock=True) == "holds"


@needs_spin
@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("put_blocking: if new on: self_ipi wakeup", "lost-wakeup"),
        ("put_blocking: control nv=wakeup", "lost-wakeup"),
        ("load: if pir: set_on", "lost-interrupt"),
        ("load: if nv == wakeup: list_del", "two-lists"),
    ],
)
def test_spin_refutes_kvm_without_a_line(verdict: Verdict, line: str, broken: str) -> None:
    text = variants.without(shipped()["kvm"], line)
    assert verdict(export(program(text), SMALL)) == broken


@needs_spin
def test_spin_finds_the_livelock_that_is_no_quiet_state(verdict: Verdict) -> None:
    text = variants.without(shipped()["kvm"], "block_check: if on: clear_on; fence; harvest")
    model = export(program(text), SMALL)
    assert verdict(model) == "holds"
    assert verdict(model, livelock=True) == "livelock"


@needs_spin
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("no-entry-barrier", "lost-interrupt"),
        ("table-low-half-first", "wild-post"),
        ("apic-id-ignored", "misdelivery"),
        ("icr-passed-through", "escape"),
        ("sn-while-blocking", "sn-while-blocked"),
    ],
)
def test_spin_breaks_the_property_that_the_collection_names(verdict: Verdict, name: str, broken: str) -> None:
    entry = next(entry for entry in collection() if entry.name == name)
    assert entry.verdict == broken
    assert verdict(export(program(entry.policy_text), entry.bounds)) == broken


@needs_spin
def test_spin_finds_a_post_that_posts_nothing(verdict: Verdict) -> None:
    made_up = policy(load="clear_sn", software_post="wake")
    assert verdict(export(made_up, Bounds(senders=0))) == "unposted"
