"""Published measurements: what was fitted, what is predicted, and how profiles are fitted."""

import json
from pathlib import Path

import pytest

from conftest import Shell
from ipivrs import ProfileError, profiles, published
from ipivrs.fitting import Fit, fit
from ipivrs.scenario import Ping

FITTED = ["mmio_write", "notification_flight", "exit_msr_icr", "exit_apic_write"]


def test_the_numbers_are_those_of_the_sources() -> None:
    rows = {row.name: row.measured for row in published.find("ipiv-v4").row}
    means = {"xAPIC, without": 6059, "xAPIC, with": 4713.1, "x2APIC, without": 4337.85, "x2APIC, with": 3644.8}
    assert all(rows[f"vmexit_ipi, {name}"] == mean for name, mean in means.items())
    assert rows["hackbench, 8 vCPUs: time saved"] == 18.808
    assert "20210809032925.3548-1-guang.zeng@intel.com" in published.find("ipiv-v4").source
    rfc = {row.name: row.measured for row in published.find("sn-in-host").row}
    assert (rfc["sched pipe: operations gained"], rfc["exit and entry: time added"]) == (6.56, 1.58)


def test_fitted_rows_fit_and_only_they_were_fitted() -> None:
    rows = published.compare(published.find("ipiv-v4"), profiles.find(profiles.DEFAULT))
    for row in rows:
        if row["fitted"] and row["unit"] == "cycles":
            assert row["measured"] is not None
            assert row["predicted"] == pytest.approx(row["measured"], rel=0.005)
    assert [row["name"].partition(",")[0] for row in rows if not row["fitted"]] == [
        "IPI microbenchmark",
        "IPI microbenchmark",
        "hackbench",
        "hackbench",
    ]


def test_the_shipped_profile_is_what_the_fit_gives() -> None:
    shipped = profiles.find(profiles.DEFAULT)
    found = fit(published.find("ipiv-v4"), shipped, FITTED)
    assert all(abs(residual) < 30 for residual in found.residuals)
    assert found.cycles == {name: shipped.cost[name].cycles for name in FITTED}


def test_a_fit_finds_costs_that_were_changed() -> None:
    shipped = profiles.find(profiles.DEFAULT)
    wrong = shipped.with_cycles({"mmio_write": 50, "exit_apic_write": 3000, "notification_flight": 500})
    found = fit(published.find("ipiv-v4"), wrong, FITTED)
    for name in FITTED:
        assert found.cycles[name] == pytest.approx(shipped.cost[name].cycles, abs=60)
    assert found.profile.cost["vm_exit"] == shipped.cost["vm_exit"]


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (["vm_exits"], "did you mean vm_exit"),
        ([], r"1 to 4 costs can be fitted to 4 rows.*: give other costs, or mark more rows"),
        (["vm_exit", "vm_entry", "spin", "post", "delivery"], "not 5"),
        (["vm_exit", "vm_entry"], "no row changes when vm_entry does"),
    ],
)
def test_impossible_fits_are_refused(costs: list[str], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        fit(published.find("ipiv-v4"), profiles.find(profiles.DEFAULT), costs)


def test_a_file_without_rows_to_fit_to_is_refused() -> None:
    with pytest.raises(ProfileError, match="no row is marked fitted = true"):
        fit(published.find("sn-in-host"), profiles.find(profiles.DEFAULT), ["vm_exit"])


ROW = """title = "mine"
source = "me"
[[row]]
name = "a row"
measured = 100.0
quantity = "cycles"
fitted = {}
scenario.vm = [{{ workload = {{ name = "{}" }} }}]
"""


@pytest.mark.parametrize(
    ("words", "row", "message"),
    [
        ("profile fit", ("false", "ping"), "no row is marked fitted = true"),
        ("profile fit", ("true", "ping"), "1 cost can be fitted to 1 row in cycles, not 4: give other --costs, or"),
        ("profile fit --costs mmio_write", ("true", "ping"), "no row changes when mmio_write does"),
        ("profile fit --costs post", ("true", "storm"), "row 'a row': scenario.seconds: no program and no device"),
        ("bench published", ("true", "storm"), "row 'a row': scenario.seconds: no program and no device"),
    ],
)
def test_rows_that_cannot_be_used_are_those_of_a_file(
    shell: Shell, tmp_path: Path, words: str, row: tuple[str, str], message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(ROW.format(*row), encoding="utf-8")
    result = shell(*words.split(), file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file}: {message}")


def test_a_cost_that_others_leave_nothing_is_named() -> None:
    slow = profiles.find(profiles.DEFAULT).with_cycles({"notification_flight": 60_000})
    found = fit(published.find("ipiv-v4"), slow, ["vm_exit"])
    assert (found.cycles, found.at_least) == ({"vm_exit": 1}, ["vm_exit"])
    assert fit(published.find("ipiv-v4"), profiles.find(profiles.DEFAULT), FITTED).at_least == []


def test_where_one_cost_is_at_its_least_the_others_make_up_for_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    row = '[[row]]\nquantity = "cycles"\nper = 2000\nfitted = true\nscenario = {{ {host} vm = [{vm}] }}\n'
    ping = '{ workload = { name = "ping", rounds = 2000 } }'
    fast = row.format(host="", vm=ping) + 'name = "with"\nmeasured = 10.0\n'
    slow = row.format(host="host = { enable_ipiv = false },", vm=ping) + 'name = "without"\nmeasured = 5000.0\n'
    file.write_text(f'title = "mine"\nsource = "my machine"\n{fast}{slow}')
    rows, shipped = published.find(str(file)), profiles.find(profiles.DEFAULT)
    both = fit(rows, shipped, ["notification_flight", "exit_msr_icr"])
    assert both.at_least == ["notification_flight"]
    alone = fit(rows, shipped.with_cycles({"notification_flight": 1}), ["exit_msr_icr"])
    assert both.cycles["exit_msr_icr"] == pytest.approx(alone.cycles["exit_msr_icr"], abs=2)
    assert abs(both.residuals[1]) < 5


@pytest.fixture(scope="module")
def shipped_fit() -> Fit:
    return fit(published.find("ipiv-v4"), profiles.find(profiles.DEFAULT), FITTED)


def test_nothing_near_a_fit_is_better(shipped_fit: Fit) -> None:
    rows = [row for row in published.find("ipiv-v4").row if row.fitted and row.quantity == "cycles"]
    for name, cycles in shipped_fit.cycles.items():
        for change in (1, 2, 3, 4, 5, 7, 8, 14, 16, 20, 32, 40, 64):
            for near in (cycles - change, cycles + change):
                profile = shipped_fit.profile.with_cycles({name: near})
                squares = sum((published.predict(row, profile) - (row.measured or 0)) ** 2 for row in rows)
                assert shipped_fit.sum_of_squares <= squares, (name, near)


@pytest.mark.parametrize("start", [(1, 1, 1, 1), (966, 4059, 3683, 3869), (2182, 5911, 1875, 4843)])
def test_a_fit_is_as_good_from_wherever_it_begins(shipped_fit: Fit, start: tuple[int, ...]) -> None:
    elsewhere = profiles.find(profiles.DEFAULT).with_cycles(dict(zip(FITTED, start, strict=True)))
    found = fit(published.find("ipiv-v4"), elsewhere, FITTED)
    assert found.sum_of_squares == pytest.approx(shipped_fit.sum_of_squares, abs=1e-6)


def test_other_solutions_that_are_as_good_are_named(shipped_fit: Fit, shell: Shell) -> None:
    least, most = shipped_fit.as_good["notification_flight"]
    assert least <= shipped_fit.cycles["notification_flight"] <= most
    assert least < most
    text = shell("profile", "fit", "ipiv-v4").stdout
    assert "others that were tried fit as well, this is the nearest of them to --from: notification_flight" in text
    assert f"notification_flight from {least} to {most}" in text
    again = fit(published.find("ipiv-v4"), shipped_fit.profile, FITTED)
    assert again.cycles == shipped_fit.cycles  # the nearest to where it begins
    alone = fit(published.find("ipiv-v4"), shipped_fit.profile, ["notification_flight", "delivery"])
    assert alone.as_good == {}  # that one of them can be more when the other is less is said as not_told_apart


def test_a_cost_is_not_more_than_it_can_be(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    few = ROW.format("true", "ping").replace('"ping"', '"ping", rounds = 2').replace("100.0", "20e9")
    file.write_text(few, encoding="utf-8")
    result = shell("profile", "fit", file, "--costs", "notification_flight")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "notification_flight is as high as it can be" in result.stdout
    found = json.loads(shell("profile", "fit", file, "--costs", "notification_flight", "--json").stdout)
    assert (found["cycles"], found["at_most"]) == ({"notification_flight": 2**32 - 1}, ["notification_flight"])


def test_a_fit_is_written_as_a_profile(shell: Shell, tmp_path: Path, shipped_fit: Fit) -> None:
    out = tmp_path / "fitted.toml"
    found = json.loads(shell("profile", "fit", "ipiv-v4", "--out", out, "--json").stdout)
    start, written = profiles.find(profiles.DEFAULT), profiles.find(str(out))
    assert written == shipped_fit.profile
    assert list(written.cost) == list(start.cost)
    for name, cost in written.cost.items():
        if name in FITTED:
            assert (cost.cycles, cost.fitted) == (found["cycles"][name], True)
            for word in (
                published.find("ipiv-v4").source,
                f"vmexit_ipi, x2APIC, with ({found['rows']['vmexit_ipi, x2APIC, with']:+.1f})",
                f"From {start.cost[name].cycles} in: {start.title}",
            ):
                assert word in cost.source
        else:
            assert cost == start.cost[name]
    assert found["fixed"] == {name: cost.cycles for name, cost in start.cost.items() if name not in FITTED}
    rows = json.loads(shell("bench", "published", "ipiv-v4", "--profile", out, "--json").stdout)
    errors = {row["name"]: row["error"] for row in rows if row["fitted"] and row["unit"] == "cycles"}
    assert errors == found["rows"]
    scenario = tmp_path / "ping.toml"
    scenario.write_text('[[vm]]\nworkload = { name = "ping", rounds = 2000 }\n', encoding="utf-8")
    words = ("run", scenario, "--engine", "virtual-time", "--profile", out, "--json")
    cycles = json.loads(shell(*words).stdout)["cycles"]
    assert cycles / 2000 - 3644.8 == pytest.approx(found["rows"]["vmexit_ipi, x2APIC, with"])
    text = shell("profile", "fit", "ipiv-v4", "--from", out, "--out", tmp_path / "again.toml").stdout
    assert f"the 26 other costs stayed as they were: `ipivrs profile show {out}` shows them" in text
    assert f"{tmp_path / 'again.toml'}: all of them with their sources" in text


def test_a_file_that_cannot_take_the_profile_is_refused_before_the_fit(shell: Shell, tmp_path: Path) -> None:
    rows, start = tmp_path / "mine.toml", tmp_path / "start.toml"
    rows.write_text(ROW.format("true", "ping"), encoding="utf-8")
    start.write_text(profiles.find(profiles.DEFAULT).toml(), encoding="utf-8")
    shipped = profiles.shipped()[profiles.DEFAULT]
    for words, message in [
        ((rows, "--out", tmp_path / "none" / "out.toml"), "there is no folder"),
        ((rows, "--out", tmp_path), "Is a directory"),
        ((rows, "--out", rows), "would replace what the fit begins with"),
        ((rows, "--from", start, "--out", start), "would replace what the fit begins with"),
        ((rows, "--out", shipped), "would replace what the fit begins with"),
        (("ipiv-v4", "--out", published.shipped()["ipiv-v4"]), "would replace what the fit begins with"),
    ]:
        before = [file.read_bytes() for file in (rows, start, shipped)]
        result = shell("profile", "fit", *words)
        assert (result.exit_code, result.stdout, message in result.stderr) == (2, "", True), result.stderr
        assert [file.read_bytes() for file in (rows, start, shipped)] == before


def test_a_profile_is_read_back_whatever_its_texts_are(tmp_path: Path) -> None:
    shipped = profiles.find(profiles.DEFAULT)
    odd = 'a "quote", a \\ and \t\n\r\x00\x1f\x7f, ä, \u2028, \U0001f600, \'\'\' and """'
    cost = shipped.cost["post"].model_copy(update={"source": odd})
    profile = shipped.model_copy(update={"title": odd, "cost": shipped.cost | {"post": cost}})
    file = tmp_path / "mine.toml"
    file.write_text(profile.toml(), encoding="utf-8", newline="")
    assert profiles.find(str(file)) == profile


@pytest.mark.parametrize(
    ("costs", "groups"),
    [
        (FITTED, []),
        (["notification_flight", "delivery"], [["notification_flight", "delivery"]]),
        (["delivery", "vm_exit"], []),
        (
            ["vm_exit", "delivery", "host_ipi", "line_transfer"],
            [["vm_exit", "host_ipi"], ["delivery", "line_transfer"]],
        ),
        (["vm_exit", "exit_msr_icr", "exit_apic_write"], [["vm_exit", "exit_msr_icr", "exit_apic_write"]]),
    ],
)
def test_costs_that_the_rows_cannot_tell_apart_are_named(costs: list[str], groups: list[list[str]]) -> None:
    found = fit(published.find("ipiv-v4"), profiles.find(profiles.DEFAULT), costs)
    assert sorted(found.not_told_apart) == sorted(groups)


def test_what_to_do_about_costs_that_are_not_told_apart_is_said(shell: Shell) -> None:
    arguments = ("profile", "fit", "ipiv-v4", "--costs", "notification_flight,delivery")
    text = shell(*arguments).stdout
    assert "the rows cannot tell notification_flight and delivery apart" in text
    assert "leave one out of --costs, or add a row" in text
    assert json.loads(shell(*arguments, "--json").stdout)["not_told_apart"] == [["notification_flight", "delivery"]]
    assert "cannot tell" not in shell("profile", "fit", "ipiv-v4").stdout


def test_sn_in_host_sends_a_thousandth_of_the_notifications() -> None:
    rows = {
        row["name"]: row for row in published.compare(published.find("sn-in-host"), profiles.find(profiles.DEFAULT))
    }
    before, after = (rows[f"sched pipe: notifications a second, {when}"]["predicted"] for when in ("before", "after"))
    assert before > 100 * after
    assert 0 < rows["sched pipe: operations gained"]["predicted"] < 15
    assert 0 < rows["exit and entry: time added"]["predicted"] < 5


def test_mistakes_in_a_file_of_measurements_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    row = 'name = "a"\nquantity = "cycles"\nscenario = { vm = [{}] }\n'
    for text, message in [
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}', "give measured"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}measured = 1.0\nbaseline = {{ "host.pcpus" = 1 }}\n', "baseline"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}measured = 1.0\nbetween = [1, 2]\n', "between says what"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}published = "few"\nbetween = [2, 1]\n', "between says what"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}published = "few"\nbetween = [0, 1]\n', "mine.toml"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row.replace("cycles", "cycle")}measured = 1.0\n', "cycles"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}measured = nan\n', "row[0].measured"),
        (f'title = "t"\nsource = "s"\n[[row]]\n{row}measured = -5.0\n', "more than 0"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ProfileError) as caught:
            published.find(str(file))
        assert message in str(caught.value)
        assert "mine.toml" in str(caught.value)
    with pytest.raises(ProfileError, match="it is a folder; give measurements, a TOML file"):
        published.find(str(tmp_path))
    with pytest.raises(ProfileError, match="did you mean ipiv-v4"):
        published.find("ipiv-v5")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"hots.pcpus" = 1', "hots: no such field; did you mean host?"),
        ('"host.pcpsu" = 1', "host.pcpsu: no such field; did you mean pcpus?"),
        ('"host.pcpus" = 0', "host.pcpus: must be 1 or more, not 0"),
        ('"host" = 3', "host: must be a table, not 3"),
        ('"seed.x" = 3', "seed.x: seed is 1, not a table"),
        ('"vm.7.vcpus" = 1', "the scenario has no vm.7: it has vm.0"),
        ('"vm.x.vcpus" = 1', "the scenario has no vm.x: it has vm.0"),
    ],
)
def test_a_field_of_a_baseline_that_is_not_there_is_named(tmp_path: Path, field: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    row = 'name = "a"\nquantity = "time-saved"\nmeasured = 1.0\nscenario = { seed = 1, vm = [{}] }\n'
    file.write_text(f'title = "t"\nsource = "s"\n[[row]]\n{row}baseline = {{ {field} }}\n', encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        published.find(str(file))
    assert str(caught.value).startswith(f"{file}:8: row[0].baseline: ")
    assert message in str(caught.value)


def test_a_baseline_may_differ_in_any_field() -> None:
    scenario = {"vm": [{"workload": {"name": "ping", "rounds": 5}}]}
    differs = {"vm.0.workload.rounds": 10, "vm.0.apic": "xapic"}
    row = published.Row(name="a", measured=1, quantity="time-added", scenario=scenario, baseline=differs)
    (vm,) = row.compared().vm
    assert (vm.workload, vm.apic) == (Ping(rounds=10), "xapic")
    assert published.predict(row, profiles.find(profiles.DEFAULT)) < 0


def test_bench_published_prints_measured_predicted_and_error(shell: Shell) -> None:
    text = shell("bench", "published").stdout
    for word in ("measured", "predicted", "error", "fitted", "hackbench", "sched pipe", "tens of thousands"):
        assert word in text
    rows = json.loads(shell("bench", "published", "--json").stdout)
    assert {"name", "measured", "predicted", "error", "unit", "fitted", "source"} <= set(rows[0])
    assert len(rows) == 14


def test_what_was_chosen_by_a_rows_own_measurement_is_said(shell: Shell) -> None:
    text = " ".join(shell("bench", "published", "ipiv-v4").stdout.split())
    assert "how long its idle loop is was chosen by its own row without" in text
    assert "its work was chosen by its own published time without" in text


@pytest.mark.parametrize(("idle", "as_shipped"), [(1, 0), (350, 0), (700, 0), (800, 1), (1400, 1), (2000, 1)])
def test_how_long_the_idle_loop_is_decides_between_nothing_and_what_is_shipped(
    tmp_path: Path, idle: int, as_shipped: int
) -> None:
    def saved(measurements: str) -> float:
        (row,) = [row for row in published.find(measurements).row if row.name.endswith("normal IPI: time saved")]
        return published.predict(row, profiles.find(profiles.DEFAULT))

    text = published.shipped()["ipiv-v4"].read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('"answer", { compute = 1000 }', f'"answer", {{ compute = {idle} }}'), encoding="utf-8")
    assert file.read_text(encoding="utf-8") != text
    assert saved(str(file)) == pytest.approx(as_shipped * saved("ipiv-v4"), abs=0.1)


def test_an_order_of_magnitude_has_an_error_in_times(shell: Shell) -> None:
    text = shell("bench", "published", "sn-in-host").stdout
    rows = json.loads(shell("bench", "published", "sn-in-host", "--json").stdout)
    before, after = (row for row in rows if row["error"] is None)
    assert (before["between"], after["between"]) == ([10_000, 100_000], [100, 1_000])
    assert before["factor"] == pytest.approx(before["predicted"] / 100_000)
    assert after["factor"] == 1
    for row, error in ((before, "3.6 times  per second"), (after, " within  per second")):
        assert f"{row['name']}: {row['published']} is taken for {row['between'][0]:,.0f} to " in text
        (line,) = [line for line in text.splitlines() if row["name"] in line and error in line]
        assert row["published"] in line
    assert all(row["factor"] is None for row in rows if row not in (before, after))


@pytest.mark.parametrize(("most", "factor", "shown"), [(100, 1.2, "1.2 times"), (5_000, 0.12, "0.12 times")])
def test_a_factor_is_from_the_nearer_end(shell: Shell, tmp_path: Path, most: int, factor: float, shown: str) -> None:
    shipped = published.shipped()["sn-in-host"].read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    least = 10 if most == 100 else 1_000
    file.write_text(shipped.replace("[100, 1_000]", f"[{least}, {most}]"), encoding="utf-8")
    (row,) = [
        row for row in json.loads(shell("bench", "published", str(file), "--json").stdout) if "after" in row["name"]
    ]
    assert row["factor"] == pytest.approx(factor, abs=0.05)
    assert shown in shell("bench", "published", str(file)).stdout


def test_profile_commands(shell: Shell) -> None:
    assert "sapphire-rapids" in shell("profile", "list").stdout
    assert "vm_exit" in shell("profile", "show").stdout
    fitted = json.loads(shell("profile", "fit", "ipiv-v4", "--json").stdout)
    assert set(fitted["cycles"]) == set(FITTED)
    for arguments, message in [
        (("profile", "show", "nothing"), "no profile 'nothing'"),
        (("profile", "fit", "ipiv-v4", "--costs", "mmio"), "did you mean mmio_write"),
        (("profile", "fit", "ipiv-v4", "--costs", "post,post"), "twice"),
        (("bench", "published", "ipiv"), "no measurements 'ipiv'"),
        (("bench", "publishd"), "published"),
    ]:
        result = shell(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr
