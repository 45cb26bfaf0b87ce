"""``shoal job rerun``: a job once more, and waiting for it.

Knows: what is asked of a job that is there. Must not know: how it is waited for. Not beside those that only look at jobs:
whoever waits loads all the rules of specs.
"""

from typing import Annotated

from cyclopts import Parameter

from requester.cli.endpoint import Api
from requester.cli.exits import Exit
from requester.cli.flags import JobRef, Namespace, Version
from requester.cli.output import print_object
from requester.cli.views import as_spec
from requester.cli.waiting import Waiting, wait_for


def rerun(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    reason: Annotated[str, Parameter(help="Why, for the job's history.")] = "",
    how: Waiting = Waiting(),
    api: Api = Api(),
) -> int:
    """Run a job once more: a new version with the spec of the newest, or of --version."""
    with api.client() as client:
        if how.dry_run:
            print_object(as_spec(client.job(job, namespace=namespace, version=version)["Job"]), "yaml", False)
            return Exit.OK
        answer = client.rerun(job, version=version, reason=reason, namespace=namespace)
        view = client.job(answer["JobID"], namespace=namespace)["Job"]
        published = bool(view["Tasks"][0]["Publisher"].get("Type"))
        return wait_for(client, answer["JobID"], how, published=published)
