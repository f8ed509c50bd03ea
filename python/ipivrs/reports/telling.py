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
        events = result.events
        told = from_events.story(events, result.shape) if events and len(events["time"]) and result.shape else None
        return facts_of(result), told
    raise TypeError(f"{type(result).__name__} is no result of a run")
