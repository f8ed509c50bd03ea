"""Lines left out, replaced and moved: what is left is a policy whose other lines keep their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipivrs import _core
from ipivrs.entries import collection
from ipivrs.policies import shipped
from ipivrs.policy_text import PolicyTextError, routines, tokens_of, words
from ipivrs.variants import Mutation, VariantError, mutations, replaced, swapped, without

KVM = shipped()["kvm"]
TEXTS = {**shipped(), **{entry.name: entry.policy_text for entry in collection()}}
MUTATIONS = [(name, mutation) for name, text in TEXTS.items() for mutation in mutations(text)]

SMALL = """policy small
  source "a # that is no comment"   # one that is
  load: if pir: set_on              # a routine on its own line
        if on: clear_on; fence
  before_entry:
    if nv == wakeup:
      fence
    else: if mode == in_guest: wake
    else:
      list_add
      list_del
  on_wakeup:
    for_listed
      if on:
        wake
  publish: store_entry low; store_entry high
"""


def words_of(text: str) -> list[tuple[str, ...]]:
    """The words of each line."""
    return [words(token.text for token in tokens_of(line)) for line in text.splitlines()]


def changed(before: str, after: str) -> dict[int, str]:
    """The lines that are not the same, by number, and what stands there."""
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    return {number: new for number, (old, new) in enumerate(lines, 1) if old != new}


@given(st.sampled_from(MUTATIONS))
def test_every_mutation_is_another_policy_with_as_many_lines(of: tuple[str, Mutation]) -> None:
    name, mutation = of
    before, after = words_of(TEXTS[name]), words_of(mutation.text)
    assert after != before
    assert len(after) == len(before)
    _core.read_policy(mutation.text)
    assert mutation.routine in routines(mutation.text)
    if mutation.kind == "drop":
        assert sum(map(len, after)) < sum(map(len, before)) + len(["not", "(", ")"])
        assert len(after[mutation.line - 1]) < len(before[mutation.line - 1]) or before[mutation.line - 1] not in after
    else:
        moved = [word for line in after for word in line if word != ";"]
        assert sorted(moved) == sorted(word for line in before for word in line if word != ";")


@given(st.sampled_from([of for of in MUTATIONS if of[1].kind == "drop"]))
def test_a_mutation_is_called_what_without_calls_it(of: tuple[str, Mutation]) -> None:
    name, mutation = of
    assert without(TEXTS[name], mutation.description) == mutation.text


@pytest.mark.parametrize("name", shipped())
def test_every_line_of_every_routine_is_dropped(name: str) -> None:
    text = shipped()[name]
    dropped = {mutation.line for mutation in mutations(text) if mutation.kind == "drop"}
    headers = {number for number, line in enumerate(text.splitlines(), 1) if line.split("#")[0].strip().endswith(":")}
    statements = {s.line for block in routines(text).values() for outer in block for s in outer.with_blocks()}
    # A line that is alone in its `else` goes with it.
    alone = {number for number in statements - dropped if number - 1 in headers & dropped}
    assert statements - dropped == alone


def test_a_line_is_found_whatever_its_spacing_and_comments() -> None:
    for spec in ("load:if   pir :set_on", " load : if pir: set_on  ", "load: if pir: set_on (line 14)"):
        assert changed(KVM, without(KVM, spec)) == {14: ""}
    assert changed(KVM, without(KVM, "before_entry: fence")) == {31: ""}


def test_new_and_old_may_be_left_out() -> None:
    assert changed(KVM, without(KVM, "put_blocking: if on: self_ipi wakeup")) == {20: ""}
    assert changed(KVM, without(KVM, "software_post: if pir: done")) == {42: ""}


def test_a_line_goes_with_its_block_and_its_else() -> None:
    assert set(changed(KVM, without(KVM, "load: if nv != wakeup and same_pcpu"))) == set(range(7, 13))
    assert set(changed(KVM, without(KVM, "load: else"))) == set(range(10, 13))


def test_one_act_of_a_line() -> None:
    assert changed(KVM, without(KVM, "before_entry: clear_on")) == {32: "    if on: fence; harvest"}
    assert changed(KVM, without(KVM, "before_entry: harvest")) == {32: "    if on: clear_on; fence"}
    assert changed(KVM, without(KVM, "refresh_apicv: intercept_icr")) == {54: "    ipiv_off"}
    assert changed(KVM, without(KVM, "load: list_del")) == {11: ""}, "the only act of a line is the line"


def test_the_only_line_of_a_block_takes_what_opens_it_along() -> None:
    assert set(changed(KVM, without(KVM, "software_post: wake"))) == {47, 48}
    assert changed(KVM, without(KVM, "software_post: if not self: ipi notify")) == {
        45: "    if not (mode == in_guest):",
        46: "",
        47: "",
    }
    assert changed(SMALL, without(SMALL, "on_wakeup: wake")) == {13: "", 14: "", 15: ""}


def test_a_routine_keeps_its_name() -> None:
    assert changed(SMALL, without(SMALL, "load: if pir: set_on")) == {3: "  load:"}
    assert "load" in routines(without(SMALL, "load: if pir: set_on"))
    assert changed(SMALL, without(SMALL, "publish: store_entry high")) == {16: "  publish: store_entry low"}


def test_an_else_of_an_else() -> None:
    assert changed(SMALL, without(SMALL, "before_entry: fence")) == {
        6: "    if not (nv == wakeup):",
        7: "",
        8: "          if mode == in_guest: wake",
    }
    assert set(changed(SMALL, without(SMALL, "before_entry: else"))) == {9, 10, 11}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("lod: fence", ["no routine lod", "did you mean load?"]),
        ("vcpu: fence", ["no routine vcpu", "put_blocking"]),
        ("load: fense", ["no such line", "did you mean fence?", "clear_sn | if not old sn: done"]),
        ("load", ["ROUTINE: LINE"]),
        ("load:", ["ROUTINE: LINE"]),
        ("load: fence (line 3)", ["no such line"]),
        ("load: if pir > 0: set_on", ["'>' begins nothing"]),
    ],
)
def test_a_line_that_is_not_there(spec: str, expected: list[str]) -> None:
    with pytest.raises(VariantError) as refused:
        without(KVM, spec)
    assert all(part in str(refused.value) for part in expected), refused.value


def test_a_line_that_is_there_twice() -> None:
    twice = "policy twice\n  load:\n    fence\n    set_on\n    fence\n"
    with pytest.raises(VariantError, match=r"2 times.*'load: fence \(line 3\)' or 'load: fence \(line 5\)'"):
        without(twice, "load: fence")
    assert changed(twice, without(twice, "load: fence (line 5)")) == {5: ""}


def test_a_line_with_other_words() -> None:
    text = replaced(KVM, "publish: store_entry", "store_entry low; store_entry high")
    assert changed(KVM, text) == {51: "    store_entry low; store_entry high"}


def test_lines_that_change_places() -> None:
    text = swapped(KVM, "load: if nv != wakeup and same_pcpu", "load: if pir: set_on")
    order = [" ".join(words(t.text for t in s.tokens)) for s in routines(text)["load"]]
    assert order == ["if pir : set_on", "fence", "if nv != wakeup and same_pcpu"]
    first = SMALL.splitlines()[2:4]
    text = swapped(SMALL, "load: if pir: set_on", "load: if on: clear_on; fence")
    assert text.splitlines()[2:4] == ["  load: if on: clear_on; fence", "        " + first[0].removeprefix("  load: ")]
    with pytest.raises(VariantError, match="not two lines of one block"):
        swapped(KVM, "load: clear_sn", "load: fence")


@pytest.mark.parametrize("text", ["", "load: fence", "policy x\n  load:\n    §\n"])
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(PolicyTextError, match=r"^\d+:\d+: "):
        list(mutations(text))
