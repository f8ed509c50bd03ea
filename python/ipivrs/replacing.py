"""Files that are written whole and put into place at once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

# Where /dev/stdout and the like are: they may lead to files, that others write too.
_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")


def replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file; whoever reads it meanwhile sees the old one or the new one, and what fails leaves the old one.

    A device or a pipe is written as it comes, and so is a file in a folder that takes no new ones.

    Args:
        path: The file; one that is there is replaced, and keeps its permissions.
        write: Given the open file, writes it.

    Raises:
        OSError: It cannot be written.
    """
    if _is_written_in_place(path):
        with path.open("wb") as file:
            write(file)
        return
    path = path.resolve()  # a link stays one
    # What a kill leaves of this is overwritten by the next that writes the file.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path)


def _is_written_in_place(path: Path) -> bool:
    if not path.exists():
        return False
    is_file = path.is_file() and str(path.parent) not in _STREAMS
    return not (is_file and os.access(path.resolve().parent, os.W_OK))


def replace_text(path: Path, text: str) -> None:
    """The same with a text, in UTF-8.

    Raises:
        OSError: It cannot be written.
    """
    replace(path, lambda file: file.write(text.encode()))


def sync_folder(path: Path) -> None:
    """Make the name of a new file durable, as its contents are."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
