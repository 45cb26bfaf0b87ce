"""The credentials for registries, as ``docker login`` leaves them.

Knows: Docker's configuration file. Must not know: any registry or daemon.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from protocol.spec.images import HUB, HUB_NAMES


def credentials_for(registry: str, config: Mapping[str, Any]) -> dict[str, str] | None:
    """What ``docker login`` left for a registry in `config`, the content of ``config.json``; None if nothing.

    An entry that cannot be read is as good as none: the registry will say what it wants.
    """
    logins = config.get("auths")
    for key, login in logins.items() if isinstance(logins, Mapping) else ():
        host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if (HUB if host in HUB_NAMES else host) == registry and isinstance(login, Mapping):
            return _login(login, registry)
    return None


def _login(login: Mapping[str, Any], registry: str) -> dict[str, str] | None:
    if token := login.get("identitytoken"):
        return {"identitytoken": str(token), "serveraddress": registry}
    user, password = str(login.get("username", "")), str(login.get("password", ""))
    if packed := login.get("auth"):
        try:
            user, _, password = b64decode(str(packed), validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return None
    return {"username": user, "password": password, "serveraddress": registry} if user else None


def has_credential_program(registry: str, config: Mapping[str, Any]) -> bool:
    """Whether this registry's credentials are kept by a program of the desktop, which a node does not run."""
    programs = config.get("credHelpers")
    return bool(config.get("credsStore")) or (isinstance(programs, Mapping) and registry in programs)
