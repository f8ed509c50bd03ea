"""What arrives from outside: device posts, physical interrupts, SENDUIPI."""

from __future__ import annotations

import itertools
from typing import Any

from conformance.pair import Difference, Pair
from conformance.table import Table, Tally, entered

ACTIVITIES = ("active", "hlt", "shutdown", "wait-for-sipi")


def parts(full: bool) -> list[tuple[Any, ...]]:
    """What arrives, and 16 vectors or bits of it."""
    firsts = range(0, 256, 16) if full else (0, 16, 240)
    return [(what, range(first, first + 16)) for what in CHECKS for first in firsts]


def check(what: str, numbers: range) -> Tally:
    """16 vectors."""
    tally = Tally()
    for number in numbers:
        try:
            CHECKS[what](tally, number)
        except Difference as difference:
            tally.differences.append(f"{what}, {number:02X}H: {difference}")
    return tally


def devices(tally: Tally, vector: int) -> None:
    """A post, urgent or not, twice, on each state of ON and SN; then it arrives and is delivered."""
    for on, sn, urgent in itertools.product((False, True), repeat=3):
        pair = Pair(1)
        pair.set_control_word(0, on=on, sn=sn)
        for _ in range(2):
            pair.device_post(0, vector, urgent=urgent)
            pair.compare()
        pair.boundary(0)
        pair.compare()
        tally.cases += 3


def physical(tally: Tally, vector: int) -> None:
    """A physical interrupt with posted-interrupt processing on and off, in each activity state; requests in PIR."""
    for posted, acknowledge, activity in itertools.product((False, True), (False, True), ACTIVITIES):
        if posted and not acknowledge:
            continue
        pair = Pair(1)
        controls = {"process_posted_interrupts": posted, "acknowledge_on_exit": acknowledge}
        pair.set_controls(0, **controls)
        pair.set_activity(0, activity)
        pair.device_post(0, vector ^ 0x55, urgent=False)
        pair.physical_interrupt(0, vector)
        for _ in range(3):
            pair.external_interrupt(0)
            pair.compare()
            tally.cases += 1
        for flag, shadow in ((False, False), (True, True), (True, False)):
            pair.set_flag(0, interrupt_flag=flag, interrupt_shadow=shadow)
            pair.boundary(0)
            pair.compare()
            tally.cases += 1


def user_interrupts(tally: Tally, number: int) -> None:
    """SENDUIPI with each bit of the UPID's control word flipped, user vectors, NV and NDST, with and without IPIv."""
    for apic, ipi in itertools.product(("x2apic", "xapic"), (False, True)):
        pair = entered(Pair(2, apic), register=True, delivery=True, ipi=ipi)
        ndst = 1 << 8 if apic == "xapic" else 1
        upid = pair.new_upid(0, 0)
        for control in (ndst << 32 | number << 16, ndst << 32 | 0xEC << 16 | 1 << number % 64):
            for user_vector in (number, 63, 64):
                pair.set_upid(upid, control, 1 << number % 7)
                pair.senduipi(0, upid, user_vector)
                pair.senduipi(0, upid, user_vector)
                pair.compare()
                tally.cases += 2


def halts(tally: Tally, number: int) -> None:
    """HLT with and without HLT exiting, then a self-IPI wakes it or does not."""
    for exiting in (False, True):
        pair = Pair(1)
        pair.set_controls(0, hlt_exiting=exiting)
        pair.hlt(0)
        pair.compare()
        pair.wrmsr(0, 0x83F, number)
        pair.boundary(0)
        pair.compare()
        tally.cases += 2


CHECKS = {"device posts": devices, "physical interrupts": physical, "SENDUIPI": user_interrupts, "HLT": halts}
TABLE = Table("arrival", "device posts, physical interrupts, SENDUIPI, HLT: vectors, bits, states", parts, check)
