"""What a result is in words, and its story."""

from ipivrs.reports import from_events, from_recording
from ipivrs.reports.facts import Facts, facts_of
from ipivrs.reports.story import Story
from ipivrs.results import RunResult
from ipivrs.simulation import ScenarioResult


def facts_and_story(result: object) -> tuple[Facts, Story | None]:
    """The facts of a result, and its story if it has times."""
    if isinstance(result, RunResult):
        return facts_of(result), from_recording.story(result)
    if isinstance(result, ScenarioResult):
        events, shape = result.events, result.shape
        if not events or not len(events["time"]) or shape is None:
            return facts_of(result), None
        vcpus = [vm["vcpus"] for vm in result.vms]
        return facts_of(result), from_events.story(events, shape, vcpus, result.cycles or 0)
    raise TypeError(f"{type(result).__name__} is no result of a run")
