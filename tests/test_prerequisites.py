"""tools/prerequisites.sh names what is missing and the way to get it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "prerequisites.sh"
TOOLS = ("bash", "cut", "env", "head", "mktemp", "rm", "sort")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with nothing but what the script itself needs."""
    for tool in TOOLS:
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def check(path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": str(path), "HOME": str(path), **environment}
    return subprocess.run([str(SCRIPT)], check=False, capture_output=True, text=True, env=env, timeout=60)


def pretend(path: Path, name: str, says: str) -> None:
    (path / name).write_text(f"#!/usr/bin/env bash\necho '{says}'\n", encoding="utf-8")
    (path / name).chmod(0o755)


def test_nothing_is_there(path: Path) -> None:
    done = check(path)
    assert done.returncode == 1
    assert "no Python 3.10 or later" in done.stderr
    assert "no cargo: install Rust 1.88 or later with rustup" in done.stderr


def test_what_is_missing_is_said_in_the_words_of_the_package_manager(path: Path) -> None:
    pretend(path, "apt-get", "")
    assert "sudo apt install python3 python3-venv" in check(path).stderr
    (path / "apt-get").rename(path / "dnf")
    assert "sudo dnf install python3" in check(path).stderr


@pytest.mark.parametrize(("version", "fine"), [("1.87.0", False), ("1.9.0", False), ("1.88.0", True), ("2.0.0", True)])
def test_the_age_of_rust(path: Path, version: str, fine: bool) -> None:
    pretend(path, "rustc", f"rustc {version} (0123456 2026-01-01)")
    pretend(path, "cargo", f"cargo {version}")
    assert ("is too old, 1.88 or later is needed: rustup update" not in check(path).stderr) == fine


def test_everything_is_there_prints_the_python_to_use(path: Path) -> None:
    pretend(path, "rustc", "rustc 1.95.0 (0123456 2026-01-01)")
    pretend(path, "cargo", "cargo 1.95.0")
    done = check(path, PYTHON=sys.executable)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sys.executable}\n", "")


def test_a_python_that_does_not_fit_is_named(path: Path) -> None:
    pretend(path, "old-python", "")
    (path / "old-python").write_text("#!/usr/bin/env bash\nexit 1\n", encoding="utf-8")
    assert "PYTHON=old-python is no CPython 3.10 or later" in check(path, PYTHON="old-python").stderr
