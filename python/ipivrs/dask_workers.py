"""Points on the workers of a dask cluster."""

import asyncio
from typing import Any

from ipivrs import __version__
from ipivrs.grid import SweepError
from ipivrs.rows import run_point
from ipivrs.workers import Description, Outcome

_PREFETCHED = 2
_PATIENCE = 10
_PATIENCE_WITH_A_ROW = 1


def _version() -> str:
    return __version__


def _refused(what: str) -> SweepError:
    return SweepError.naming(lambda named: f"{named('dask')} {what}")


class DaskWorkers:
    """The threads of a dask cluster's workers; dask itself begins a point again when its worker dies.

    Raises:
        SweepError: There is no `distributed`, no scheduler, no worker, or no ipivrs of this version on the workers.
    """

    def __init__(self, address: str) -> None:
        """Connect to a scheduler, such as tcp://10.0.0.1:8786, and look whether its workers will do."""
        try:
            import distributed  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise _refused("needs dask's scheduler: pip install 'ipivrs[distributed]'") from error
        self._dask: Any = distributed
        self._address = address
        self._points: dict[Any, Description] = {}
        self._check_address()
        try:
            self._client: Any = self._dask.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise _refused(f"{address}: no scheduler answers there: {error}") from error
        try:
            self._look_at_workers()
        except BaseException:
            self.close()
            raise

    def _check_address(self) -> None:
        """Of one that it cannot read, dask's client prints a traceback when it is thrown away, half a minute later."""
        if self._address.startswith("inproc:"):  # within this process, without a port
            return
        try:
            self._dask.comm.addressing.get_address_host_port(self._address)
        except ValueError as error:
            message = f"must be a scheduler's address such as tcp://10.0.0.1:8786, not {self._address!r}: {error}"
            raise _refused(f"{message}") from error

    def _look_at_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            raise _refused(f"{self._address}: it has no workers: start some with dask worker") from error
        try:
            versions = self._client.run(_version, on_error="return")
        except (OSError, ValueError) as error:
            raise _refused(f"{self._address}: its workers do not answer: {error}") from error
        for worker, version in versions.items():
            if version != __version__:
                has = f"ipivrs {version}" if isinstance(version, str) else f"no ipivrs that can be used ({version})"
                raise _refused(f"{self._address}: worker {worker} has {has}: install {__version__} there")

    @property
    def room(self) -> int:
        """Points for threads that are idle or have no next one."""
        threads: int = sum(self._client.nthreads().values())
        return max(threads, 1) * _PREFETCHED - len(self._points)

    @property
    def busy(self) -> bool:
        """Whether the cluster has points."""
        return bool(self._points)

    def submit(self, description: Description) -> None:
        """Give a point to the scheduler."""
        future = self._client.submit(run_point, description, pure=False)
        self._points[future] = description

    def finished(self, seconds: float) -> list[Outcome]:
        """Rows that arrived, and points whose workers all died."""
        try:
            with self._client.as_current():
                done = self._dask.wait(list(self._points), timeout=seconds, return_when="FIRST_COMPLETED").done
        except (TimeoutError, asyncio.TimeoutError):
            return []
        except (OSError, asyncio.CancelledError, self._dask.client.FuturesCancelledError) as error:
            raise self._gone() from error
        return [outcome for future in done if (outcome := self._outcome(future)) is not None]

    def _outcome(self, future: Any) -> Outcome | None:  # noqa: ANN401 (dask has no types)
        """The row, or why there is none; nothing yet if the worker died with the row and dask makes it again."""
        if future.status == "cancelled":
            raise self._gone()
        if future.status not in {"finished", "error"}:
            return None
        try:
            row = future.result(timeout=_PATIENCE_WITH_A_ROW)
        except (TimeoutError, asyncio.TimeoutError):
            return None
        except Exception as error:  # whatever became of the task
            return Outcome(self._points.pop(future), why=f"{type(error).__name__}: {error}")
        return Outcome(self._points.pop(future), row)

    def _gone(self) -> SweepError:
        return _refused(f"{self._address}: the scheduler has gone; the same again goes on from here")

    def close(self) -> None:
        """Forget what is running; it ends on its workers without anyone waiting for it."""
        self._client.cancel(list(self._points))
        self._client.close()
