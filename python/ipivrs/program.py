"""Programs built in Python, statement by statement."""

from typing import Literal

from ipivrs.names import Apic
from ipivrs.statements import (
    AnyStatement,
    Branch,
    Broadcast,
    Call,
    Choose,
    Compute,
    IpiMode,
    Lock,
    Loop,
    Message,
    SelfIpi,
    Send,
    Signal,
    SwitchApic,
    Target,
    Tpr,
    Unlock,
    Wait,
    Word,
    WriteRegister,
)


class Program(list[AnyStatement]):
    """A guest's program: a list of statements, and a method for each that appends one.

    ipivrs.Program().loop(1000, ipivrs.Program().send(0xFB, to=1).wait("handled"))

    Every method raises a `ValueError` for a value out of its range: the field, and what is allowed.
    """

    def send(
        self,
        vector: int,
        to: Target | None = None,
        *,
        dest: int | None = None,
        mode: IpiMode = "fixed",
        logical: bool = False,
    ) -> "Program":
        """Send an IPI through the ICR: to a vCPU ("next", "random", "others"), or with this raw destination."""
        return self._with(Send(vector=vector, to=to, dest=dest, mode=mode, logical=logical))

    def broadcast(self, vector: int, *, including_self: bool = False, mode: IpiMode = "fixed") -> "Program":
        """Send an IPI with a shorthand."""
        return self._with(Broadcast(vector=vector, including_self=including_self, mode=mode))

    def self_ipi(self, vector: int) -> "Program":
        """Send a self-IPI."""
        return self._with(SelfIpi(vector=vector))

    def call(self, vector: int, to: Target) -> "Program":
        """Call a function on other vCPUs; the handler of `vector` must `answer`."""
        return self._with(Call(vector=vector, to=to))

    def answer(self) -> "Program":
        """Run and acknowledge the calls that are queued for this vCPU."""
        return self._with(Word(word="answer"))

    def await_calls(self) -> "Program":
        """Spin until all of this vCPU's calls are acknowledged."""
        return self._with(Word(word="await-calls"))

    def poll(self) -> "Program":
        """Poll until called, as an idle CPU of Linux with `idle=poll`: such a call sends no IPI; then `answer` it."""
        return self._with(Word(word="poll"))

    def message(self, vector: int, to: Target) -> "Program":
        """Leave a message; an idle reader gets an IPI."""
        return self._with(Message(vector=vector, to=to))

    def receive(self) -> "Program":
        """Take a message, idle until there is one."""
        return self._with(Word(word="receive"))

    def compute(self, cycles: int) -> "Program":
        """Compute for so many cycles."""
        return self._with(Compute(cycles=cycles))

    def hlt(self) -> "Program":
        """STI; HLT."""
        return self._with(Word(word="hlt"))

    def eoi(self) -> "Program":
        """End of interrupt."""
        return self._with(Word(word="eoi"))

    def cli(self) -> "Program":
        """Take no interrupts."""
        return self._with(Word(word="cli"))

    def sti(self) -> "Program":
        """Take interrupts."""
        return self._with(Word(word="sti"))

    def tpr(self, value: int) -> "Program":
        """Write the task-priority register."""
        return self._with(Tpr(value=value))

    def apic(self, mode: Apic | Literal["disabled"]) -> "Program":
        """Move the local APIC to a mode."""
        return self._with(SwitchApic(mode=mode))

    def register(self, offset: int, value: int) -> "Program":
        """Write the local-APIC register at a page offset, a multiple of 16 up to 3F0H."""
        return self._with(WriteRegister(offset=offset, value=value))

    def signal(self, name: str) -> "Program":
        """Count a signal."""
        return self._with(Signal(signal=name))

    def wait(self, name: str, count: int = 1) -> "Program":
        """Spin until a signal was counted so often since the last wait for it."""
        return self._with(Wait(signal=name, count=count))

    def lock(self, name: str) -> "Program":
        """Take a spin lock."""
        return self._with(Lock(lock=name))

    def unlock(self, name: str) -> "Program":
        """Release a spin lock."""
        return self._with(Unlock(lock=name))

    def loop(self, times: int | Literal["forever"], body: "Program") -> "Program":
        """Repeat a program."""
        return self._with(Loop(times=times, body=body))

    def choose(self, *branches: "tuple[int, Program]") -> "Program":
        """Run one of several programs at random, each with its weight."""
        return self._with(Choose(branches=[Branch(weight=weight, body=body) for weight, body in branches]))

    def _with(self, statement: AnyStatement) -> "Program":
        self.append(statement)
        return self
