"""Advice for a recording: what kept IPIs from being virtualized, and what a change wins."""

from pathlib import Path

import pytest

import ipivrs
from ipivrs.remedies import remedies
from ipivrs.remedy import Remedy
from shipped import KUT_APIC, RECORDINGS, XAPIC_BOOT, replay

PLAIN = "kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)"


class Recorded:
    """Lines of `perf script` of a VM with four vCPUs (threads 10 to 13 of process 9), in the guest's x2APIC mode."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "perf.txt"

    def __call__(
        self, *events: str, apic: ipivrs.names.Apic = "x2apic", vcpus: int = 4, **options: int
    ) -> list[Remedy]:
        lines = [f"q 9/{10 + n} [0] 0.{n:06}: kvm:kvm_entry: vcpu {n}, rip 0x1\n" for n in range(vcpus)]
        lines += [f"q 9/10 [0] {1 + n}.000000: kvm:{event}\n" for n, event in enumerate(events)]
        self._file.write_text("".join(lines), encoding="utf-8")
        return remedies(ipivrs.run(self._file, apic=apic, **options))  # type: ignore[call-overload]


@pytest.fixture
def advised(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def ipi(destination: str, vector: int = 251, fields: str = "Fixed|physical|de-assert|edge|dst") -> str:
    return f"kvm_apic_ipi: dst {destination} vec {vector} ({fields})"


def numbers(found: Remedy) -> tuple[int, int | None, int | None]:
    return found["count"], found["gain"], found["sent_instead"]


LOGICAL = "Fixed|logical|de-assert|edge|dst"


def test_what_needs_no_exit_needs_no_advice(advised: Recorded) -> None:
    assert advised(PLAIN, ipi("3")) == []


def test_a_logical_destination_with_one_target_would_be_virtualized(advised: Recorded) -> None:
    (found,) = advised(ipi("4", fields=LOGICAL), PLAIN)
    assert "x2apic_phys" in found["change"]
    assert numbers(found) == (1, 1, 1)
    assert (found["share"], found["gain_share"]) == (0.5, 0.5)
    assert "30.5" in found["citation"]


def test_a_logical_destination_with_several_targets_becomes_several_ipis(advised: Recorded) -> None:
    (found,) = advised(ipi("e", fields=LOGICAL))
    assert numbers(found) == (1, 1, 3)


def test_a_logical_destination_in_a_cluster_without_vcpus_wins_nothing(advised: Recorded) -> None:
    (found,) = advised(ipi("10002", fields=LOGICAL))
    assert numbers(found) == (1, 0, 0)


def test_a_cluster_has_sixteen(advised: Recorded) -> None:
    (found,) = advised(ipi("10006", fields=LOGICAL), vcpus=20)
    assert numbers(found) == (1, 1, 2)


def test_xapic_logical_destinations_are_read_as_flat_and_that_is_said(advised: Recorded) -> None:
    (found,) = advised(ipi("6", fields=LOGICAL), apic="xapic")
    assert numbers(found) == (1, 1, 2)
    assert "flat model" in found["caveat"]


def test_a_change_that_is_not_enough_wins_nothing(advised: Recorded) -> None:
    (found,) = advised(ipi("4", fields="Fixed|logical|de-assert|level|dst"))
    assert numbers(found) == (1, 0, 0)


def test_a_low_vector_exits_in_physical_mode_too(advised: Recorded) -> None:
    (found,) = advised(ipi("4", 9, fields=LOGICAL))
    assert numbers(found) == (1, 0, 0)


@pytest.mark.parametrize(("shorthand", "instead"), [("all", 4), ("all-but-self", 3)])
def test_broadcasts_become_an_ipi_to_each(advised: Recorded, shorthand: str, instead: int) -> None:
    (found,) = advised(ipi("0", fields=f"Fixed|physical|de-assert|edge|{shorthand}"))
    assert "no_ipi_broadcast" in found["change"]
    assert numbers(found) == (1, 1, instead)


def test_the_broadcast_id_is_a_broadcast(advised: Recorded) -> None:
    (found,) = advised(ipi("ffffffff"))
    assert "broadcast ID" in found["what"]
    assert numbers(found) == (1, 1, 4)


def test_self_through_the_icr_becomes_the_self_ipi_register(advised: Recorded) -> None:
    (found,) = advised(ipi("b0", fields="Fixed|physical|de-assert|edge|self"))
    assert "83FH" in found["change"]
    assert numbers(found) == (1, 1, 1)


@pytest.mark.parametrize("mode", ["NMI", "INIT", "SIPI", "SMI"])
def test_what_always_exits_wins_nothing(advised: Recorded, mode: str) -> None:
    (found,) = advised(ipi("1", 9, fields=f"{mode}|physical|assert|edge|dst"))
    assert numbers(found) == (1, 0, 0)


def test_an_id_beyond_the_table(advised: Recorded) -> None:
    (found,) = advised(ipi("3"), PLAIN, last_index=2)
    assert "KVM_CAP_MAX_VCPU_ID" in found["change"]
    assert numbers(found) == (1, 1, 1)


def test_an_id_that_nobody_has(advised: Recorded) -> None:
    (found,) = advised(ipi("7"))
    assert "no vCPU" in found["what"]
    assert numbers(found) == (1, 0, 0)


def test_level_triggered(advised: Recorded) -> None:
    (found,) = advised(ipi("1", fields="Fixed|physical|de-assert|level|dst"))
    assert "bit 15" in found["what"]
    assert numbers(found) == (1, 1, 1)


def test_switched_off(advised: Recorded) -> None:
    (found,) = advised(PLAIN, ipi("6", fields=LOGICAL), ipi_virtualization=False)
    assert "enable_ipiv=1" in found["change"]
    assert numbers(found) == (2, 1, 1), "the logical one would exit all the same"


def test_paravirtual_ipis(advised: Recorded) -> None:
    call = "kvm_hypercall: nr 0xa a0 0xe a1 0x0 a2 0x0 a3 0x{icr:x}"
    (found,) = advised(
        PLAIN, call.format(icr=0xFB), call.format(icr=0x400), "kvm_hypercall: nr 0x5 a0 0x1 a1 0x0 a2 0x0 a3 0x0"
    )
    assert found["of"] == "hypercalls"
    assert "kvm-pv-ipi=off" in found["change"]
    assert numbers(found) == (2, 1, 3), "an NMI exits by the ICR too"
    assert found["share"] == pytest.approx(2 / 3)


def change(verb: str, reason: int, inhibits: int) -> str:
    return f"kvm_apicv_inhibit_changed: {verb} reason={reason}, inhibits={inhibits:#x}"


def test_inhibits_count_the_ipis_that_were_sent_meanwhile(advised: Recorded) -> None:
    (found,) = advised(PLAIN, change("set", 1, 2), PLAIN, PLAIN, change("cleared", 1, 0), PLAIN)
    assert "HYPERV" in found["what"]
    assert "hv-apicv" in found["change"]
    assert numbers(found) == (2, 2, 2)


def test_what_stood_before_the_first_change_is_known(advised: Recorded) -> None:
    (found,) = advised(PLAIN, change("cleared", 1, 0), PLAIN)
    assert numbers(found) == (1, 1, 1)


def test_two_reasons_must_both_go(advised: Recorded) -> None:
    hyperv, modified = advised(change("set", 1, 2), PLAIN, change("set", 5, 0x22), PLAIN)
    assert "HYPERV" in hyperv["what"]
    assert numbers(hyperv) == (2, 1, 1)
    assert "1 of them have other reasons too" in hyperv["caveat"]
    assert "APIC_ID_MODIFIED" in modified["what"]
    assert numbers(modified) == (1, 0, 0)
    assert "Linux 6.2" in modified["caveat"]


def test_inhibits_of_another_process_are_its_own(advised: Recorded, tmp_path: Path) -> None:
    advised(PLAIN)
    file = tmp_path / "perf.txt"
    other = "q 77/78 [0] 0.500000: kvm:kvm_apicv_inhibit_changed: set reason=1, inhibits=0x2\n"
    file.write_text(other + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert remedies(ipivrs.run(file)) == []


def test_a_rewritten_xapic_id(advised: Recorded) -> None:
    write = "kvm_mmio: mmio write len 4 gpa 0xfee00020 val 0x{id:x}000000"
    (found,) = advised(write.format(id=7), PLAIN, apic="xapic")
    assert "APIC_ID_MODIFIED" in found["citation"]
    assert numbers(found) == (1, 1, 1)
    assert advised(write.format(id=0), PLAIN, apic="xapic") == [], "the ID that it had"


def test_real_recordings() -> None:
    logical, start_up = replay(XAPIC_BOOT).advice
    assert numbers(logical) == (121, 121, 121)
    assert numbers(start_up) == (6, 0, 0)
    assert [numbers(found) for found in replay(KUT_APIC).advice] == [(4, 0, 0), (1, 1, 1), (1, 1, 2), (1, 1, 2)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_each_ipi_that_is_not_virtualized_is_counted_once(path: Path) -> None:
    result = replay(path)
    counts = result.counters
    inside = [found for found in result.advice if found["of"] == "IPIs"]
    assert sum(found["count"] for found in inside) == counts["total"] - counts["virtualized"] - counts["self"]
