"""Grids for the tests of sweeps, and what they look at while one goes on."""

import os
from pathlib import Path

QUICK = '[[vm]]\nworkload = { name = "ping", rounds = 5 }\n'
SLOW = 'seconds = 0.3\n[[vm]]\nworkload = { name = "storm" }\n'


def write_grid(folder: Path, grid: str, scenario: str = QUICK) -> Path:
    """A grid file that has nothing but these keys, and its scenario."""
    (folder / "base.toml").write_text(scenario)
    file = folder / "g.toml"
    file.write_text(f'scenario = "base.toml"\n[grid]\n{grid}\n')
    return file


def workers_of(parent: int) -> list[int]:
    """The worker processes of a sweep."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes()
                owner = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"ipivrs.point_worker" in words and owner == parent:
                found.append(int(process.name))
    return found


def is_there(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
