"""``get --ipfs-swarm-addrs``: ask our Kubo to connect to the nodes that hold a result before it is fetched.

Knows: one call of Kubo's RPC API. Must not know: results. Bacalhau's own flags of that name are from the days when every
client was an IPFS node; ours is the Kubo that it is told of, so a connection is asked of that one, and a swarm's key lies in
that one's repository.
"""

import http.client
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from requester.cli.exits import tell
from requester.cli.output import clean
from storage.multiaddr import parse_endpoint

CONNECT_S: Final = 15.0


def join(kubo: str, addresses: Iterable[str], key: str) -> None:
    """Connect the Kubo at `kubo` to each address. What does not work is told and no failure: it may find a way itself."""
    if key:
        there = "" if Path(key).expanduser().is_file() else " (and there is no such file)"
        tell(
            f"Warning: {clean(key)}{there} is not used: a swarm's key lies as swarm.key in the repository of the Kubo at "
            f"{kubo}"
        )
    for address in addresses:
        wrong = _connect(kubo, address)
        if wrong:
            tell(f"Warning: Kubo did not connect to {clean(address)}: {clean(wrong)}")


def _connect(kubo: str, address: str) -> str:
    """Why the connection was not made, or an empty text. Raises `Invalid` if `kubo` is no address."""
    url = urlsplit(parse_endpoint(kubo).url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=CONNECT_S)
    try:
        connection.request("POST", f"{url.path}/api/v0/swarm/connect?arg={quote(address, safe='')}")
        response = connection.getresponse()
        data = response.read(10_000)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    if response.status == 200:
        return ""
    try:
        return str(json.loads(data)["Message"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {response.status}"
