"""The recordings in examples/, for the tests to run."""

from functools import cache
from pathlib import Path

import ipivrs

EXAMPLES = Path(__file__).parent.parent / "examples"

X2APIC_BOOT = EXAMPLES / "linux-boot-long-x2apic-smp2.perf.data"
XAPIC_BOOT = EXAMPLES / "linux-boot-long-xapic-smp2.perf.data"
KUT_APIC = EXAMPLES / "kut-apic-x2apic.perf.data"
SELF_IPIS = EXAMPLES / "kut-vmexit-self_ipi_sti_nop-x2apic-full-short.perf.data"
GUEST_SIDE = EXAMPLES / "native-sched-messaging.perf.data"

RECORDINGS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".data", ".txt"})


@cache
def replay(path: Path) -> ipivrs.RunResult:
    """Run a recording, once for all tests that only look at the result."""
    return ipivrs.run(path)
