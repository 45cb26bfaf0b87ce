"""The tree of commands. Each is imported when it is called.

Knows: names and which function is behind each. Must not know: what any of them does.
"""

import errno
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

from cyclopts import App, Parameter

from protocol.errors import Fault
from requester.cli.exits import Exit, code_of, complain, complain_of

if TYPE_CHECKING:
    from cyclopts import CycloptsError

_HELP: Final = """Bring jobs to data.

Submit a job with `shoal submit spec.yaml`, look at it with `shoal job describe ID`, download its results with
`shoal job get ID`. `shoal devstack` runs a cluster on this machine to try things on.
"""


_EXITS: Final = """

Exit codes: 0 the job completed, 10 it failed, 11 it was stopped, 12 no node can run it, 124 the time to wait was over,
2 what was asked is wrong. Ctrl+C leaves the job running.
"""
_PROGRAM: Final = """

Put the flags before {word}; everything after it goes to the program. With --follow it prints what the program prints and
ends with its exit code.
"""

_SETTINGS: Final = (
    "Settings come from flags, then -c Key=Value, then variables (SHOAL_API_PORT, BACALHAU_API_PORT), then files: -c FILE, "
    "./shoal.yaml and ~/.config/shoal/config.yaml."
)
# A lazy command's own docstring would have to be imported to be shown; these lines are what `--help` lists.
_ABOUT_JOBS: Final = (
    ("submit:validate", "validate", "Check a job spec without a server."),
    ("describe:describe", "describe", "Describe a job: what was asked, what became of it, and why."),
    ("jobs:list_jobs", "list", "List jobs, newest first."),
    ("jobs:executions", "executions", "List a job's executions."),
    ("explain:explain", "explain", "Explain why a job's executions are where they are, or why it waits."),
    ("jobs:history", "history", "Show what happened to a job."),
    ("jobs:versions", "versions", "List a job's versions."),
    ("jobs:stop", "stop", "Stop a job."),
    ("jobs:delete", "delete", "Forget a job that has ended."),
    ("rerun:rerun", "rerun", "Run a job once more, as it is or as it was in an earlier version."),
    ("submit:diff", "diff", "Show what submitting a spec would change in the job of its name."),
    ("logs:logs", "logs", "Print what a program wrote, or follow it."),
    ("get:get", "get", "Download a job's published results."),
    ("files:ls", "ls", "List the files of a job's results without downloading them."),
    ("files:cat", "cat", "Print one file of a job's results without downloading the rest."),
)
_ABOUT_NODES: Final = (
    ("describe", "Describe a node."),
    ("approve", "Let a node take work."),
    ("reject", "Give a node no more work, and move what it has elsewhere at once."),
    ("delete", "Forget a node and end what it has; it joins again at its next start."),
    ("cordon", "Give a node no new work."),
    ("drain", "Take the work from a node: services at once, the rest when it ends or at a deadline."),
    ("uncordon", "Give a node work again."),
)
_ABOUT_KEYS: Final = {
    "cluster": (
        ("init", "init", "Make the keys of a new cluster, and the file that its NATS servers start with."),
        ("list_enrolled", "list", "List who has credentials."),
        ("push", "push", "Send the present accounts and rights to the NATS servers."),
        ("backup", "backup", "Copy the log and what belongs to it from the NATS servers into a folder."),
        ("restore", "restore", "Make the streams of a backup on NATS servers that have none."),
        ("admin", "admin", "Give a person credentials for NATS's own tools."),
        ("revoke_admin", "revoke-admin", "Revoke a person's credentials."),
    ),
    "node": (
        ("enroll_node", "enroll", "Give a compute node credentials of its own."),
        ("rotate_node", "rotate", "Give a node a new key; the old one is valid until --finish."),
        ("revoke_node", "revoke", "Revoke a node's credentials: it is cut off at once."),
    ),
    "requester": (
        ("enroll_requester", "enroll", "Give a requester credentials of its own."),
        ("rotate_requester", "rotate", "Give a requester a new key; the old one is valid until --finish."),
        ("revoke_requester", "revoke", "Revoke a requester's credentials: it is cut off at once."),
    ),
}

_ABOUT_AGENT: Final = (
    ("alive", "Check whether the requester answers."),
    ("version", "Print the requester's version, and the version of Bacalhau that it is compatible with."),
    ("node", "Print who the requester is."),
    ("config", "Print the requester's settings, without secrets."),
)

_ABOUT_PROFILES: Final = (
    ("save", "save", "Make a profile, or change one."),
    ("list_profiles", "list", "List profiles; the one that is selected has a star."),
    ("show", "show", "Show a profile."),
    ("select", "select", "Select a profile: commands go to its cluster from now on."),
    ("delete", "delete", "Delete a profile."),
)

_SPECS: Final = (("submit",), ("validate",), ("job", "run"), ("job", "validate"), ("diff",), ("job", "diff"))
"""Commands that read a spec, from standard input if none is named."""


def build(version: Callable[[], str]) -> App:
    """The whole command line."""
    app = App(
        name="shoal",
        help=_HELP,
        version=version,
        version_flags=["--version"],
        result_action="return_value",
        # Only --wait is on by default and has its own --no-wait; elsewhere --no-… would say nothing.
        default_parameter=Parameter(negative="", show_default=False),
    )
    job = App(name="job", help="Submit jobs and look at them.")
    node = App(name="node", help="Look at compute nodes, admit them, give them credentials.")
    requester = App(name="requester", help="Give requesters credentials.")
    cluster = App(name="cluster", help="The keys of a cluster: who may connect to its NATS servers.")
    docker = App(name="docker", help="Run a container without writing a spec.")
    wasm = App(name="wasm", help="Run a WebAssembly module without writing a spec.")
    agent = App(name="agent", help="Ask the requester about itself.")
    config = App(name="config", help="List the settings made on this machine, and write one.")
    profile = App(name="profile", help="Name the clusters that you work with, and choose one.")
    for noun in (job, node, requester, cluster, docker, wasm, agent, config, profile):
        app.command(noun)

    _add_jobs(app, job, docker, wasm)
    _add_nodes_and_keys(cluster, node, requester)
    _add_programs(app, agent, config, profile)
    return app


def _add_jobs(app: App, job: App, docker: App, wasm: App) -> None:
    """What is done with jobs: as commands of their own, and below ``job``."""
    submit = "requester.cli.submit:submit"
    app.command(submit, name="submit", help=f"Submit a job and wait for it.{_EXITS}")
    job.command(submit, name="run", help=f"Submit a job and wait for it (= submit).{_EXITS}")
    for parent in (app, job):
        for target, name, text in _ABOUT_JOBS:
            parent.command(f"requester.cli.{target}", name=name, help=text)
    docker.command(
        "requester.cli.run:docker_run",
        name="run",
        help=f"Run a container as a job.{_PROGRAM.format(word='IMAGE')}{_EXITS}",
    )
    wasm.command(
        "requester.cli.run:wasm_run",
        name="run",
        help=f"Run a module as a job.{_PROGRAM.format(word='MODULE')}{_EXITS}",
    )


def _add_nodes_and_keys(cluster: App, node: App, requester: App) -> None:
    """What people decide about nodes, and who may connect."""
    node.command(
        "requester.cli.nodes:list_nodes", name="list", help="List compute nodes with what they offer."
    )
    for verb, text in _ABOUT_NODES:
        node.command(f"requester.cli.nodes:{verb}", name=verb, help=text)
    for noun in (cluster, node, requester):
        for target, name, text in _ABOUT_KEYS[noun.name[0]]:
            noun.command(f"requester.cli.keys:{target}", name=name, help=text)


def _add_programs(app: App, agent: App, config: App, profile: App) -> None:
    """What a requester says of itself, settings, profiles, and the programs that are started."""
    for verb, text in _ABOUT_AGENT:
        agent.command(f"requester.cli.agent:{verb}", name=verb, help=text)
    settings = "requester.cli.settings"
    config.command(
        f"{settings}:list_settings", name="list", help="List the settings made here, and where each is made."
    )
    config.command(f"{settings}:set_setting", name="set", help="Write a setting into a configuration file.")
    for target, name, text in _ABOUT_PROFILES:
        profile.command(f"requester.cli.profiles:{target}", name=name, help=text)
    app.command(
        "requester.cli.version:version", name="version", help="Print this client's and the server's version."
    )
    app.command(
        "requester.cli.serve:serve",
        name="serve",
        help=f"Run a requester, a compute node, or both, until interrupted.\n\n{_SETTINGS}",
    )
    app.command(
        "requester.cli.devstack:devstack", name="devstack", help="Run a whole cluster on this machine."
    )


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a disk says that takes no more."""


def main(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    from requester.version import installed_version

    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_text(stream)
    # Asked only by who wants to know: what reads it costs more than the whole tree of commands.
    app = build(installed_version)
    try:
        if (*arguments[:1],) in _SPECS or (*arguments[:2],) in _SPECS:
            # The parser takes a lone dash for a broken flag; it means what these commands do without one.
            arguments = [word for word in arguments if word != "-"]
        if arguments[1:2] == ["run"] and arguments[0] in ("docker", "wasm"):
            from requester.cli.program import program_last

            arguments = program_last(app, arguments)
        result = app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Fault as fault:
        complain_of(fault)
        return code_of(fault)
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        if error.errno not in _FULL:
            raise
        complain(f"what this command has to say cannot be written: {error.strerror}", "Is the disk full?")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.ERROR
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.ERROR
    except _usage_errors() as error:
        _complain_of_usage(error)
        return Exit.USAGE
    return result if isinstance(result, int) else Exit.OK


def _never_fail_on_text(stream: TextIO) -> None:
    """Text that the terminal's encoding lacks is shown escaped."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _usage_errors() -> "type[CycloptsError]":
    from cyclopts import CycloptsError

    return CycloptsError


def _complain_of_usage(error: "CycloptsError") -> None:
    complain(
        " ".join(str(error).split()),
        f"{' '.join(['shoal', *(error.command_chain or ()), '--help'])} lists what there is",
    )
