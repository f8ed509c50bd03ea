"""Counterexamples again: from a file, step by step, on the engine of the search or on real threads and atomics."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipivrs import _core
from ipivrs.bounds import Bounds
from ipivrs.laboratory import Subject
from ipivrs.options import whole_number


class ReplayError(ValueError):
    """A file that holds no counterexample. The message names the file and says how to get one."""


@dataclass(frozen=True)
class Recorded:
    """What a file of `ipivrs check --save` or `--json` says about a counterexample."""

    subject: Subject
    choices: tuple[int, ...]
    kind: str

    def replay(self, *, on_threads: bool = False) -> dict[str, Any]:
        """Make the same choices again.

        Args:
            on_threads: Each actor is an OS thread and the words are real atomics; the order is forced.

        Returns:
            `counterexample`, `violation` and `diagnosis` of this run; `expected`, the property that broke in the file;
            and `confirmed`: the same breaks again, and memory was what the model says after each step.

        Raises:
            ValueError: A choice does not fit the policy, and the message says at which step; or a replay on threads has
                a store buffer in it.
        """
        policy, bounds = self.subject.text, self.subject.bounds.as_json()
        found = _core.replay(policy, bounds, list(self.choices), threads=on_threads)
        ends_alike = found["violation"] is not None and found["violation"]["kind"] == self.kind
        return {
            **found,
            "confirmed": found["confirmed"] and ends_alike,
            "expected": self.kind,
            "policy": self.subject.name,
            "bounds": self.subject.bounds.as_dict(),
            "on_threads": on_threads,
        }


def load(path: str) -> Recorded:
    """The counterexample in a file.

    Raises:
        ReplayError: It cannot be read, or holds none.
    """
    how = "`ipivrs check POLICY --save FILE` writes one"
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        text, steps, violation = values["policy_text"], values["counterexample"], values["violation"]
        bounds = Bounds.from_dict(values["bounds"])
        choices = tuple(whole_number("choice", step["choice"], 0, 2**32 - 1) for step in steps or ())
        subject = Subject(values["policy"], values["source"], text, tuple(values["without"]), bounds)
        kind = violation["kind"] if steps else ""
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}; {how}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{path} is no result of a check ({_what(error)}); {how}") from error
    if not steps:
        raise ReplayError(f"{path}: {subject.name} was not refuted, so there is nothing to replay")
    return Recorded(subject, choices, kind)


def _what(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
