"""What a process tells its storage drivers, in one value.

Knows: the settings, their units and defaults. Must not know: where they were written (flags, files, environment).
"""

from pathlib import Path

from msgspec import Struct, field

from storage.addresses import AddressPolicy
from storage.credentials import Credential


class LocalPublishing(Struct, frozen=True):
    """The `local` publisher: archives in `folder`, served by this process.

    `address` is what others are told: an address or a host name, or ``local`` (127.0.0.1), ``private`` or ``public`` for the
    machine's own. On a loopback address the server listens there alone, else on all. `port` 0 takes any free one. A link is
    good for `link_s` seconds. An archive is kept for `keep_s` (0: for ever), less where the disk needs the room.
    """

    folder: Path
    address: str = "127.0.0.1"
    port: int = 6001
    link_s: float = 3600.0
    keep_s: float = 30 * 86_400.0


class StorageSettings(Struct, frozen=True):
    """Everything the drivers need to know of their process.

    - `folder`: the drivers' own, for what is on its way (archives being packed);
    - `s3_endpoint`, `s3_region`, `s3_profile`, `s3_addressing`: for S3 params that name none; credentials come from the
      AWS chain; `s3_profiles`: the profiles that jobs may name; `s3_requester_pays`, `s3_etags_are_md5`: see
      `storage.s3.params.S3Settings`;
    - `ipfs_connect`: multiaddr of a Kubo RPC API (``/ip4/127.0.0.1/tcp/5001``), empty for none;
    - `ipfs_gateways`: trustless gateways that CIDs are read through where there is no Kubo, each block verified;
    - `local_only`: inputs that are not on this machine already are refused;
    - `allowed_paths`: what the `local` source may mount: globs with ``:ro`` (the default) or ``:rw``;
    - `local_publishing`: None if this process does not publish on its own;
    - `connect_s`, `silence_s`: how long a server may take to accept, and to say anything more, in seconds;
    - `max_bytes`: the most one input may have, None for as much as the disk; `max_entries`: files and folders in it;
    - `attempts`: how often a fetch is tried when a server is ill, `redirects`: how many are followed;
    - `url_proxies`: whether URLs are asked for through the proxies that the environment names;
    - `url_credentials`: what the params of a URL may refer to by name;
    - `addresses`: where the words of a job may lead (URLs, endpoints); what is named here itself is always allowed.
    """

    folder: Path
    s3_endpoint: str = ""
    s3_region: str = ""
    s3_profile: str = ""
    s3_profiles: tuple[str, ...] = ()
    s3_requester_pays: bool = False
    s3_addressing: str = ""
    s3_etags_are_md5: bool = True
    ipfs_connect: str = ""
    ipfs_gateways: tuple[str, ...] = ()
    local_only: bool = False
    allowed_paths: tuple[str, ...] = ()
    local_publishing: LocalPublishing | None = None
    connect_s: float = 10.0
    silence_s: float = 60.0
    max_bytes: int | None = None
    max_entries: int = 1_000_000
    attempts: int = 4
    redirects: int = 10
    url_proxies: bool = True
    url_credentials: dict[str, Credential] = field(default_factory=dict)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
