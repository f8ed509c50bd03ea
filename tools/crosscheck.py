"""Every protocol of the collection, and every mutation of `kvm`, checked by `ipivrs check` and by SPIN.

The two explore the same model and share nothing of how: ipivrs has it in Rust, SPIN reads what `ipivrs.promela` writes.
A line for each, then how many differ. Exit code 1 if some do or SPIN could not decide, 2 if there is no SPIN.

    tools/crosscheck.py [WORD...]       only what has one of these words in its name
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ipivrs import _core
from ipivrs.bounds import Bounds
from ipivrs.entries import HOLDS, collection
from ipivrs.policies import shipped
from ipivrs.promela import LIVELOCK_OPTIONS, SAFETY_OPTIONS, export
from ipivrs.variants import mutations

UNDECIDED = "undecided"
REFUSED = "refused"

# One hardware sender finds what two find, with a tenth of the states.
SMALL = Bounds(senders=1)
# Routines that run under a flag only, and are about hardware senders.
FLAGS = {
    "publish": replace(SMALL, software=0, publish=True),
    "refresh_apicv": replace(SMALL, software=0, inhibit=True),
    "set_apic_id": replace(SMALL, software=0, rewrite_id=True),
}

# One run of pan: seconds, MiB, and steps in a row.
LONGEST, MEMORY, DEEPEST = 240, 2000, 1_000_000

# Columns for a name.
WIDTH = 70


@dataclass(frozen=True)
class Case:
    """What is checked; `expected` is what the collection says, "" for a mutation."""

    name: str
    text: str
    bounds: Bounds
    expected: str = ""


@dataclass(frozen=True)
class Verdict:
    """A word, as `ipivrs check` has it; how many states were seen; what there is to say where there is no verdict."""

    word: str
    states: int = 0
    why: str = ""

    @property
    def line(self) -> str:
        """Its columns in the table."""
        return f"{self.word:16} {self.states:9,}"


@dataclass(frozen=True)
class Comparison:
    """A case and the two verdicts."""

    case: Case
    ipivrs: Verdict
    spin: Verdict
    seconds: float

    @property
    def agrees(self) -> bool:
        """Both hold, both are refuted, or both are no policies; which property is found broken first may differ."""
        words = [self.ipivrs.word, self.spin.word, self.case.expected or self.ipivrs.word]
        return UNDECIDED not in words and len({word if word in {HOLDS, REFUSED} else "" for word in words}) == 1

    @property
    def line(self) -> str:
        """A line of the table; what differs stands out."""
        name = self.case.name if len(self.case.name) <= WIDTH else f"{self.case.name[: WIDTH - 1]}…"
        verdicts = (self.ipivrs, self.spin)
        words = "  ".join(verdict.line for verdict in verdicts)
        why = "".join(f"\n    {verdict.why}" for verdict in verdicts if verdict.why and not self.agrees)
        return f"{' ' if self.agrees else '!'} {name:{WIDTH}} {words} {self.seconds:7.1f}{why}"


def cases() -> Iterator[Case]:
    """The collection, then the mutations, under small bounds."""
    for entry in collection():
        bounds = replace(entry.bounds, senders=min(entry.bounds.senders, SMALL.senders))
        yield Case(entry.name, entry.policy_text, bounds, entry.verdict)
    for mutation in mutations(shipped()["kvm"]):
        kind = "without" if mutation.kind == "drop" else "swapped"
        yield Case(f"{kind} {mutation.description}", mutation.text, FLAGS.get(mutation.routine, SMALL))


def compared(case: Case) -> Comparison:
    """A case, checked by both."""
    begin = time.monotonic()
    ipivrs, spin = ipivrs_verdict(case), spin_verdict(case)
    return Comparison(case, ipivrs, spin, time.monotonic() - begin)


def ipivrs_verdict(case: Case) -> Verdict:
    """What `ipivrs check` says."""
    try:
        found = _core.check(case.text, case.bounds.as_json(), threads=1)
    except ValueError as error:
        return Verdict(REFUSED, why=str(error))
    if found["holds"] is None:
        return Verdict(UNDECIDED, found["states"], found["undecided"])
    return Verdict(HOLDS if found["holds"] else found["violation"]["kind"], found["states"])


def spin_verdict(case: Case) -> Verdict:
    """What SPIN says: first all but livelock, then livelock."""
    try:
        model = export(json.loads(_core.policy_steps(case.text)), case.bounds)
    except ValueError as error:
        return Verdict(REFUSED, why=str(error))
    with tempfile.TemporaryDirectory(prefix="crosscheck-") as folder:
        Path(folder, "model.pml").write_text(model, encoding="utf-8")
        try:
            safety = pan(folder, [], SAFETY_OPTIONS, ["-E"])
            if safety.word != HOLDS:
                return safety
            return replace(pan(folder, ["-DLIVELOCK"], LIVELOCK_OPTIONS, ["-a", "-f"]), states=safety.states)
        except subprocess.CalledProcessError as error:
            return Verdict(UNDECIDED, why=f"{error}\n{error.stdout}{error.stderr}")
        except subprocess.TimeoutExpired as error:
            return Verdict(UNDECIDED, why=str(error))


def pan(folder: str, defines: list[str], options: tuple[str, ...], search: list[str]) -> Verdict:
    """Make SPIN's verifier and run it. For models as small as these, optimizing takes longer than it saves."""
    commands = (
        ["spin", "-a", *defines, "model.pml"],
        ["cc", "-O0", "-w", f"-DMEMLIM={MEMORY}", *options, "-o", "pan", "pan.c"],
        ["./pan", f"-m{DEEPEST}", *search],
    )
    for command in commands:
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=LONGEST)
    return verdict_of(done.stdout)


def verdict_of(output: str) -> Verdict:
    """What pan's report says."""
    errors = re.search(r"errors: (\d+)", output)
    stored = re.search(r"(\d+) states, stored", output)
    if errors is None or stored is None:
        return Verdict(UNDECIDED, why=output)
    states = int(stored[1])
    if int(errors[1]):
        assertion = re.search(r"assertion violated never_(\w+)", output)
        return Verdict(assertion[1].replace("_", "-") if assertion else "livelock", states)
    cut_short = re.search(r"search not completed|search depth too small|out of memory", output)
    return Verdict(UNDECIDED, states, output) if cut_short else Verdict(HOLDS, states)


def main() -> int:
    """Compare and report."""
    if not shutil.which("spin"):
        print("crosscheck: install SPIN (Debian package spin)", file=sys.stderr)
        return 2
    chosen = [case for case in cases() if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])]
    print(f"  {'':{WIDTH}} {'ipivrs':16} {'states':>9}  {'SPIN':16} {'states':>9} seconds")
    begin = time.monotonic()
    differ = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for comparison in pool.map(compared, chosen):
            print(comparison.line, flush=True)
            differ += not comparison.agrees
    print(f"{len(chosen)} compared, {differ} differ ({time.monotonic() - begin:.0f} s)")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
