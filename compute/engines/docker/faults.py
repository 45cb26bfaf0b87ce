"""What the daemon's refusals mean.

Knows: the words in which Docker 20.10 and newer say what went wrong; there is nothing else to tell one refusal from another
by. Must not know: how the daemon was asked. Whatever is not known here is taken for the daemon's own trouble: another node
may do better.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from compute.engines.contract import Exit
from protocol.errors import OUT_OF_MEMORY, Denied, Exhausted, Failure, Fault, Invalid, NotFound, Unavailable

LOGIN_HINT: Final = "or log in on the node: docker login {registry}, as the user that runs the node"

SIGNALLED: Final = 128
"""Codes beyond are those of programs that a signal ended."""
LOST: Final = 255
"""What Docker says of a container whose end nobody saw."""
RESTARTED: Final = Failure(
    "Unavailable.Docker",
    "the Docker daemon was restarted while the program ran, and ended it",
    hint="With live-restore in the daemon's configuration, containers outlive it.",
    retryable=True,
)

UNSEEN: Final = Failure(
    "Unavailable.Docker",
    "the program went while the Docker daemon was away, and nobody saw how it ended",
    hint="Look in the node's log whether the machine was restarted, or something ended the container's processes.",
    retryable=True,
)

IN_DOUBT: Final = Failure(
    "Unavailable.Docker",
    "the Docker daemon went away while it started the program, and does not know whether it did",
    hint="What may be left of it on the node, and how to end it: docs/operations.md.",
    retryable=True,
)

_EXECUTABLE: Final = re.compile(r'exec: "(?P<program>[^"]*)": (?P<why>.*?)(?:: unknown)?$')
_NO_IMAGE: Final = (
    "manifest unknown",
    "manifest for ",
    "name unknown",
    "repository not known",
    "not found: name",
)
_NO_ACCESS: Final = (
    "unauthorized",
    "authentication required",
    "no basic auth",
    "denied",
    "forbidden",
    "incorrect username",
)


def pull_fault(image: str, registry: str, message: str, *, program: bool = False) -> Fault:
    """Why an image could not be pulled. `program`: credentials are kept by a program that a node does not run."""
    said = message.lower()
    named = f"image {image} cannot be pulled"
    login = LOGIN_HINT.format(registry=registry)
    if program:
        login += " (its credsStore and credHelpers are not read, only auths)"
    if "pull access denied" in said:
        # The registry does not tell a repository that is not there from one that is closed.
        return NotFound(
            f"{named}: {registry} has no such repository, or does not show it without a login ({message})",
            hint=f"Check the spelling, {login}",
            kind="Image",
        )
    if "no matching manifest" in said:
        return NotFound(
            f"{named}: it does not exist for this node's kind of machine ({message})",
            hint="Choose an image for this platform, or a node for which the image exists.",
            kind="Platform",
        )
    if any(words in said for words in _NO_IMAGE):
        return NotFound(
            f"{named}: {registry} has no such image, tag or digest ({message})",
            hint="Check the spelling and the tag; `docker pull` on the node shows the same.",
            kind="Image",
        )
    if "toomanyrequests" in said or "rate limit" in said:
        return Unavailable(
            f"{named}: {registry} limits how often it is asked ({message})",
            hint=f"Wait, {login}",
            kind="Registry",
        )
    if any(words in said for words in _NO_ACCESS):
        return Denied(
            f"{named}: {registry} does not allow it ({message})",
            hint=f"Check the name, {login}",
            kind="Image",
        )
    if "no space left" in said:
        return Exhausted(
            f"{named}: the node's disk for images is full ({message})",
            hint="Remove images that are not used: docker image prune, on the node",
            kind="Disk",
        )
    if "invalid reference" in said:
        return Invalid(f"docker: Image {image!r} is not an image's name ({message})")
    return Unavailable(
        f"{named}: {registry} cannot be reached or does not answer as a registry ({message})",
        hint="Try `docker pull` on the node; an image that is already there needs no registry.",
        kind="Registry",
    )


def create_fault(image: str, status: int, message: str) -> Fault:
    """Why a container could not be made."""
    said = message.lower()
    if status == 404 and "no such image" in said:
        return NotFound(
            f"image {image} is not on this node", hint="It is pulled when the job is prepared.", kind="Image"
        )
    if "no command specified" in said:
        return Invalid(
            f"docker: image {image} has no command of its own, and the job names none",
            hint="Set Entrypoint or Parameters.",
            kind="Command",
        )
    if "bind source path does not exist" in said:
        return Unavailable(f"a folder of this execution has gone from the node: {message}")
    if "is not a directory" in said and "mkdir" in said:
        return Invalid(f"docker: WorkingDirectory is not a folder in image {image} ({message})")
    if "memory limit" in said:
        return Invalid(f"docker: Resources.Memory cannot be had ({message})", hint="Ask for more memory.")
    if status in (400, 422):
        return Invalid(f"docker: the container cannot be made ({message})")
    return Unavailable(f"Docker could not make the container ({message})")


def start_fault(image: str, message: str) -> Fault:
    """Why a container could not be started."""
    said = message.lower()
    if found := _EXECUTABLE.search(message):
        program, why = found["program"], found["why"]
        if "not found" in why or "no such file" in why:
            return NotFound(
                f"docker: image {image} has no program {program!r} ({why})",
                hint="Check the first word of Entrypoint, or of Parameters if the image has no entry point.",
                kind="Entrypoint",
            )
        return Invalid(
            f"docker: {program!r} in image {image} cannot be run ({why})",
            hint="It must be an executable file for this machine, or a script that names its interpreter.",
            kind="Entrypoint",
        )
    if said.startswith("task ") and "already exists" in said:
        return Unavailable(
            f"Docker was killed while it made the container, and cannot start it any more ({message})",
            hint="It is tried again; what may be left on the node, and how to end it: docs/operations.md.",
            kind="Docker",
        )
    if "could not select device driver" in said:
        return Unavailable(
            "Docker on this node has no driver for graphics devices",
            hint="Install the NVIDIA container toolkit on the node.",
            kind="Gpu",
        )
    if "port is already allocated" in said or "address already in use" in said:
        return Unavailable(f"a port that the job publishes is taken on this node ({message})", kind="Port")
    if "inside /proc" in said or "not a directory" in said:
        return Invalid(f"docker: an input or result path cannot be mounted there ({message})", kind="Mount")
    if "error mounting" in said and "read-only file system" in said:
        return Invalid(
            f"docker: an input or result path lies below one that is mounted read-only ({message})",
            hint="Put them beside each other, or let the program write to the upper one (ReadWrite: true).",
            kind="Mount",
        )
    return Unavailable(f"Docker could not start the container ({message})")


def ended_by_daemon(code: int, *, watched: bool, live_restore: bool) -> bool:
    """Whether the end of a program whose daemon was restarted meanwhile has to be taken for the daemon's doing.

    `watched`: the daemon was there when the end was told, and ever since it was asked. One without `live_restore` stops its
    containers when it ends, or when it starts again, and no code is a sign of its own: a program that is asked to end may
    well end with 0. One with it leaves them alone; what the machine took along has the code `LOST`.
    """
    if live_restore:
        return code == LOST
    return not watched or code > SIGNALLED


def exit_of(code: int, inspected: Mapping[str, Any] | None, *, by_daemon: bool = False) -> Exit:
    """How a container ended, by its exit code and what the daemon says of it (None if it is not there any more)."""
    if by_daemon:
        return Exit(code or LOST, UNSEEN if code == LOST else RESTARTED)
    if inspected is None:
        return Exit(code)
    state = inspected.get("State", {})
    if state.get("OOMKilled"):
        limit = inspected.get("HostConfig", {}).get("Memory", 0)
        failure = Failure(
            OUT_OF_MEMORY,
            f"the memory limit of {limit} bytes ({limit / 1024**2:.0f} MiB) was exceeded",
            hint="Ask for more in Resources.Memory.",
        )
        return Exit(code, failure)
    if state.get("Error"):
        return Exit(code, Failure("Unavailable.Docker", f"Docker: {state['Error']}", retryable=True))
    return Exit(code)
