"""Specs for tests: a smallest job, and the faults of one that is wrong."""

from typing import Any

import pytest

from protocol.spec import SpecFault, SpecFaults, read_body, read_spec
from protocol.spec.look import Look, unseen

SMALLEST = "Type: batch\nTasks:\n  - Name: main\n    Engine: {Type: noop}\n"
"""The smallest spec that is right; a test adds lines to the job or, deeper, to the task."""


def body(*, task: dict[str, Any] | None = None, **job: Any) -> dict[str, Any]:
    """A job that is right, as an API body has it, with other members in the job or its task."""
    main: dict[str, Any] = {"Name": "main", "Engine": {"Type": "noop"}}
    return {"Type": "batch", "Tasks": [main | (task or {})], **job}


def faults_of_body(data: Any, look: Look = unseen) -> list[SpecFault]:
    """Everything that is wrong with a body."""
    with pytest.raises(SpecFaults) as caught:
        read_body(data, look=look)
    return caught.value.faults


def faults_of_text(text: str, file: str = "job.yaml", look: Look = unseen) -> list[SpecFault]:
    """Everything that is wrong with a spec."""
    with pytest.raises(SpecFaults) as caught:
        read_spec(text, file=file, look=look)
    return caught.value.faults
