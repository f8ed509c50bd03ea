"""A slice of each table of comparisons with the specification, random acts, and the document that lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from conformance import report
from conformance.acts import Acts
from conformance.pair import Difference, Pair
from conformance.table import Table, Tally
from conformance.tables import TABLES

if TYPE_CHECKING:
    import spec

EVIDENCE: dict[str, set[spec.Key]] = {}


def sampled(table: Table) -> Tally:
    tally = Tally()
    for part in table.parts(False):
        tally.add(table.run(part))
    EVIDENCE[table.name] = tally.clauses
    return tally


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_emulator_and_specification_agree(table: Table) -> None:
    tally = sampled(table)
    assert not tally.differences, "\n".join(tally.differences)
    assert tally.cases > 100


def test_the_document_is_current() -> None:
    evidence = {table.name: EVIDENCE.get(table.name) or sampled(table).clauses for table in TABLES}
    assert report.current() == report.rendered(evidence), "run `make conformance` and check docs/conformance.md in"


def test_a_difference_is_found() -> None:
    pair = Pair(2)
    pair.spec.descriptors[pair.spec.cpus[1].vmcs.descriptor].sn = True
    with pytest.raises(Difference, match=r"notification='sent'.*the specification .*'suppressed'"):
        pair.wrmsr(0, 0x830, 1 << 32 | 0xFB)


def test_a_difference_in_state_is_found() -> None:
    pair = Pair(1)
    pair.spec.cpus[0].page[0x200] = 1
    with pytest.raises(Difference, match=r"vCPU 0, page.*the specification .*200H: 1H"):
        pair.compare()


TestActs = Acts.TestCase
TestActs.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
