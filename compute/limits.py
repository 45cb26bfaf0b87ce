"""How long things may take on a node.

Knows: the limits and their defaults. Must not know: who keeps them. Settings are read before anything heavy is loaded.
"""

from msgspec import Struct


class Limits(Struct, frozen=True):
    """How long things may take on this node, in seconds: staging unless the order says, within it finding out what one
    input is (to list a million objects takes half of that), asking a program to end, and asking an engine after a restart
    for a program.
    """

    staging_s: float = 3600.0
    resolving_s: float = 300.0
    publishing_s: float = 3600.0
    stop_grace_s: float = 10.0
    recovering_s: float = 60.0
