"""Numbers and their words."""

import pytest

from ipivrs.wording import difference, noun, predicate, rounded, times


def test_one_is_not_many() -> None:
    assert [noun(count, "violation") for count in (0, 1, 2)] == ["violations", "violation", "violations"]
    assert [noun(count, "entry", "entries") for count in (1, 2)] == ["entry", "entries"]
    assert [times(count) for count in (0, 1, 2)] == ["0 times", "once", "2 times"]


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("are NMIs", "is an NMI"),
        ("use logical destination mode (bit 11)", "uses logical destination mode (bit 11)"),
        ("go to the broadcast ID", "goes to the broadcast ID"),
        ("were sent while APICv was inhibited", "was sent while APICv was inhibited"),
    ],
)
def test_what_is_said_of_many_is_said_of_one(many: str, one: str) -> None:
    assert (predicate(1, many), predicate(2, many)) == (one, many)


def test_zero_has_no_sign() -> None:
    assert [difference(value, 2) for value in (-0.004, 0.0, 0.004, -0.3, 1234.5)] == [
        "0.00",
        "0.00",
        "0.00",
        "-0.30",
        "+1,234.50",
    ]
    assert [difference(value, 0) for value in (-0.4, 0.4, -10.2)] == ["0", "0", "-10"]
    assert [rounded(value, 1) for value in (-0.04, 2.0, -2.0)] == ["0.0", "2.0", "-2.0"]
