"""Scenarios in virtual time, from Python and from the shell."""

import json
from pathlib import Path

import numpy as np
import pytest

import ipivrs
from conftest import Shell
from ipivrs.names import Engine
from ipivrs.profiles import cost_names, find
from ipivrs.running import shipped_path


def ping(rounds: int = 200, **fields: object) -> ipivrs.Scenario:
    return ipivrs.Scenario(vm=[ipivrs.VM(workload={"name": "ping", "rounds": rounds})], **fields)


def test_the_same_seed_gives_the_same_result_to_the_byte() -> None:
    storm = ipivrs.Scenario(
        vm=[ipivrs.VM(vcpus=6, workload={"name": "storm", "rounds": 200})], chaos={"preempt": True, "migrate": True}
    )

    def run(seed: int) -> tuple[str, bytes]:
        result = ipivrs.run(storm, engine="virtual-time", seed=seed, log=100_000)
        events = result.events
        assert events is not None
        log = b"".join(events[column].tobytes() for column in ("time", "pcpu", "vcpu", "vector", "other"))
        return json.dumps(result.as_dict()), log + ",".join(events["what"]).encode()

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_every_shipped_scenario_runs_without_a_violation() -> None:
    for path in sorted(Path(shipped_path("hackbench")).parent.glob("*.toml")):
        scenario = ipivrs.Scenario.load(path)
        result = scenario.run(engine="virtual-time", seconds=0.005)
        assert result.violations == [], path
        counts = result.counters
        assert counts["posted"] == counts["delivered"] + counts["coalesced"] + counts["discarded"] + counts["pending"]


def test_readers_of_the_shipped_hackbench_sleep_and_are_sent_ipis() -> None:
    messages = 4 * 20_000
    shipped = ipivrs.Scenario.load(shipped_path("hackbench"))
    assert shipped.run(engine="virtual-time").counters["total"] > messages / 2
    # The workload's readers work as long as its writers and lag behind: docs/scenarios.md and its docstring say so.
    alike = {"vcpus": 8, "workload": {"name": "hackbench", "messages": 20_000}}
    scenario = ipivrs.Scenario.model_validate({"host": {"pcpus": 4}, "vm": [alike]})
    assert scenario.run(engine="virtual-time").counters["total"] < messages / 1000


def test_ipi_virtualization_saves_what_the_profile_says() -> None:
    with_it = ping().run(engine="virtual-time")
    without = ping(host={"enable_ipiv": False}).run(engine="virtual-time")
    assert with_it.cycles is not None
    assert without.cycles is not None
    assert with_it.cycles < without.cycles
    assert set(with_it.latency) == {"running"}
    assert set(without.latency) == {"exited"}
    assert with_it.latency["running"]["count"] == 200
    assert with_it.profile == "sapphire-rapids"
    assert with_it.seconds == pytest.approx(with_it.cycles / find("sapphire-rapids").hz, abs=1e-9)


def test_another_profile_gives_other_cycles() -> None:
    slow = find("sapphire-rapids").with_cycles({"notification_flight": 100_000})
    assert (ping().run(engine="virtual-time", profile=slow).cycles or 0) > 200 * 100_000


def test_events_tell_the_story_of_an_ipi() -> None:
    events = ping(1).run(engine="virtual-time", log=100).events
    assert events is not None
    story = [(what, int(vcpu)) for what, vcpu in zip(events["what"], events["vcpu"], strict=True)]
    assert [step for step in story if step[0] in {"posted", "delivered"}] == [("posted", 0), ("delivered", 1)]
    assert ping(1).run().events is None


def test_latencies_are_edges_of_buckets_of_a_thousandth() -> None:
    sends = [{"loop": 500, "body": [{"send": 0xFD, "to": 1}, {"compute": 70_001}]}]
    masks = [{"loop": "forever", "body": ["cli", {"compute": 50_000}, "sti"]}]
    vm = ipivrs.VM(group=[{"vcpus": 0, "program": sends}, {"vcpus": 1, "program": masks}])
    result = ipivrs.Scenario(vm=[vm]).run(engine="virtual-time", log=1_000_000)
    events, (latency,) = result.events, result.latency.values()
    assert events is not None
    took = np.sort((events["time"] - events["since"])[np.array(events["what"]) == "delivered"])
    assert latency["count"] == len(took) == 500
    exact = {"p50": took[249], "p90": took[449], "p99": took[494], "max": took[499]}
    above = {name: latency[name] / value - 1 for name, value in exact.items()}  # type: ignore[literal-required]
    assert all(0 <= by <= 0.001 for by in above.values()), above
    assert any(above.values()), "none of them was beyond what is exact"
    assert 0.999 <= latency["min"] / took[0] <= 1
    assert latency["mean"] == pytest.approx(took.mean(), rel=0.001)


def test_a_wakeup_that_is_lost_is_lost_every_time() -> None:
    storm = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=16, workload={"name": "storm", "rounds": 100_000})], host={"pcpus": 4})
    messages = {storm.run(engine="virtual-time", policy="kvm-pre-ipiv").violations[0]["message"] for _ in range(2)}
    assert len(messages) == 1
    assert "lost wake-up" in messages.pop()


@pytest.mark.parametrize("engine", ["virtual-time", "threads"])
def test_handlers_that_send_for_ever_do_not_outlast_the_run(engine: Engine) -> None:
    begins = ipivrs.Program().send(0x41, to=1).loop("forever", ipivrs.Program().hlt())
    answers = ipivrs.Handler(vector=0x41, program=ipivrs.Program().eoi().send(0x41, to="next"))
    vm = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=begins)], handler=[answers])
    result = ipivrs.Scenario(seconds=0.01, vm=[vm]).run(engine=engine)
    assert not result.violations
    assert result.counters["delivered"] > 10


@pytest.mark.parametrize("engine", ["virtual-time", "threads"])
def test_a_standstill_names_the_lock_that_is_waited_for(engine: Engine) -> None:
    group = ipivrs.Group(vcpus=[0, 1], program=ipivrs.Program().lock("queue"))
    (violation,) = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, group=[group])]).run(engine=engine).violations
    assert violation["kind"] == "stall"
    assert 'where its program waits for lock "queue", PIR' in violation["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "virtual"}, 'engine must be "threads" or "virtual-time"'),
        ({"profile": "sapphire-rapids"}, 'for engine="virtual-time"'),
        ({"engine": "virtual-time", "profile": "saphire-rapids"}, "did you mean sapphire-rapids?"),
        ({"engine": "virtual-time", "log": -1}, "log must be 0 to"),
        ({"engine": "virtual-time", "seconds": -1.0}, "seconds must be 0 to"),
        ({"engine": "virtual-time", "seconds": float("nan")}, "seconds must be 0 to"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ping().run(**options)  # type: ignore[arg-type]


def test_many_pcpus_are_for_virtual_time() -> None:
    many = ping(host={"pcpus": 300})
    with pytest.raises(ValueError, match="256 or less on threads"):
        many.run()
    assert many.run(engine="virtual-time").counters["delivered"] == 200


def test_profiles_name_every_mistake(tmp_path: Path) -> None:
    text = Path(ipivrs.profiles.shipped()["sapphire-rapids"]).read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    table = text[: text.index("[cost.vm_exit]")].count("\n") + 1
    for change, line, message in [
        (("[cost.vm_exit]", "[cost.vm_exits]"), table, "cost.vm_exits: no cost 'vm_exits'; did you mean vm_exit?"),
        (("cycles = 450", "cycles = 0"), table + 1, "cost.vm_exit.cycles: vm_exit must cost 1 or more, not 0"),
        (("cycles = 450", 'cycles = "450"'), table + 1, "a whole number"),
        (("hz = 2_000_000_000", "hz = 5"), 5, "1000000 or more"),
    ]:
        file.write_text(text.replace(*change), encoding="utf-8")
        with pytest.raises(ipivrs.ProfileError) as caught:
            find(str(file))
        assert str(caught.value).startswith(f"{file}:{line}: ")
        assert message in str(caught.value)
    head, _, tail = text.partition("[cost.vm_exit]")
    file.write_text(head + tail[tail.index("[cost.") :], encoding="utf-8")
    with pytest.raises(ipivrs.ProfileError, match="these costs are missing: vm_exit"):
        find(str(file))


def test_what_is_no_profile_at_all(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "scenario").write_text("[[vm]]\n")
    for name, message in [
        ("", "it is a folder; give a profile, a TOML file"),
        ("binary", "it is not UTF-8 text; give a profile, a TOML file"),
        ("scenario", "this is a scenario: `ipivrs run"),
    ]:
        with pytest.raises(ipivrs.ProfileError, match=message):
            find(str(tmp_path / name))


def test_every_cost_of_the_shipped_profile_has_its_source() -> None:
    profile = find("sapphire-rapids")
    assert set(profile.cost) == set(cost_names())
    fitted = {name for name, cost in profile.cost.items() if cost.fitted}
    assert fitted == {"mmio_write", "notification_flight", "exit_msr_icr", "exit_apic_write"}


def test_the_shell_prints_the_same_twice(shell: Shell) -> None:
    command = ("run", shipped_path("hackbench"), "--engine", "virtual-time", "--seed", "1", "--json")
    first, second = shell(*command), shell(*command)
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["engine"] == "virtual-time"


def test_the_report_has_latencies_and_cycles(shell: Shell) -> None:
    report = shell("run", shipped_path("ping"), "--engine", "virtual-time").stdout
    assert "From send to delivery, in cycles" in report
    assert "profile sapphire-rapids" in report


def test_the_profile_is_for_virtual_time_only(shell: Shell) -> None:
    result = shell("run", shipped_path("ping"), "--profile", "sapphire-rapids")
    assert (result.exit_code, "--profile is an option of --engine virtual-time" in result.stderr) == (2, True)
