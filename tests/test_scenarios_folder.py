"""The folder scenarios/ shows what ipivrs ships."""

from pathlib import Path

from ipivrs.grid import shipped_grids
from ipivrs.running import shipped_path, shipped_scenarios

FOLDER = Path(__file__).parent.parent / "scenarios"


def test_it_has_every_shipped_scenario_and_grid() -> None:
    scenarios = {f"{name}.toml" for name in shipped_scenarios()}
    grids = {f"sweep-{name}.toml" for name in shipped_grids()}
    assert {file.name for file in FOLDER.iterdir()} == scenarios | grids
    assert all(file.is_symlink() and file.exists() for file in FOLDER.iterdir())
    assert (FOLDER / "ping.toml").read_text() == Path(shipped_path("ping")).read_text()
