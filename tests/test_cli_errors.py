"""Bad input of every sort: a line or two on stderr that say what to change, exit code 2, nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Process, Shell
from shipped import EXAMPLES, X2APIC_BOOT

# Command lines, and what their errors must say.
COMMAND_LINES = [
    ("explain --vector 300", ["--vector", "0 to 255", "300"]),
    ("explain --vector FB", ["--vector", "0x19", "'FB'"]),
    ("explain 0x1FFFFFFFFFFFFFFFF", ["ICR", "0xffffffffffffffff"]),
    ("explain ten", ["ICR must be a number", "'ten'"]),
    ("explain", ["give an ICR", "--vector"]),
    ("explain 0xFB --vector 3", ["either an ICR or --vector"]),
    ("explain 0xFB --destination-mode logical", ["either an ICR or --destination-mode"]),
    ("explain --vector 3 --dest 256 --apic xapic", ["--dest", "0 to 255", "xapic"]),
    ("explain --vector 3 --mode fixd", ["--mode", "lowest-priority", "did you mean fixed?"]),
    ("explain --vector 3 --shorthand everybody", ["--shorthand", "all-but-self"]),
    ("explain 3 --vcpus 0", ["--vcpus", "1 to 65536"]),
    ("explain 3 --last-index 65536", ["--last-index", "0 to 65535"]),
    ("explain 3 --mod fixed", ["no option --mod", "did you mean --mode?", "ipivrs explain --help"]),
    ("explain 1 2", ["unexpected", "2"]),
    ("explain --vector", ["--vector", "requires an argument"]),
    ("run", ["missing argument", "FILE", "ipivrs run --help"]),
    ("run file --apic x3apic", ["--apic", "x2apic, xapic", "did you mean xapic?"]),
    ("run file --apci x2apic", ["no option --apci", "did you mean --apic?"]),
    ("run file --apic-ids 0,two", ["--apic-ids", "'two'"]),
    ("run file --apic-ids 0,,1", ["--apic-ids", "''"]),
    ("run file --pace slow", ["--pace", "recorded, free"]),
    ("run file --process me", ["--process", "'me'"]),
    ("run my.policy", ["my.policy: this is a policy", "--policy my.policy", "ipivrs check my.policy"]),
    ("check scenarios/hackbench.toml", ["hackbench.toml: this is a scenario", "ipivrs run scenarios/hackbench.toml"]),
    ("rnu file", ["no command rnu", "did you mean run?"]),
    ("check --no-inhibt", ["no option --no-inhibt", "did you mean --no-inhibit?"]),
    ("run --halp", ["no option --halp", "did you mean --help?"]),
    ("--verzion", ["no option --verzion", "did you mean --version?"]),
    ("schema chek", ["no schema 'chek'", "run-recording", "did you mean check?"]),
    ("info extra", ["unexpected", "extra"]),
]


def assert_is_a_short_error(code: int, stdout: str, stderr: str) -> None:
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert 1 <= len(stderr.splitlines()) <= 2
    assert "Traceback" not in stderr


@pytest.mark.parametrize("option", ["--bogus", "--foo", "--quiet", "--format", "--threads", "--parallel", "-z"])
@pytest.mark.parametrize("command", ["run", "sweep", "explain", "info"])
def test_no_option_is_named_that_is_not_meant(shell: Shell, command: str, option: str) -> None:
    assert shell(command, option).stderr == f"error: no option {option} (see ipivrs {command} --help)\n"


@pytest.mark.parametrize(("words", "expected"), COMMAND_LINES, ids=[words for words, _ in COMMAND_LINES])
def test_a_command_line_that_cannot_be_meant(shell: Shell, words: str, expected: list[str]) -> None:
    result = shell(*words.split())
    assert_is_a_short_error(result.exit_code, result.stdout, result.stderr)
    assert all(part in result.stderr for part in expected), result.stderr


@pytest.fixture
def no_recording(tmp_path: Path) -> Path:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader,\nthis is no recording.\n", encoding="utf-8")
    return path


@pytest.fixture
def half(tmp_path: Path) -> Path:
    path = tmp_path / "half.perf.data"
    whole = X2APIC_BOOT.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.fixture
def without_ipis(tmp_path: Path) -> Path:
    path = tmp_path / "without-ipis.txt"
    lines = (EXAMPLES / "kut-apic-x2apic.perf-script.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "kvm_apic_ipi" not in line), encoding="utf-8")
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.touch()
    return path


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    return tmp_path / "missing.perf.data"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_recording", ["letter.txt", "perf record"]),
        ("half", ["half.perf.data", "cut"]),
        ("without_ipis", ["without-ipis.txt", "kvm_apic_ipi"]),
        ("empty", ["empty"]),
        ("missing", ["missing.perf.data"]),
        ("directory", ["directory"]),
    ],
)
def test_a_file_that_is_no_use(
    request: pytest.FixtureRequest, process: Process, name: str, expected: list[str]
) -> None:
    done = process("run", request.getfixturevalue(name))
    assert_is_a_short_error(done.returncode, done.stdout, done.stderr)
    assert all(part in done.stderr for part in expected), done.stderr


def test_one_bad_file_among_good_ones_is_an_error(shell: Shell, missing: Path) -> None:
    result = shell("run", X2APIC_BOOT, missing)
    assert_is_a_short_error(result.exit_code, result.stdout, result.stderr)


def test_exit_codes_of_a_real_process(process: Process) -> None:
    done = process("explain", "--vector", "300")
    assert_is_a_short_error(done.returncode, done.stdout, done.stderr)
    assert process("explain", "0xFB").returncode == 0


@pytest.mark.parametrize(("command", "what"), [("run", "a file"), ("sweep", "the grid")])
def test_a_name_that_is_empty(shell: Shell, command: str, what: str) -> None:
    result = shell(command, "")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: the name of {what} is empty: give a ")


@pytest.mark.parametrize(("closed", "words", "code"), [(">&-", "explain 0x41", 0), ("2>&-", "explain x", 2)])
def test_streams_that_the_shell_closed(closed: str, words: str, code: int) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "ipivrs", *words.split()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
