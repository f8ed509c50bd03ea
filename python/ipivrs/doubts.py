"""What a scenario may have, and what is seldom meant by those who write it."""

from collections.abc import Iterable, Iterator

from ipivrs.scenario import VM, Scenario, programs
from ipivrs.statements import AnyStatement, Path_, Word, WriteRegister, targets, within
from ipivrs.wording import noun

_EOI_REGISTER = 0xB0
_KVM_IDS = 4096


def doubts(scenario: Scenario) -> Iterator[tuple[Path_, str]]:
    """Where it is, and what comes of it."""
    for number, vm in enumerate(scenario.vm):
        added = scenario.chaos.hot_add if number == 0 else 0
        found = (*_beyond_its_table(vm, added), *_about_nobody(vm, added), *_without_eoi(vm))
        yield from ((("vm", number, *path), what) for path, what in found)


def _beyond_its_table(vm: VM, added: int) -> Iterator[tuple[Path_, str]]:
    entries = vm.max_vcpu_ids or max(_KVM_IDS, vm.vcpus + added)
    if vm.last_index is not None and vm.last_index >= entries:
        beyond = f"{vm.last_index} is beyond the table of {entries} {noun(entries, 'entry', 'entries')}"
        yield ("last_index",), f"{beyond}: the processor reads past its end"


def _about_nobody(vm: VM, added: int) -> Iterator[tuple[Path_, str]]:
    if vm.vcpus > 1 or added:
        return
    for path, program in programs(vm):
        for where, to in targets(program, path):
            if isinstance(to, str):
                yield where, f'"{to}" is about other vCPUs, and the VM has one: nothing is sent'


def _without_eoi(vm: VM) -> Iterator[tuple[Path_, str]]:
    if any(_ends_interrupts(group.program) for group in vm.group):
        return
    for number, handler in enumerate(vm.handler):
        if not _ends_interrupts(handler.program):
            why = f"no eoi: vector {handler.vector:#x} stays in service once it is delivered"
            after = "and no other of its class or below is delivered after it (SDM vol. 3A 11.8.4)"
            yield ("handler", number, "program"), f"{why}, {after}"


def _ends_interrupts(program: Iterable[AnyStatement]) -> bool:
    return any(
        (isinstance(statement, Word) and statement.word == "eoi")
        or (isinstance(statement, WriteRegister) and statement.offset == _EOI_REGISTER)
        for _, statement in within(program)
    )
