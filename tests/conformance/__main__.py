"""Every case of every table, the random acts, and docs/conformance.md made anew: `make conformance`."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from conformance import report
from conformance.acts import Acts
from conformance.table import Table, Tally
from conformance.tables import TABLES

ACTS = settings(
    max_examples=4000,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def compare(table: Table, pool: ProcessPoolExecutor) -> Tally:
    """All cases of a table, on all processors."""
    tally = Tally()
    for part in pool.map(table.run, table.parts(True)):
        tally.add(part)
    return tally


def main() -> int:
    """Prints a line for each table; 0 if there is no difference and every clause is covered."""
    print(f"{'table':<10} {'cases':>10} {'differences':>11} {'seconds':>8}")
    differences = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for table in TABLES:
            begin = time.monotonic()
            tally = compare(table, pool)
            differences += len(tally.differences)
            row(table.name, tally.cases, len(tally.differences), begin)
            for difference in tally.differences:
                print(f"  {difference}", file=sys.stderr)
        evidence = {table.name: set[tuple[str, str]]() for table in TABLES}
        for table in TABLES:
            for part in pool.map(table.run, table.parts(False)):
                evidence[table.name] |= part.clauses
    begin = time.monotonic()
    try:
        run_state_machine_as_test(Acts, settings=ACTS)
    except AssertionError as difference:
        print(f"  {difference}", file=sys.stderr)
        differences += 1
    row("acts", ACTS.max_examples * ACTS.stateful_step_count, 0, begin)
    try:
        report.write(report.rendered(evidence))
    except report.NotCovered as gap:
        print(f"not covered: {gap}", file=sys.stderr)
        return 1
    return 1 if differences else 0


def row(name: str, cases: int, differences: int, begin: float) -> None:
    """One line."""
    print(f"{name:<10} {cases:>10} {differences:>11} {time.monotonic() - begin:>8.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
