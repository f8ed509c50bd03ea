"""What `ipivrs info` says about machines of several sorts."""

from pathlib import Path

from ipivrs.machine import describe, machine

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum
vmx flags\t: vnmi posted_intr flexpriority apicv vapic_reg vid {more}

processor\t: 1
model name\t: another
vmx flags\t: none of this counts
"""


def root(tmp_path: Path, cpuinfo: str | None = None, **parameters: str) -> Path:
    if cpuinfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")
    if parameters:
        directory = tmp_path / "sys/module/kvm_intel/parameters"
        directory.mkdir(parents=True)
        for name, value in parameters.items():
            (directory / name).write_text(f"{value}\n", encoding="utf-8")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    return tmp_path


def test_a_machine_that_has_and_uses_it(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more="ipi_virt"), enable_ipiv="Y", enable_apicv="Y"))
    assert found["ipi_virtualization"] is True
    assert found["vmx_flags"] == ["ipi_virt", "apicv", "posted_intr", "vid", "vapic_reg"]
    assert found["kvm_intel"] == {"enable_ipiv": "Y", "enable_apicv": "Y"}
    processor, kvm, _ = describe(found)
    assert processor.startswith("Intel(R) Xeon(R) Platinum has IPI virtualization")
    assert kvm.endswith("KVM uses IPI virtualization")
    assert found["missing"] == []


def test_a_machine_that_has_it_switched_off(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more="ipi_virt"), enable_ipiv="N", enable_apicv="Y"))
    assert describe(found)[1].endswith("KVM does not use IPI virtualization")
    assert found["missing"] == ["the parameter: load kvm_intel with enable_ipiv=1"]


def test_an_older_processor_with_an_older_kernel(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more=""), enable_apicv="Y"), kernel="6.1.0")
    assert found["ipi_virtualization"] is False
    processor, kvm, _ = describe(found)
    assert "has no IPI virtualization" in processor
    assert "has no enable_ipiv" in kvm
    assert found["missing"] == ["a processor with IPI virtualization: Sapphire Rapids or later has it"]


def test_a_machine_without_vmx(tmp_path: Path) -> None:
    found = machine(root(tmp_path, "model name\t: Some EPYC\nflags\t: svm\n"))
    assert (found["vmx_flags"], found["ipi_virtualization"], found["kvm_intel"]) == (None, None, None)
    assert "no vmx flags" in describe(found)[0]
    assert describe(found)[1] == "kvm_intel is not loaded"


def test_a_machine_that_is_not_linux(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert found["processor"] is None
    assert describe(found)[0].startswith("this processor: ")
    assert found["missing"] == [
        "/proc/cpuinfo says nothing: run this on the host itself, on Linux",
        "kvm_intel: modprobe kvm_intel",
        "/dev/kvm: there is none",
    ]


def test_an_amd_machine(tmp_path: Path) -> None:
    files = root(tmp_path, "vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t: svm avic hypervisor\n")
    (files / "sys/module/kvm_amd").mkdir(parents=True)
    found = machine(files, kernel="6.12.1")
    assert (found["avic"], found["hypervisor"], found["kvm_amd"]) == (True, True, True)
    assert found["missing"] == ["an Intel processor: IPI virtualization is Intel's, and this one is AuthenticAMD"]
    assert "AVIC has rules of its own" in describe(found)[0]
    assert describe(found)[1:] == [
        "kvm_intel is not loaded, kvm_amd is",
        "Linux 6.12.1, in a virtual machine; /dev/kvm is usable",
    ]


def test_a_virtual_machine_without_vmx(tmp_path: Path) -> None:
    found = machine(root(tmp_path, "vendor_id\t: GenuineIntel\nflags\t: hypervisor\n"))
    assert found["missing"][0] == "VMX: offer VMX to this virtual machine"


def test_apicv_switched_off_under_an_old_kernel(tmp_path: Path) -> None:
    files = root(tmp_path, CPUINFO.format(more="ipi_virt"), enable_apicv="N")
    (files / "proc/sys/kernel").mkdir(parents=True)
    (files / "proc/sys/kernel/osrelease").write_text("5.15.0-91-generic\n", encoding="utf-8")
    assert machine(files)["missing"] == [
        "Linux 5.19 or later, which has enable_ipiv",
        "APICv: load kvm_intel with enable_apicv=1",
    ]


def test_a_container(tmp_path: Path) -> None:
    files = root(tmp_path, CPUINFO.format(more="ipi_virt"))
    (files / ".dockerenv").touch()
    (files / "dev/kvm").unlink()
    found = machine(files)
    assert found["missing"] == ["kvm_intel: modprobe kvm_intel", "/dev/kvm: there is none"]
    assert "what the host has may be hidden" in describe(found)[-1]
