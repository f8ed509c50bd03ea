"""The public face: all of it documented, all of it typed, its examples true."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import ipivrs
from ipivrs import cli, names

ROOT = Path(__file__).parent.parent


def public() -> Iterator[tuple[str, object]]:
    """Every public function and class, and every public member of the classes."""
    for name in ipivrs.__all__:
        value = getattr(ipivrs, name)
        if isinstance(value, (str, np.dtype)):
            continue
        yield name, value
        if inspect.isclass(value) and not issubclass(value, Exception):
            for member in vars(value):
                if not member.startswith("_"):
                    yield f"{name}.{member}", inspect.getattr_static(value, member)


@pytest.mark.parametrize(("name", "value"), list(public()), ids=[name for name, _ in public()])
def test_everything_public_has_a_docstring(name: str, value: object) -> None:
    assert inspect.getdoc(value), f"{name} has no docstring"


def test_all_is_sorted_and_there() -> None:
    assert sorted(ipivrs.__all__) == sorted(set(ipivrs.__all__))
    assert all(hasattr(ipivrs, name) for name in ipivrs.__all__)


def test_what_differs_by_the_case_of_a_letter_is_told_apart() -> None:
    assert "`ipivrs.VM`" in (inspect.getdoc(ipivrs.Vm) or "")
    assert "`ipivrs.Vm`" in (inspect.getdoc(ipivrs.VM) or "")


def test_the_package_is_typed() -> None:
    package = Path(inspect.getfile(ipivrs)).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def test_version_is_that_of_the_crate() -> None:
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)
    assert match is not None
    assert ipivrs.__version__ == match[1] == ipivrs.build_info()["version"]


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("mode", names.DeliveryMode),
        ("destination_mode", names.DestinationMode),
        ("level", names.Level),
        ("trigger", names.Trigger),
        ("shorthand", names.Shorthand),
        ("apic", names.Apic),
    ],
)
def test_the_core_knows_the_names_that_options_take(option: str, known: object) -> None:
    values = {ipivrs.compose_icr(0x20, 1, **{option: name}) for name in get_args(known)}
    assert len(values) == len(get_args(known))


def test_the_commands_are_those_of_the_readme() -> None:
    commands = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert commands == {"run", "check", "sweep", "schema", "explain", "info"}


def test_driving_by_hand() -> None:
    vm = ipivrs.Vm(vcpus=2, apic="x2apic")
    outcome = vm.vcpu(0).wrmsr(0x830, (1 << 32) | 0xFB)
    assert outcome.virtualized
    assert outcome.exit is None
    assert "30.1.6" in outcome.citation
    descriptor = vm.vcpu(1).descriptor
    assert (descriptor.pir, descriptor.on, descriptor.sn) == ([0xFB], True, False)
    assert vm.vcpu(1).deliver() == 0xFB
    assert (vm.vcpu(1).isr, vm.vcpu(1).descriptor.on) == ([0xFB], False)
    assert vm.vcpu(1).eoi().virtualized
    assert vm.vcpu(1).isr == []


def test_what_is_imported_later_is_there_and_no_modules_name() -> None:
    """A module of a name's own name would take its place in the package once it is imported."""
    later = set(ipivrs._LATER)  # noqa: SLF001 (the table is what is tested)
    assert later < set(ipivrs.__all__)
    assert dir(ipivrs) == sorted(ipivrs.__all__)
    package = Path(inspect.getfile(ipivrs)).parent
    assert not [name for name in ipivrs.__all__ if (package / f"{name}.py").exists()]
    with pytest.raises(AttributeError, match="has no attribute 'chek'"):
        getattr(ipivrs, "chek")  # noqa: B009 (type checkers know that there is none)


def test_importing_ipivrs_imports_neither_pydantic_nor_typer_nor_rich() -> None:
    code = "import sys, ipivrs; print(sorted({'pydantic', 'typer', 'rich', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"
    code = "import sys, ipivrs; ipivrs.Vm().vcpu(0).wrmsr(0x830, 1 << 32 | 0xFB); print('pydantic' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"
