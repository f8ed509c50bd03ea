"""`ipivrs explain`: answers for people, JSON, and a destination that nobody has."""

import json

import pytest

import ipivrs
from conftest import Process, Shell


def test_a_shorthand_exits_and_the_clause_is_named(shell: Shell) -> None:
    result = shell("explain", "0x000C00FB", "--apic", "xapic")
    assert result.exit_code == 0
    assert result.stdout.startswith("VM exit after the write: 56 APIC write, qualification 300H\n")
    assert "SDM 30.4.3.2" in result.stdout.splitlines()[1]
    assert "destination shorthand must be none" in result.stdout.splitlines()[1]
    assert "all-but-self" in result.stdout
    assert "no_ipi_broadcast=1" in result.stdout


def test_a_unicast_goes_on_to_its_target(shell: Shell) -> None:
    result = shell("explain", "--vector", "0xFB", "--dest", "3", "--apic", "x2apic", "--vcpus", "4")
    assert result.exit_code == 0
    assert result.stdout.startswith("posted: no VM exit\n")
    assert "\nTarget\n" in result.stdout


def test_every_rule_is_listed_with_its_clause(shell: Shell) -> None:
    lines = shell("explain", "0xFB").stdout.splitlines()
    steps = ipivrs.explain(0xFB).as_dict()["steps"]
    for step in steps:
        mark = "holds" if step["holds"] else "fails"
        assert any(line.split()[:1] == [mark] and step["rule"] in line for line in lines)


def test_json_is_the_explanation(shell: Shell) -> None:
    result = shell("explain", "0x000C00FB", "--apic", "xapic", "--json")
    assert json.loads(result.stdout) == ipivrs.explain(0x000C00FB, apic="xapic").as_dict()


def test_hexadecimal_and_decimal_are_the_same(shell: Shell) -> None:
    assert shell("explain", "0xFB").stdout == shell("explain", "251").stdout == shell("explain", "--vector=251").stdout


def test_all_fields_reach_the_icr(shell: Shell) -> None:
    words = (
        "--vector 0x20 --dest 5 --mode NMI --destination-mode logical --level assert --trigger level --shorthand all"
    )
    printed = json.loads(shell("explain", *words.split(), "--json").stdout)
    icr = ipivrs.compose_icr(
        0x20, 5, mode="nmi", destination_mode="logical", level="assert", trigger="level", shorthand="all"
    )
    assert int(printed["icr"], 16) == icr == 5 << 32 | 0x8CC00 | 0x20


def test_the_self_ipi_register_and_the_control(shell: Shell) -> None:
    assert shell("explain", "0xFB", "--access", "self-ipi").stdout.startswith("self-IPI")
    assert shell("explain", "0xFB", "--no-ipiv").stdout.startswith("VM exit instead of the WRMSR: 32 WRMSR\n")


def test_the_last_index_is_said_where_it_counts(shell: Shell) -> None:
    def said(*words: str) -> str:
        _, _, rest = shell("explain", "--vector", "0xFB", "--dest", "1", *words).stdout.partition(
            "PID-pointer table\n  "
        )
        return rest.partition("\n")[0]

    assert said("--vcpus", "4") == (
        "LAST_PID_POINTER_INDEX is 3, the last of 4 vCPUs; KVM's is 4095 unless userspace sets KVM_CAP_MAX_VCPU_ID: "
        "--last-index takes another"
    )
    assert said("--last-index", "9") == "LAST_PID_POINTER_INDEX is 9, as --last-index says"
    assert said("--vcpus", "4", "--last-index", "9") == said("--last-index", "9")
    assert said() == said("--vcpus", "4", "--no-ipiv") == said("--vcpus", "4", "--shorthand", "all") == ""


def test_an_apic_id_beyond_the_table_has_an_answer_and_a_note(process: Process) -> None:
    words = ("explain", "--vector", "0xFB", "--dest", "9", "--vcpus", "4")
    done = process(*words)
    assert done.returncode == 0
    assert done.stdout.startswith("VM exit after the write: 56 APIC write, qualification 300H\n")
    assert process(*words, "--json").stdout == process(*words, "--last-index", "3", "--json").stdout
    assert done.stderr == (
        "note: APIC ID 9 is beyond a PID-pointer table of 4 vCPUs, whose last index is 3; "
        "for a longer table, such as KVM's for all that may be added, say --last-index\n"
    )
    # No table has such an entry.
    beyond = process("explain", "--vector", "0xFB", "--dest", "300000", "--vcpus", "4").stderr
    assert beyond.endswith("whose last index is 3; no table is longer than to index 65535\n")


@pytest.mark.parametrize(
    "words",
    [
        "--vector 0xFB --dest 3 --vcpus 4",
        "--vector 0xFB --dest 9 --last-index 3",
        "--vector 0xFB --dest 9 --vcpus 4 --last-index 3",
        "--vector 0xFB --dest 9 --vcpus 4 --shorthand all",  # with a shorthand the destination is noise
        "--vector 0xFB --dest 9 --vcpus 4 --mode nmi",  # exits before the table is looked at
        "--vector 0xFB --dest 9 --vcpus 4 --destination-mode logical",
        "--vector 0xFB --dest 9 --vcpus 4 --no-ipiv",
        "--vector 0x0F --dest 9 --vcpus 4",
        "--vector 0xFB --dest 0xFFFFFFFF --vcpus 4",  # broadcast
        "--vector 0xFB --dest 255 --vcpus 4 --apic xapic",
        "--vector 0xFB --vcpus 4 --access self-ipi",
    ],
)
def test_a_target_that_exists_or_does_not_matter_needs_no_note(shell: Shell, words: str) -> None:
    result = shell("explain", *words.split())
    assert (result.exit_code, result.stderr) == (0, "")
