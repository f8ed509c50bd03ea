"""What the core refuses of a machine as a whole, as a mistake of a field of its scenario."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ipivrs.scenario_text import FieldError, Path_

_OF_A_VM = re.compile(r"VM (?P<vm>\d+): (?P<what>.*)", re.DOTALL)
_NOT_ALLOWED = re.compile(r"not allowed by IA32_VMX_(?P<msr>\w+)$")
_MISSING = re.compile(r"the processor does not allow (?P<controls>.*), and KVM needs it$")
_ENDLESS = "no program and no device of this scenario ends by itself"

# The capability MSR that does not allow what KVM needs.
_CAPABILITIES = {
    "external-interrupt exiting": "pinbased_ctls",
    "HLT exiting and interrupt-window exiting": "procbased_ctls",
    "use TPR shadow, use MSR bitmaps and activate secondary controls": "procbased_ctls",
    "virtualize APIC accesses": "procbased_ctls2",
}


@contextmanager
def refusals_have_fields() -> Iterator[None]:
    """What the core refuses with a ValueError is about a field, where its message tells which.

    Raises:
        FieldError: It tells.
    """
    try:
        yield
    except ValueError as error:
        if found := _refused(str(error)):
            raise FieldError(*found) from error
        raise


def _refused(message: str) -> tuple[Path_, str] | None:
    if message.startswith(_ENDLESS):
        return ("seconds",), message
    about = _OF_A_VM.match(message)
    if about is None:
        return None
    what = about["what"]
    if named := _NOT_ALLOWED.search(what):
        return ("processor", named["msr"].lower()), what
    if missing := _MISSING.match(what):
        return ("processor", _CAPABILITIES[missing["controls"]]), what
    return ("vm", int(about["vm"])), what
