"""What stands against IPI virtualization in the fields of an ICR, and what to change."""

import itertools
from typing import get_args

import pytest

from ipivrs.advice import advice
from ipivrs.names import DeliveryMode, DestinationMode, Shorthand


@pytest.mark.parametrize("apic", ["x2APIC", "xAPIC"])
def test_a_plain_unicast_needs_no_advice(apic: str) -> None:
    assert advice(apic, "fixed", "physical", "none") is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("x2APIC", "fixed", "logical", "none"), "x2apic_phys"),
        (("xAPIC", "fixed", "logical", "none"), "nox2apic"),
        (("xAPIC", "fixed", "logical", "all-but-self"), "no_ipi_broadcast=1"),
        (("x2APIC", "fixed", "physical", "all"), "no_ipi_broadcast=1"),
        (("x2APIC", "fixed", "physical", "self"), "MSR 83FH"),
        (("x2APIC", "nmi", "physical", "all-but-self"), "NMI"),
        (("xAPIC", "init", "physical", "none"), "nothing to change"),
        (("xAPIC", "sipi", "physical", "none"), "nothing to change"),
        (("xAPIC", "lowest-priority", "logical", "none"), "fixed"),
    ],
)
def test_what_to_change(fields: tuple[str, str, str, str], words: str) -> None:
    found = advice(*fields)
    assert found is not None
    assert words in str(found)


def test_every_mode_that_a_guest_may_use_has_advice_or_is_plain() -> None:
    modes = [mode for mode in get_args(DeliveryMode) if not mode.startswith("reserved")]
    for mode, destination, shorthand in itertools.product(modes, get_args(DestinationMode), get_args(Shorthand)):
        found = advice("x2APIC", mode, destination, shorthand)
        assert (found is None) == ((mode, destination, shorthand) == ("fixed", "physical", "none"))
