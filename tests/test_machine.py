"""What `ipivrs info` says about machines of several sorts."""

from pathlib import Path

from ipivrs.machine import describe, machine

CPUINFO = """\
processor\t: 0
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
    return tmp_path


def test_a_machine_that_has_and_uses_it(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more="ipi_virt"), enable_ipiv="Y", enable_apicv="Y"))
    assert found["ipi_virtualization"] is True
    assert found["vmx_flags"] == ["ipi_virt", "apicv", "posted_intr", "vid", "vapic_reg"]
    assert found["kvm_intel"] == {"enable_ipiv": "Y", "enable_apicv": "Y"}
    processor, kvm = describe(found)
    assert processor.startswith("Intel(R) Xeon(R) Platinum has IPI virtualization")
    assert kvm.endswith("KVM uses IPI virtualization")


def test_a_machine_that_has_it_switched_off(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more="ipi_virt"), enable_ipiv="N", enable_apicv="Y"))
    assert describe(found)[1].endswith("KVM does not use IPI virtualization")


def test_an_older_processor_with_an_older_kernel(tmp_path: Path) -> None:
    found = machine(root(tmp_path, CPUINFO.format(more=""), enable_apicv="Y"))
    assert found["ipi_virtualization"] is False
    processor, kvm = describe(found)
    assert "has no IPI virtualization" in processor
    assert "has no enable_ipiv" in kvm


def test_a_machine_without_vmx(tmp_path: Path) -> None:
    found = machine(root(tmp_path, "model name\t: Some EPYC\nflags\t: svm\n"))
    assert (found["vmx_flags"], found["ipi_virtualization"], found["kvm_intel"]) == (None, None, None)
    assert "no vmx flags" in describe(found)[0]
    assert describe(found)[1] == "kvm_intel is not loaded"


def test_a_machine_that_is_not_linux(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert found["processor"] is None
    assert describe(found)[0].startswith("this processor: ")
