"""``shoal agent …``: what the requester that is called says of itself.

Knows: its calls. Must not know: what they answer.
"""

from requester.cli.endpoint import Api
from requester.cli.exits import Exit
from requester.cli.output import ObjectFormat, print_object
from requester.client import AGENT


def alive(*, how: ObjectFormat = ObjectFormat(), api: Api = Api()) -> int:
    """Check whether the requester answers."""
    return _told("alive", how, api)


def version(*, how: ObjectFormat = ObjectFormat(), api: Api = Api()) -> int:
    """Print the requester's version, and the version of Bacalhau that it is compatible with."""
    return _told("version", how, api)


def node(*, how: ObjectFormat = ObjectFormat(), api: Api = Api()) -> int:
    """Print who the requester is."""
    return _told("node", how, api)


def config(*, how: ObjectFormat = ObjectFormat(), api: Api = Api()) -> int:
    """Print the requester's settings, without secrets."""
    return _told("config", how, api)


def _told(what: str, how: ObjectFormat, api: Api) -> int:
    with api.client() as client:
        print_object(client.call("GET", f"{AGENT}/{what}"), how.output or "yaml", how.pretty)
    return Exit.OK
