"""What a node is called.

Knows: where its name may stand. Must not know: what a node is made of.
"""

from uuid import uuid4

from compute.settings import Settings
from protocol.errors import Invalid
from protocol.ids import NodeId, is_token
from protocol.nats.credentials import name_of


def node_id(settings: Settings) -> NodeId:
    """The node's name: the one it was given, by itself or with its credentials, else one that was made once for its data
    folder. Raises `Invalid`, and what credentials that cannot be read raise."""
    if name := name_of(settings.nats_credentials, settings.name):
        if not is_token(name):
            raise Invalid(f"{name!r} cannot name a node", hint="Use 1 to 64 letters, digits, '_' or '-'.")
        return NodeId(name)
    path = settings.data_dir / "node-id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(f"n-{uuid4()}")
    return NodeId(path.read_text().strip())
