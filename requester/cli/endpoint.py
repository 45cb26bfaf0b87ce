"""Which requester a command talks to: flags, then ``-c``, environment and files, then the profile that is selected, then the
default.

Knows: the flags, variables and keys of Bacalhau's clients and our own. Must not know: what is called there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from protocol.config import Config, config_files, read_config
from protocol.errors import Invalid
from requester.cli.profile_files import API_PORT, Profiles, endpoint_of, profiles_in
from requester.client import Client, Endpoint

HOST: Final = ("API.Host", "Node.ClientAPI.Host")
PORT: Final = ("API.Port", "Node.ClientAPI.Port")
TLS: Final = ("API.TLS.UseTLS", "Node.ClientAPI.ClientTLS.UseTLS")
INSECURE: Final = ("API.TLS.Insecure", "Node.ClientAPI.ClientTLS.Insecure")
IPFS: Final = (
    "ResultDownloaders.Types.IPFS.Endpoint",
    "InputSources.Types.IPFS.Endpoint",
    "Node.IPFS.Connect",
)
IPFS_GATEWAYS: Final = ("ResultDownloaders.Types.IPFS.Gateways", "InputSources.Types.IPFS.Gateways")
UPLOADS: Final = ("Uploads.To",)
PROFILE: Final = "Profile"
KEYS: Final = (
    PROFILE,
    *UPLOADS,
    *HOST,
    *PORT,
    *TLS,
    *INSECURE,
    *IPFS,
    *IPFS_GATEWAYS,
    "Node.IPFS.SwarmAddresses",
    "Node.IPFS.SwarmKeyPath",
)
ANY_ADDRESS: Final = ("0.0.0.0", "::", "[::]")
"""Where a listener listens; no address to call."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Api:
    """Flags of every command that talks to a requester."""

    api_host: Annotated[str, Parameter(help="Address of the requester's API (BACALHAU_API_HOST).")] = ""
    api_port: Annotated[int, Parameter(help="Port of the requester's API (BACALHAU_API_PORT).")] = 0
    config: Annotated[
        list[str], Parameter(alias="-c", help="A YAML file, or Key=Value; repeatable.", negative="")
    ] = None  # type: ignore[assignment]
    profile: Annotated[str, Parameter(help="The cluster of a profile (BACALHAU_PROFILE).")] = ""
    data_dir: Annotated[str, Parameter(show=False)] = ""
    log_level: Annotated[str, Parameter(show=False)] = ""

    def settings(self, **flags: str | list[str]) -> Config:
        """All settings of a client; `flags` are keys (underscores for dots) that the command has flags for."""
        return read_config(
            flags={
                "API.Host": self.api_host,
                "API.Port": self.api_port or None,
                PROFILE: self.profile,
                **{key.replace("_", "."): value for key, value in flags.items()},
            },
            given=self.config or [],
            environ=os.environ,
            files=config_files(os.environ, Path.cwd()),
            keys=KEYS,
        )

    def endpoint(self) -> Endpoint:
        """Where to call: the address or the profile that the strongest place names; where both are named, the address.

        Raises `Invalid` for a port that is none, and what reading a profile raises.
        """
        settings = self.settings()
        host = settings.text(*HOST, default=ANY_ADDRESS[0])
        port = settings.number(*PORT, default=API_PORT, most=65_535)
        found = settings.find(*HOST, *PORT, PROFILE)
        if found is not None and found.key.lower() == PROFILE.lower():
            return self._of_profile(settings.text(PROFILE))
        # A file that only says where a requester listens names no other one than the default.
        if port == API_PORT and host in ANY_ADDRESS and (selected := self._profiles().selected()):
            return self._of_profile(selected)
        if port == 0:
            raise Invalid("the API has no port 0", hint="Give --api-port, or BACALHAU_API_PORT.")
        tls = host.startswith("https://") or settings.flag(*TLS)
        host = host.removeprefix("https://").removeprefix("http://").rstrip("/")
        return Endpoint(
            host="127.0.0.1" if host in ANY_ADDRESS else host,
            port=port,
            tls=tls,
            verify=not settings.flag(*INSECURE),
        )

    def _of_profile(self, name: str) -> Endpoint:
        return endpoint_of(self._profiles().read(name))

    def _profiles(self) -> Profiles:
        return profiles_in(self.data_dir, os.environ)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for the length of a command."""
        client = Client(self.endpoint())
        try:
            yield client
        finally:
            client.close()
