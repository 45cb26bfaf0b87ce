"""What every bus promises, asked of each: see `protocol.bus`.

A bus's test inherits `BusContract` and supplies the fixture `buses`: two buses connected to one hub or server, whose log may
already hold entries of other jobs. Every key here is fresh, so a server may be shared by all tests.
"""

from tests.contracts.bus_log import LogContract
from tests.contracts.bus_messages import MessagesContract
from tests.contracts.bus_steps import (
    LIMIT_S,
    Buses,
    answering,
    append_one,
    arrived,
    collect,
    entry,
    fresh_key,
    fresh_subject,
    stored,
    take,
)
from tests.contracts.bus_store import StoreContract

__all__ = [
    "LIMIT_S",
    "BusContract",
    "Buses",
    "LogContract",
    "MessagesContract",
    "StoreContract",
    "answering",
    "append_one",
    "arrived",
    "collect",
    "entry",
    "fresh_key",
    "fresh_subject",
    "stored",
    "take",
]


class BusContract(LogContract, MessagesContract, StoreContract):
    """All promises of a bus."""
