"""What a job may ask of scheduling beyond Bacalhau's fields: how it is tried again, where it is put, how it is updated,
and how long it waits for a silent node.

Knows: the rules of these fields. Must not know: what the requester makes of them.
"""

import math
from typing import Final

from msgspec import UnsetType
from msgspec.structs import replace

from protocol.jobs import Disconnect, Placement, Retry, Update
from protocol.spec import bounds
from protocol.spec.bounds import Path
from protocol.spec.faults import Findings, path_text, quoted
from protocol.spelling import near

CAUSES: Final = ("program", "timeout", "system", "node")
CAUSES_DEFAULT: Final = ("system", "node")
"""What is tried again where a spec says nothing: faults around the program, and work that was lost with its node."""
POLICIES: Final = ("spread", "pack")
ATTEMPTS_MAX: Final = 1_000
"""Attempts of one partition: each stays in the job's fold."""


def read_retry(retry: Retry | UnsetType, path: Path, findings: Findings) -> Retry | UnsetType:
    """A retry policy in canonical form: causes in lower case, with ``program`` where exit codes are named."""
    if isinstance(retry, UnsetType):
        return retry
    if not 0 <= retry.attempts <= ATTEMPTS_MAX:
        findings.fault(
            (*path, "Attempts"), f"{path_text((*path, 'Attempts'))} is not between 0 and {ATTEMPTS_MAX:,}"
        )
    for name, value in (("Backoff", retry.backoff), ("BackoffMax", retry.backoff_max)):
        check_seconds(value, (*path, name), findings)
    if retry.backoff_max and retry.backoff > retry.backoff_max:
        here = (*path, "BackoffMax")
        findings.fault(
            here, f"{path_text(here)} {retry.backoff_max:g} is less than Backoff {retry.backoff:g}"
        )
    if not 0 <= retry.jitter <= 1:
        findings.fault((*path, "Jitter"), f"{path_text((*path, 'Jitter'))} is a share between 0 and 1")
    causes = [cause.strip().lower() for cause in retry.causes]
    for index, cause in enumerate(causes):
        if cause not in CAUSES:
            here = (*path, "Causes", index)
            message = f"{path_text(here)} {quoted(cause)} is not one of {', '.join(CAUSES)}"
            findings.fault(here, message, near=near(cause, CAUSES))
    for index, code in enumerate(retry.exit_codes):
        if not 1 <= code <= 255:
            here = (*path, "ExitCodes", index)
            findings.fault(here, f"{path_text(here)} {code} is no code of a program that failed: 1 to 255")
    if retry.exit_codes and "program" not in causes:
        causes = [*(causes or CAUSES_DEFAULT), "program"]
    return replace(retry, causes=list(dict.fromkeys(causes)))


def read_placement(placement: Placement | UnsetType, path: Path, findings: Findings) -> Placement | UnsetType:
    """A placement policy in canonical form."""
    if isinstance(placement, UnsetType):
        return placement
    policy = placement.policy.strip().lower()
    if policy not in POLICIES:
        here = (*path, "Policy")
        message = f"{path_text(here)} {quoted(placement.policy)} is not one of {', '.join(POLICIES)}"
        findings.fault(here, message, near=near(policy, POLICIES))
    return replace(placement, policy=policy)


def read_update(update: Update | UnsetType, path: Path, findings: Findings) -> Update | UnsetType:
    """An update policy that can be followed."""
    if isinstance(update, UnsetType):
        return update
    if not 1 <= update.max_parallel <= bounds.COUNT_MAX:
        here = (*path, "MaxParallel")
        findings.fault(here, f"{path_text(here)} is not between 1 and {bounds.COUNT_MAX:,}")
    check_seconds(update.min_healthy, (*path, "MinHealthy"), findings)
    return update


def read_disconnect(
    disconnect: Disconnect | UnsetType, path: Path, findings: Findings
) -> Disconnect | UnsetType:
    """A time to wait for a silent node."""
    if not isinstance(disconnect, UnsetType):
        check_seconds(disconnect.lost_after, (*path, "LostAfter"), findings)
    return disconnect


def check_seconds(value: float, path: Path, findings: Findings) -> None:
    """A time is not negative and not longer than any limit."""
    if not math.isfinite(value) or not 0 <= value <= bounds.SECONDS_MAX:
        findings.fault(path, f"{path_text(path)} is not between 0 and {bounds.SECONDS_MAX:,} seconds")
