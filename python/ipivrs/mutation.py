"""Which lines of a policy its proof needs: each one left out or moved, and the rest checked again."""

from dataclasses import dataclass
from typing import Any

from ipivrs.bounds import Bounds
from ipivrs.laboratory import CheckResult, Subject
from ipivrs.progress import Progress
from ipivrs.variants import Mutation, mutations


@dataclass(frozen=True)
class Mutant:
    """A mutation and what became of it.

    `result` is None where the rest is no policy that can be checked; `why` says what it lacks.
    """

    mutation: Mutation
    result: CheckResult | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """In one word: "holds", the property that breaks, "undecided" or "unusable"."""
        return "unusable" if self.result is None else self.result.verdict

    @property
    def needed(self) -> bool:
        """The proof needs what was changed."""
        return self.result is None or self.result.holds is False

    def as_dict(self) -> dict[str, Any]:
        """The mutant in plain types, ready for `json.dumps`."""
        return {
            "kind": self.mutation.kind,
            "routine": self.mutation.routine,
            "line": self.mutation.line,
            "description": self.mutation.description,
            "verdict": self.verdict,
            "needed": self.needed,
            "states": self.result.states if self.result else None,
            "seconds": self.result.seconds if self.result else None,
            "diagnosis": self.result.diagnosis if self.result else self.why,
        }


def runs(routine: str, bounds: Bounds) -> bool:
    """Whether a routine is ever run under these bounds. What is never run says nothing about what a proof needs."""
    # Senders whose IPIs exit post through the hypervisor.
    exiting = bool(bounds.senders) and (bounds.inhibit or bounds.rewrite_id or not bounds.ipiv)
    when = {
        "software_post": bool(bounds.software) or exiting,
        "put_preempted": bool(bounds.preemptions),
        "publish": bounds.publish,
        "refresh_apicv": bool(bounds.senders) and (bounds.inhibit or bounds.rewrite_id),
        "set_apic_id": bounds.rewrite_id,
    }
    return when.get(routine, True)


def changes(subject: Subject) -> list[Mutation]:
    """The mutations of all routines that the bounds have run."""
    return [change for change in mutations(subject.text) if runs(change.routine, subject.bounds)]


def mutant(subject: Subject, mutation: Mutation, *, progress: Progress | None = None, **limits: int | None) -> Mutant:
    """Check a mutation under the bounds of the subject; `limits` are those of `ipivrs.check`."""
    try:
        return Mutant(mutation, subject.with_text(mutation.text).check(progress=progress, **limits))
    except ValueError as error:
        return Mutant(mutation, None, str(error))
