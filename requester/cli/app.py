"""The tree of commands. Each is imported when it is called.

Knows: names and which function is behind each. Must not know: what any of them does.
"""

import sys

from cyclopts import App

from protocol.errors import Fault
from requester.cli.exits import Exit, code_of, complain

_HELP = """Bring jobs to data.

Submit a job with `shoal submit spec.yaml`, look at it with `shoal job describe ID`, fetch what it wrote with
`shoal job get ID`. A cluster on this machine to try things on: `shoal devstack`.
"""


# A lazy command's own docstring would have to be imported to be shown; these lines are what `--help` lists.
_ABOUT_JOBS = (
    ("submit:validate", "validate", "Check a job spec without a server."),
    ("jobs:describe", "describe", "Describe a job: what was asked, what became of it, and why."),
    ("jobs:list_jobs", "list", "List jobs, newest first."),
    ("jobs:executions", "executions", "List a job's executions."),
    ("jobs:history", "history", "Tell what happened to a job."),
    ("jobs:stop", "stop", "Stop a job."),
    ("logs:logs", "logs", "Print what a program wrote, or follow it."),
    ("get:get", "get", "Download a job's published results."),
)
_ABOUT_NODES = (
    ("describe", "Describe a node."),
    ("approve", "Let a node take work."),
    ("reject", "Give a node no more work."),
    ("delete", "Forget a node; it may register again."),
)


def build(version: str) -> App:
    """The whole command line."""
    app = App(
        name="shoal", help=_HELP, version=version, version_flags=["--version"], result_action="return_value"
    )
    job = App(name="job", help="Submit jobs and look at them.")
    node = App(name="node", help="Look at compute nodes and admit them.")
    docker = App(name="docker", help="Run a container without writing a spec.")
    wasm = App(name="wasm", help="Run a WebAssembly module without writing a spec.")
    for noun in (job, node, docker, wasm):
        app.command(noun)

    app.command("requester.cli.submit:submit", name="submit", help="Submit a job and wait for it.")
    job.command("requester.cli.submit:submit", name="run", help="Submit a job and wait for it (= submit).")
    for parent in (app, job):
        for target, name, text in _ABOUT_JOBS:
            parent.command(f"requester.cli.{target}", name=name, help=text)
    docker.command("requester.cli.run:docker_run", name="run", help="Run a container as a job.")
    wasm.command("requester.cli.run:wasm_run", name="run", help="Run a module as a job.")
    node.command(
        "requester.cli.nodes:list_nodes", name="list", help="List compute nodes with what they offer."
    )
    for verb, text in _ABOUT_NODES:
        node.command(f"requester.cli.nodes:{verb}", name=verb, help=text)
    app.command(
        "requester.cli.version:version", name="version", help="Print this client's and the server's version."
    )
    app.command("requester.cli.serve:serve", name="serve", help="Run a requester.")
    app.command(
        "requester.cli.devstack:devstack", name="devstack", help="Run a whole cluster on this machine."
    )
    return app


def main(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    from requester.cli.version import client_version

    if arguments in (["--version"], ["-V"]):
        print(client_version())
        return Exit.OK
    try:
        result = build(client_version())(arguments, exit_on_error=False, print_error=True)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Fault as fault:
        complain(fault.message, fault.hint)
        return code_of(fault)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be told there.
        sys.stdout = None
        return Exit.OK
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.ERROR
    except _usage_errors():
        return Exit.USAGE
    return result if isinstance(result, int) else Exit.OK


def _usage_errors() -> type[Exception]:
    from cyclopts import CycloptsError

    return CycloptsError
