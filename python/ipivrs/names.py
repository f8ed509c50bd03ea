"""The names that options take, once for type checkers and once for the shell."""

from typing import Literal

Apic = Literal["x2apic", "xapic"]
"""How the guest reaches its local APIC: x2APIC (MSRs 800H-8FFH) or xAPIC (the APIC page in memory)."""

Access = Literal["icr", "self-ipi"]
"""The register that is written: the ICR (300H, MSR 830H) or x2APIC's self-IPI register (MSR 83FH)."""

DeliveryMode = Literal["fixed", "lowest-priority", "smi", "reserved-3", "nmi", "init", "sipi", "reserved-7"]
"""ICR bits 10:8, in the order of their encodings 0 to 7."""

DestinationMode = Literal["physical", "logical"]
"""ICR bit 11."""

Level = Literal["deassert", "assert"]
"""ICR bit 14."""

Trigger = Literal["edge", "level"]
"""ICR bit 15."""

Shorthand = Literal["none", "self", "all", "all-but-self"]
"""ICR bits 19:18, in the order of their encodings 0 to 3."""

Engine = Literal["threads", "virtual-time"]
"""Who acts when: a thread for each pCPU, or a deterministic simulation with a cost in cycles for every act."""

Pace = Literal["recorded", "free"]
"""The order of a replay: as recorded, each IPI when the one before it has arrived; or each sender on its own."""

ProcessorModel = Literal["sapphire-rapids", "ice-lake", "pre-apicv"]
"""A generation of processors: with IPI virtualization, with APICv only, before APICv."""

IdRewrite = Literal["inhibit", "naive"]
"""What a guest's write of its xAPIC ID does: the inhibit APIC_ID_MODIFIED, or nothing as in v4 of the series."""
