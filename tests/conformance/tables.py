"""All tables."""

from __future__ import annotations

from conformance import (
    apic_base_table,
    arrival_table,
    entry_table,
    icr_table,
    mmio_table,
    msr_table,
    pid_table_table,
    priority_table,
)

TABLES = [
    icr_table.TABLE,
    mmio_table.TABLE,
    msr_table.TABLE,
    pid_table_table.TABLE,
    priority_table.TABLE,
    arrival_table.TABLE,
    entry_table.TABLE,
    apic_base_table.TABLE,
]
