"""Numbers, lists and names as the shell gives them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipivrs.options import BadInputError, choice, did_you_mean, number, numbers


@given(st.integers(0, 2**64 - 1))
def test_numbers_in_either_base(value: int) -> None:
    for text in (str(value), hex(value), f"0X{value:X}"):
        assert number("N", text, 0, 2**64 - 1) == value


@given(st.text().filter(lambda text: not text.strip().isdigit()), st.integers(0, 2**32))
def test_any_other_text_is_bad_input(text: str, high: int) -> None:
    with pytest.raises(BadInputError, match=r"^N must be "):
        number("N", f"{text}?", 0, high)


@pytest.mark.parametrize("text", ["", "0x", "1.5", "FB", "-1", "0b1", "256", "0x100"])
def test_what_is_no_number_in_range(text: str) -> None:
    with pytest.raises(BadInputError, match=r"--vector must be .*0 to 255 \(0x0 to 0xff\)"):
        number("--vector", text, 0, 255)


@pytest.mark.parametrize("text", ["9", "many"])
@pytest.mark.parametrize("high", [4, 7])
def test_a_count_is_not_said_in_hexadecimal(text: str, high: int) -> None:
    with pytest.raises(BadInputError, match=rf"^--vcpus must be (a number, )?1 to {high}[,;] not ") as caught:
        number("--vcpus", text, 1, high)
    assert "0x" not in str(caught.value)


def test_a_list_of_numbers() -> None:
    assert numbers("--apic-ids", "0, 0x2,4", 0, 255) == [0, 2, 4]
    with pytest.raises(BadInputError, match="each of --apic-ids must be"):
        numbers("--apic-ids", "0,256", 0, 255)


def test_a_name_in_any_case() -> None:
    assert choice("--mode", "NMI", ("fixed", "nmi")) == "nmi"
    with pytest.raises(BadInputError, match=r"one of fixed, nmi; not 'nni'; did you mean nmi\?"):
        choice("--mode", "nni", ("fixed", "nmi"))


def test_nothing_near_is_not_guessed() -> None:
    assert did_you_mean("zzz", ["fixed", "nmi"]) == ""
