"""What several commands read from the REST answers of `requester.api.views`.

Knows: their fields. Must not know: how anything is printed. Plain functions.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import fields

from protocol.jobs import Job
from requester.core.meant import output_meant

Json = dict[str, Any]

_STATES: Final = {
    0: "Undefined",
    4: "Refused",
    5: "BidAccepted",
    6: "Running",
    7: "Publishing",
    9: "Completed",
    10: "Failed",
    11: "Cancelled",
}
_DESIRED_RUNNING: Final = 1


def state_of(execution: Json) -> str:
    """An execution's state by Bacalhau's name."""
    number = execution["ComputeState"]["StateType"]
    return _STATES.get(number, str(number))


def is_open(execution: Json) -> bool:
    """Whether an execution has not ended."""
    return bool(execution["DesiredState"]["StateType"] == _DESIRED_RUNNING)


def causes_of(executions: Sequence[Json]) -> list[tuple[str, list[Json]]]:
    """Why executions, oldest first, went wrong: each cause with those of it, the most frequent first."""
    causes: dict[str, list[Json]] = {}
    for each in executions:
        if failure := each.get("Failure"):
            causes.setdefault(str(failure["Message"]).partition("\n")[0], []).append(each)
    return sorted(causes.items(), key=lambda cause: -len(cause[1]))


def telling_most(executions: Sequence[Json]) -> list[Json]:
    """Executions, oldest first, in the order in which a person wants to see them: one that went wrong of each cause, what
    has not ended, then the rest from the newest on, what went wrong before what went well."""
    examples = [those[-1] for _, those in causes_of(executions)]
    taken = {each["ID"] for each in examples}
    rest = [each for each in reversed(executions) if each["ID"] not in taken]
    return examples + sorted(rest, key=lambda each: (not is_open(each), not each.get("Failure")))


def output_execution(executions: Sequence[Json]) -> Json | None:
    """Of some executions, oldest first, the one whose output is meant, as requesters choose it."""
    return output_meant(executions, is_open=is_open, wrote=lambda each: bool(each["RunOutput"]))


def desired_of(execution: Json) -> str:
    """What is wanted of an execution."""
    return "Running" if execution["DesiredState"]["StateType"] == _DESIRED_RUNNING else "Stopped"


def time_of(item: Json) -> str:
    """When something in a job's history happened, to the millisecond."""
    return str(item["Time"]).replace("T", " ").rstrip("Z")[:23]


def as_spec(job: Json) -> Json:
    """The job without what the server added; a name that is only the id was no one's wish."""
    asked = {field.encode_name: job[field.encode_name] for field in fields(Job) if field.encode_name in job}
    if asked["Name"] == job["ID"]:
        del asked["Name"]
    return asked
