"""The addresses of NATS servers as people write them: one or several, perhaps with a user and a password.

Knows: their form. Must not know: connections.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from protocol.errors import Invalid

PORT: Final = 4222


def addresses(url: str) -> list[str]:
    """The addresses in `url`, which are separated by commas. Raises `Invalid` if there is none."""
    found = [address.strip() for address in url.split(",") if address.strip()]
    if not found:
        raise Invalid("no address of a NATS server is given", hint="Name one, such as nats://127.0.0.1:4222.")
    return found


def user_in(addresses: Sequence[str]) -> tuple[str, str] | None:
    """User and password of the first address that has them."""
    for address in addresses:
        user, found, _ = address.rpartition("://")[2].rpartition("@")
        if found:
            name, _, password = user.partition(":")
            return unquote(name), unquote(password)
    return None


def without_passwords(addresses: Sequence[str]) -> str:
    """The addresses as they may be shown and logged."""
    shown = []
    for address in addresses:
        try:
            parts = urlsplit(address if "://" in address else f"nats://{address}")
            shown.append(f"{parts.hostname}:{parts.port or PORT}")
        except ValueError:
            shown.append(address.rpartition("@")[2])
    return ", ".join(shown) or "(no address)"
