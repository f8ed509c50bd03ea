"""build.rs: which commit it tells, and when cargo has to ask it again."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build script as cargo makes it."""
    program = tmp_path_factory.mktemp("script") / "build"
    subprocess.run(["rustc", "--edition=2024", "-o", str(program), str(ROOT / "build.rs")], check=True)
    return program


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "Something")


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "--short=12", "HEAD")


def told(script: Path, folder: Path, *, python: bool = True, path: str | None = None) -> dict[str, list[str]]:
    """What the script prints in a folder: values by key."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CARGO_"))}
    environment |= {"CARGO_FEATURE_PYTHON": "1"} if python else {}
    environment |= {} if path is None else {"PATH": path}
    done = subprocess.run([script], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.removeprefix("cargo::").partition("=")
        found.setdefault(key, []).append(value)
    return found


def told_commit(script: Path, folder: Path) -> str:
    return next(value for value in told(script, folder)["rustc-env"] if value.startswith("IPIVRS_COMMIT="))[14:]


def watched(script: Path, folder: Path) -> dict[Path, int]:
    """The files of git's that cargo looks at before each build, and when each last changed."""
    files = [folder / name for name in told(script, folder)["rerun-if-changed"] if name != "build.rs"]
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.parametrize("log", ["true", "false"])
def test_another_commit_is_noticed_and_nothing_else(script: Path, checkout: Path, log: str) -> None:
    git(checkout, "config", "core.logAllRefUpdates", log)
    if log == "false":
        (checkout / ".git/logs/HEAD").unlink()
    before = watched(script, checkout)
    assert before
    assert told_commit(script, checkout) == head(checkout)
    git(checkout, "status")
    git(checkout, "tag", "v1")
    assert watched(script, checkout) == before
    commit(checkout)
    assert watched(script, checkout) != before
    assert told_commit(script, checkout) == head(checkout)


def test_a_packed_branch(script: Path, checkout: Path) -> None:
    git(checkout, "pack-refs", "--all")
    (checkout / ".git/logs/HEAD").unlink()
    assert {path.name for path in watched(script, checkout)} == {"HEAD", "packed-refs"}
    assert told_commit(script, checkout) == head(checkout)


def test_a_linked_worktree(script: Path, checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(checkout, "worktree", "add", "--quiet", str(other))
    before = watched(script, other)
    commit(other)
    assert before
    assert watched(script, other) != before
    assert told_commit(script, other) == head(other) != head(checkout)


def test_a_source_package_is_of_no_commit(script: Path, checkout: Path, tmp_path: Path) -> None:
    inside = checkout / "unpacked"
    alone = tmp_path / "alone"
    for folder in (inside, alone):
        folder.mkdir()
        assert told_commit(script, folder) == "unknown"
        assert watched(script, folder) == {}


def test_without_git(script: Path, checkout: Path) -> None:
    values = told(script, checkout, path="")
    assert "IPIVRS_COMMIT=unknown" in values["rustc-env"]
    assert values["rerun-if-changed"] == ["build.rs"]


def test_without_the_python_face_nothing_is_told(script: Path, checkout: Path) -> None:
    assert told(script, checkout, python=False) == {"rerun-if-changed": ["build.rs"]}
