"""`make instructions`: instructions per operation, counted by Valgrind, against benches/instructions.toml.

The counts repeat exactly, so a path that grew did so because its code, or the compiler, is another.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ipivrs import _core, policies, profiles

BUDGET = Path(__file__).parents[1] / "benches" / "instructions.toml"
MOST_GROWTH = 0.05
PATHS = ("ipi-x2apic", "ipi-xapic", "post-coalesced", "virtual-time-ping", "virtual-time-storm", "explorer")

HEAD = """# Instructions per operation, counted by `make instructions`; more than 5 % over these and it fails.
# `make instructions UPDATE=1` writes the file anew. Other compilers count otherwise: this is
"""

# What importing executes is outside of the function `counted`, and not counted.
PROGRAM = """
import sys
from pathlib import Path
from ipivrs import _core
path, *files = sys.argv[1:]
print(_core.count(path, *(Path(file).read_text(encoding="utf-8") for file in files)))
"""


def counted(path: str, folder: Path) -> float:
    """Instructions per operation of a path."""
    (policy := folder / "policy").write_text(policies.find("kvm").text, encoding="utf-8")
    (costs := folder / "costs").write_text(profiles.find(profiles.DEFAULT).costs(), encoding="utf-8")
    counts = folder / "counts"
    command = [
        *("valgrind", "--quiet", "--tool=callgrind", "--toggle-collect=*counted*", f"--callgrind-out-file={counts}"),
        *(sys.executable, "-c", PROGRAM, path, str(policy), str(costs)),
    ]
    times = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"^totals: (\d+)", counts.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    if found is None or found[1] == "0":
        sys.exit(f"{path}: nothing was counted; is the function `counted` in the build?")
    return int(found[1]) / int(times)


def main() -> int:
    """Count, compare, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the budget anew")
    update: bool = parser.parse_args().update
    rustc = _core.build_info()["rustc"]
    budget = _core.read_toml(BUDGET.read_text(encoding="utf-8"))[0] if BUDGET.exists() else {}
    grown = []
    counts = {}
    for path in PATHS:
        with tempfile.TemporaryDirectory() as folder:
            counts[path] = now = counted(path, Path(folder))
        was = budget.get(path)
        change = "new" if was is None else f"{now / was - 1:+.1%}"
        print(f"{path:20} {'' if was is None else f'{was:,.1f}':>10} -> {now:>10,.1f}  {change}")
        if was is None or now > was * (1 + MOST_GROWTH):
            grown.append(path)
    if update:
        lines = [f"{path} = {now:.1f}" for path, now in counts.items()]
        BUDGET.write_text(f"{HEAD}# {rustc}.\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return 0
    if grown:
        print(f"\nover the budget of {BUDGET.name}: {', '.join(grown)} (this build: {rustc}).", file=sys.stderr)
        print("If that is worth it, `make instructions UPDATE=1` and say why in the commit.", file=sys.stderr)
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
