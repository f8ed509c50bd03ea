"""The journal of a sweep: a line for each point, on the disk before the next one counts."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ipivrs import __version__
from ipivrs.grid import SweepError
from ipivrs.replacing import sync_folder
from ipivrs.rows import POINT, Row
from ipivrs.tables import in_the_way

_KIND = "ipivrs-sweep"
_SUFFIX = ".journal"


def journal_path(out: Path) -> Path:
    """Where the journal of a results file is."""
    return out.with_name(f"{out.name}{_SUFFIX}")


class Journal:
    """Rows by point, in a file that only grows. One sweep at a time has it.

    Attributes:
        path: Where it is.
        rows: What is in it.
        restarted: What was in the results file before it was begun does not count.

    Raises:
        SweepError: It is no journal, another sweep has it, or it cannot be written.
    """

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        """Open it, or begin it; what a crash left of a last line is dropped."""
        self.path = path
        self.rows: dict[str, Row] = {}
        self.restarted = restart
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SweepError(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            if restart:
                os.ftruncate(self._file, 0)
            self._read()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SweepError.naming(
                lambda named: (
                    f"{self.path}: another sweep is writing it: wait for it, or give {named('out')} another name"
                )
            ) from error

    def _read(self) -> None:
        with open(self._file, "rb", closefd=False) as file:
            text = file.read()
        good = 0
        lines = text.splitlines(keepends=True)
        if len(lines) == 1 and self._header().startswith(text[:-1]):
            # It was not even begun.
            lines = []
        for number, line in enumerate(lines):
            values = _parsed(line)
            if values is None and number > 0 and number == len(lines) - 1:
                break
            if values is None or not self._take(number, values):
                raise self._damaged(number)
            good += len(line)
        os.ftruncate(self._file, good)
        os.lseek(self._file, good, os.SEEK_SET)
        if good == 0:
            self._write(self._header())
            sync_folder(self.path)

    def _damaged(self, number: int) -> SweepError:
        """What is not in the way of going on: the other lines, and the results file."""
        out = self.path.with_name(self.path.name.removesuffix(_SUFFIX))
        ways = ["delete this line, and its point is run again; "] if number > 0 else []
        if out.exists():
            ways.append(f"if {out} has the rows, remove the journal, and only what is not there is run; ")
        what = f"{self.path}:{number + 1}: this is no line of a sweep's journal: {'or '.join(ways)}"
        return in_the_way(f"{what}{'or else ' if ways else ''}", "begin anew")

    def _take(self, number: int, values: dict[str, Any]) -> bool:
        """Whether this is what the line of this number has in it."""
        if number == 0:
            self.restarted = values.get("restarted") is True
            return values.get("journal") == _KIND
        if not isinstance(values.get("row"), dict):
            return False
        self.rows[str(values.get(POINT))] = values["row"]
        return True

    def _header(self) -> bytes:
        return json.dumps({"journal": _KIND, "version": __version__, "restarted": self.restarted}).encode() + b"\n"

    def append(self, rows: list[Row]) -> None:
        """Add rows. They are on the disk when this returns.

        Raises:
            SweepError: The disk is full, or the like.
        """
        new = [row for row in rows if row[POINT] not in self.rows]
        if new:
            self._write(b"".join(json.dumps({POINT: row[POINT], "row": row}).encode() + b"\n" for row in new))
            self.rows.update((row[POINT], row) for row in new)

    def _write(self, text: bytes) -> None:
        try:
            while text:
                text = text[os.write(self._file, text) :]
            os.fsync(self._file)
        except OSError as error:
            raise SweepError(f"{self.path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Delete it: all that is in it is in the results file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._file)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None if it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
