"""A VM driven by hand: each step, and what goes wrong with a message."""

import re
from collections.abc import Callable

import pytest

import ipivrs

ICR = 0x830
SELF_IPI = 0x83F
APIC_BASE = 0x1B


def test_an_ipi_from_hand_to_hand() -> None:
    vm = ipivrs.Vm(vcpus=2, apic="x2apic")
    sent = vm.vcpu(0).wrmsr(ICR, 1 << 32 | 0xFB)
    assert (sent.outcome, sent.virtualized, sent.vector, sent.destination) == ("posted", True, 0xFB, 1)
    assert (sent.notification, sent.coalesced, sent.exit, sent.reason) == ("sent", False, None, None)
    assert "30.1.6" in sent.citation
    target = vm.vcpu(1)
    before = target.descriptor
    assert (before.pir, before.on, before.sn, before.nv, before.ndst) == ([0xFB], True, False, 0xF2, 1)
    assert target.notification_pending
    assert target.deliver() == 0xFB
    assert (target.isr, target.irr, target.svi, target.ppr) == ([0xFB], [], 0xFB, 0xF0)
    assert target.descriptor.as_dict() | {"address": 0} == {
        "address": 0, "pir": [], "on": False, "sn": False, "nv": 0xF2, "ndst": 1,
    }  # fmt: skip
    assert target.eoi().virtualized
    assert (target.isr, target.svi, target.deliver()) == ([], 0, None)


def test_one_step_at_a_time() -> None:
    vm = ipivrs.Vm(vcpus=2)
    target = vm.vcpu(1)
    assert target.process_notification() is None
    vm.vcpu(0).wrmsr(ICR, 1 << 32 | 0x41)
    vm.vcpu(0).wrmsr(ICR, 1 << 32 | 0x52)
    assert target.process_notification() == 2
    assert (target.irr, target.rvi, target.recognized) == ([0x41, 0x52], 0x52, True)
    target.interrupt_flag = False
    assert target.deliver() is None
    target.interrupt_flag = True
    target.interrupt_shadow = True
    assert target.deliver() is None
    target.interrupt_shadow = False
    assert [target.deliver(), target.deliver()] == [0x52, None]


def test_suppressed_and_outstanding_notifications() -> None:
    vm = ipivrs.Vm(vcpus=2)
    sender, target = vm.vcpu(0), vm.vcpu(1)
    target.update_descriptor(sn=True)
    assert sender.wrmsr(ICR, 1 << 32 | 0xFB).notification == "suppressed"
    target.update_descriptor(sn=False, on=True)
    again = sender.wrmsr(ICR, 1 << 32 | 0xFB)
    assert (again.notification, again.coalesced) == ("outstanding", True)
    target.update_descriptor(on=False, nv=0xF1, ndst=0)
    assert sender.wrmsr(ICR, 1 << 32 | 0xFC).notification == "sent"
    assert sender.notification_pending
    assert not target.notification_pending


def test_xapic_writes_two_registers() -> None:
    vm = ipivrs.Vm(vcpus=2, apic="xapic")
    sender = vm.vcpu(0)
    assert sender.mmio_write(0x310, 1 << 24).outcome == "virtualized"
    assert sender.mmio_write(0x300, 0xFB).outcome == "posted"
    assert sender.mmio_read(0x300).value == 0xFB
    exit_ = sender.mmio_write(0x300, 0xC00FB)
    assert (exit_.outcome, exit_.reason, exit_.qualification) == ("apic-write-exit", 56, 0x300)
    assert sender.exit_reason == 56
    assert sender.mmio_write(0x300, 0x400F1).outcome == "self-ipi"
    assert sender.mmio_read(0x80, width=8).as_dict()["exit"] == {
        "reason": 44,
        "qualification": 0x80,
        "name": "APIC access",
    }


def test_modes_follow_ia32_apic_base() -> None:
    vcpu = ipivrs.Vm(vcpus=2, apic="xapic").vcpu(0)
    assert (vcpu.mode, vcpu.rdmsr(APIC_BASE).value) == ("xAPIC", 0xFEE00900)
    assert vcpu.wrmsr(ICR, 0).outcome == "msr-exit"
    assert vcpu.wrmsr(APIC_BASE, 0xFEE00D00).reason == 32
    assert (vcpu.mode, vcpu.rdmsr(0x802).value) == ("x2APIC", 0)
    assert vcpu.wrmsr(APIC_BASE, 0xFEE00900).outcome == "fault"
    assert vcpu.mode == "x2APIC"


def test_controls_take_effect_at_entry() -> None:
    vcpu = ipivrs.Vm(vcpus=2).vcpu(0)
    tertiary, descriptor = 0x2034, 0x2016
    vcpu.vmwrite(tertiary, 0)
    assert vcpu.wrmsr(ICR, 1 << 32 | 0xFB).outcome == "posted"
    vcpu.enter()
    escape = vcpu.wrmsr(ICR, 1 << 32 | 0xFB)
    assert (escape.outcome, escape.virtualized) == ("not-virtualized", False)
    vcpu.vmwrite(descriptor, 1)
    with pytest.raises(ValueError, match="64-byte aligned"):
        vcpu.enter()


def test_table_entries() -> None:
    vm = ipivrs.Vm(vcpus=2, last_index=7)
    assert vm.last_index == 7
    assert vm.table_entry(1) == vm.vcpu(1).descriptor.address | 1
    assert vm.vcpu(0).wrmsr(ICR, 5 << 32 | 0xFB).outcome == "apic-write-exit"
    vm.set_table_entry(5, vm.table_entry(1))
    assert vm.vcpu(0).wrmsr(ICR, 5 << 32 | 0xFB).outcome == "posted"
    vm.set_table_entry(5, 0x1001)
    wild = vm.vcpu(0).wrmsr(ICR, 5 << 32 | 0xFB)
    assert wild.outcome == "violation"
    assert "was posted to 1000H" in wild.citation
    with pytest.raises(IndexError, match="no entry 8"):
        vm.table_entry(8)


def test_senduipi_posts_the_notification() -> None:
    vm = ipivrs.Vm(vcpus=2)
    upid = vm.new_upid(0xEC, 1)
    sent = vm.vcpu(0).senduipi(upid, 3)
    assert (sent.outcome, sent.vector, sent.destination) == ("posted", 0xEC, 1)
    assert vm.vcpu(1).deliver() == 0xEC
    assert vm.vcpu(0).senduipi(upid, 64).outcome == "fault"


def test_hlt_and_registers() -> None:
    vcpu = ipivrs.Vm(vcpus=1).vcpu(0)
    assert vcpu.hlt() is None
    assert vcpu.activity == "hlt"
    vcpu.wrmsr(SELF_IPI, 0x41)
    assert (vcpu.deliver(), vcpu.activity) == (0x41, "active")
    vcpu.set_register(0x80, 0x20)
    assert (vcpu.register(0x80), vcpu.tpr) == (0x20, 0x20)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ipivrs.Vm(0), ValueError, "1 to 65536"),
        (lambda: ipivrs.Vm(65_537), ValueError, "vcpus must be 1 to 65536, not"),
        (lambda: ipivrs.Vm(2, apic="x3apic"), ValueError, '"x2apic", "xapic"'),
        (lambda: ipivrs.Vm(2, apic_ids=[1]), ValueError, "1 IDs for 2 vCPUs"),
        (lambda: ipivrs.Vm(2, apic_ids=[1, 1]), ValueError, "both have APIC ID 1"),
        (lambda: ipivrs.Vm(2, apic_ids=[0, 70_000]), ValueError, "beyond the PID-pointer table"),
        (lambda: ipivrs.Vm(2, apic="xapic", apic_ids=[0, 300]), ValueError, "8-bit IDs"),
        (lambda: ipivrs.Vm(2, last_index=65_536), ValueError, "0 to 65535"),
        (lambda: ipivrs.Vm(2).vcpu(2), IndexError, "vCPUs 0 to 1"),
        (lambda: ipivrs.Vm(2).vcpu(-1), IndexError, "vCPUs 0 to 1"),
        (lambda: ipivrs.Vm(2).vcpu(0).wrmsr(-1, 0), ValueError, "0 to 0xffffffff"),
        (lambda: ipivrs.Vm(2).vcpu(0).wrmsr(ICR, 1 << 64), ValueError, "64-bit"),
        (lambda: ipivrs.Vm(2).vcpu(0).mmio_read(0x1000), ValueError, "0 to 4095"),
        (lambda: ipivrs.Vm(2).vcpu(0).mmio_read(0x80, 3), ValueError, "1, 2, 4 or 8"),
        (lambda: ipivrs.Vm(2).vcpu(0).register(0x81), ValueError, "multiples of 0x10"),
        (lambda: ipivrs.Vm(2).vcpu(0).vmread(0x1234), ValueError, "not modelled"),
        (lambda: ipivrs.Vm(2).vcpu(0).vmwrite(0x4402, 1), ValueError, "read-only"),
        (lambda: ipivrs.Vm(2).vcpu(0).vmwrite(0x0002, 1 << 16), ValueError, "16 bits"),
    ],
)
def test_bad_values_say_what_to_change(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_vm_of_every_vcpu_that_a_table_can_hold() -> None:
    vm = ipivrs.Vm(65_536)
    assert len(vm) == 65_536
    assert vm.vcpu(0).wrmsr(ICR, 65_535 << 32 | 0xFB).outcome == "posted"
    assert vm.vcpu(65_535).deliver() == 0xFB
