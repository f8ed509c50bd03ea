"""What `--json` prints is what the shipped schemas say."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from conftest import Shell
from ipivrs.schema_command import schemas
from shipped import RECORDINGS, X2APIC_BOOT

OPEN = {
    ("info", "kvm_intel"),
    ("profile-show", "cost"),
    ("run-recording", "records"),
    ("sweep", "rows"),
}
"""Objects whose names are not the schema's: docs/json.md has them."""

HACKBENCH = """
[host]
pcpus = 2
policy = "{policy}"
[[vm]]
vcpus = 4
workload = {{ name = "hackbench" }}
"""


def valid(name: str, printed: Any) -> None:  # noqa: ANN401
    errors = [
        f"{error.json_path}: {error.message}" for error in Draft202012Validator(schemas()[name]).iter_errors(printed)
    ]
    assert not errors


def printed(shell: Shell, *words: object) -> Any:  # noqa: ANN401
    return json.loads(shell(*words, "--json").stdout)


@pytest.mark.parametrize("name", schemas())
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schemas()[name])


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_run_of_a_recording(shell: Shell, path: Path) -> None:
    valid("run-recording", printed(shell, "run", path))


def test_run_of_a_recording_in_virtual_time(shell: Shell) -> None:
    valid("run-recording", printed(shell, "run", X2APIC_BOOT, "--engine", "virtual-time"))


def test_run_of_a_recording_with_all_that_keeps_ipis_from_being_virtualized(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "perf.txt"
    file.write_text(
        "q 5/7 [0] 1.0: kvm:kvm_apicv_inhibit_changed: set reason=1, inhibits=0x2\n"
        "q 5/7 [0] 1.1: kvm:kvm_mmio: mmio write len 4 gpa 0xfee00020 val 0x5000000\n"
        "q 5/7 [0] 1.2: kvm:kvm_hypercall: nr 0xa a0 0x2 a1 0x0 a2 0x0 a3 0xfb\n"
        "q 5/7 [0] 1.3: kvm:kvm_apic_ipi: dst 0 vec 251 (Fixed|physical|de-assert|edge|dst)\n",
        encoding="utf-8",
    )
    result = printed(shell, "run", file)
    valid("run-recording", result)
    assert len(result["advice"]) == 2
    assert result["recording"]["vcpus"][0]["id_written"] == 5


@pytest.mark.parametrize("engine", ["threads", "virtual-time"])
@pytest.mark.parametrize("policy", ["kvm", "kvm-sn-in-host"])
def test_run_of_a_scenario(shell: Shell, tmp_path: Path, engine: str, policy: str) -> None:
    file = tmp_path / "one.toml"
    file.write_text(HACKBENCH.format(policy=policy), encoding="utf-8")
    result = printed(shell, "run", file, "--engine", engine)
    valid("run-scenario", result)
    (vm,) = result["vms"]
    assert sum(vm["sent"]) == result["ipis"]["total"]
    assert sum(vm["delivered"]) == result["ipis"]["delivered"]


@pytest.mark.parametrize(
    "words",
    [
        ["0x000C00FB", "--apic", "xapic"],
        ["--vector", "0xFB", "--dest", "3", "--vcpus", "4"],
        ["0xFFFFFFFFFFFFFFFF"],
        ["0xF1", "--access", "self-ipi"],
    ],
)
def test_explain(shell: Shell, words: list[str]) -> None:
    valid("explain", printed(shell, "explain", *words))


@pytest.mark.parametrize(
    "words",
    [
        ["kvm", "--senders", "1", "--software", "0", "--exits", "0", "--migrations", "0"],
        ["acrn-4778"],
        ["kvm", "--max-states", "1"],
        [
            "kvm",
            "--senders",
            "1",
            "--software",
            "0",
            "--exits",
            "0",
            "--migrations",
            "0",
            "--preemptions",
            "0",
            "--mutate",
        ],
    ],
)
def test_check(shell: Shell, words: list[str]) -> None:
    valid("check", printed(shell, "check", *words))


def test_sweep(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('scenario = "one.toml"\n[grid]\nseed = [1, 2]\n', encoding="utf-8")
    (tmp_path / "one.toml").write_text(HACKBENCH.format(policy="kvm"), encoding="utf-8")
    result = printed(shell, "sweep", file, "--out", tmp_path / "out.csv", "--workers", "1")
    valid("sweep", result)
    assert result["done"] == 2


def test_sweep_of_tables_and_lists(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    group = '{ vcpus = 0, program = [{ self = 0xF6 }, "hlt"] }'
    (tmp_path / "one.toml").write_text(
        '[[vm]]\nvcpus = 2\nworkload = { name = "ping", rounds = 5 }\n', encoding="utf-8"
    )
    axes = (
        '"vm.0.workload" = [{ name = "ping", rounds = 10 }, { name = "storm", rounds = 10 }]',
        '"chaos" = [{}, { migrate = true }]',
        f'"vm.0.group" = [[], [{group}]]',
    )
    for axis in axes:
        file.write_text(f'scenario = "one.toml"\n[grid]\n{axis}\n', encoding="utf-8")
        result = printed(shell, "sweep", file, "--out", tmp_path / "out.csv", "--workers", "1", "--restart")
        valid("sweep", result)
        assert {type(next(iter(row.values()))) for row in result["rows"]} <= {dict, list}


def test_bench_published(shell: Shell) -> None:
    valid("bench-published", printed(shell, "bench", "published", "sn-in-host"))


def test_profile_show(shell: Shell) -> None:
    valid("profile-show", printed(shell, "profile", "show"))


def test_info(shell: Shell) -> None:
    valid("info", printed(shell, "info"))


def test_only_documented_objects_are_open() -> None:
    found = {(name, key) for name, schema in schemas().items() for key in _open("", schema)}
    assert found == OPEN
    page = (Path(__file__).parent.parent / "docs/json.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for _, key in OPEN)


def _open(key: str, node: Any) -> list[str]:  # noqa: ANN401
    """The names of objects whose properties are not all listed."""
    if isinstance(node, list):
        return [name for item in node for name in _open(key, item)]
    if not isinstance(node, dict):
        return []
    here = [key] if "object" in (node.get("type") or "") and node.get("additionalProperties") is not False else []
    names = {"items", "anyOf", "properties", "additionalProperties"}
    return here + [name for child, value in node.items() for name in _open(key if child in names else child, value)]


def test_a_schema_is_printed_whole(shell: Shell) -> None:
    for more in ((), ("--json",)):
        assert json.loads(shell("schema", "explain", *more).stdout) == schemas()["explain"]


def test_schemas_are_listed(shell: Shell) -> None:
    listed = shell("schema").stdout
    assert all(name in listed for name in schemas())
    assert printed(shell, "schema") == {name: schema["title"] for name, schema in schemas().items()}


def test_an_unknown_schema_is_bad_input(shell: Shell) -> None:
    result = shell("schema", "explane")
    assert result.exit_code == 2
    assert "did you mean explain?" in result.stderr
