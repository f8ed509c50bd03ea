"""What a scenario may have, and what is seldom meant by those who write it."""

from collections.abc import Iterable, Iterator

from ipivrs.scenario import Scenario, programs
from ipivrs.statements import AnyStatement, Path_, Word, WriteRegister, targets, within

_EOI_REGISTER = 0xB0


def doubts(scenario: Scenario) -> Iterator[tuple[Path_, str]]:
    """Where it is, and what comes of it."""
    for number, vm in enumerate(scenario.vm):
        at = ("vm", number)
        alone = vm.vcpus == 1 and not (number == 0 and scenario.chaos.hot_add)
        for path, program in programs(vm):
            for where, to in targets(program, (*at, *path)):
                if alone and isinstance(to, str):
                    yield where, f'"{to}" is about other vCPUs, and the VM has one: nothing is sent'
        if any(_ends_interrupts(group.program) for group in vm.group):
            continue
        for handler_number, handler in enumerate(vm.handler):
            if not _ends_interrupts(handler.program):
                why = f"no eoi: vector {handler.vector:#x} stays in service once it is delivered"
                after = "and no other of its class or below is delivered after it (SDM vol. 3A 11.8.4)"
                yield (*at, "handler", handler_number, "program"), f"{why}, {after}"


def _ends_interrupts(program: Iterable[AnyStatement]) -> bool:
    return any(
        (isinstance(statement, Word) and statement.word == "eoi")
        or (isinstance(statement, WriteRegister) and statement.offset == _EOI_REGISTER)
        for _, statement in within(program)
    )
