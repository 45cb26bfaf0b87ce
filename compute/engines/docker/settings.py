"""What a node's owner decides about containers.

Knows: the choices and their defaults, each with its reason. Must not know: how they are applied.
"""

from typing import Final

from msgspec import Struct, field

from storage.addresses import AddressPolicy

CAPABILITIES: Final = (
    "CHOWN",  # root in the image gives its files to others
    "DAC_OVERRIDE",  # ... and writes outputs into folders of the node's user
    "FOWNER",
    "FSETID",
    "SETUID",  # servers and package tools step down to a user of their own
    "SETGID",
    "KILL",  # ... and end their children that did
    "NET_BIND_SERVICE",
)
"""What a program that is root in its container may do. Of Docker's own list these are left out: AUDIT_WRITE, MKNOD,
NET_RAW (forged packets on the bridge), SETFCAP, SETPCAP and SYS_CHROOT, which batch programs do not need."""

MIB: Final = 1024 * 1024


class DockerSettings(Struct, frozen=True):
    """How this node runs containers.

    `host` is written as in ``DOCKER_HOST``; empty means that variable, or the first socket in the usual places. It must be a
    daemon on this machine: inputs and outputs are mounted from its file system.

    `networking` False gives no container a network: jobs that ask for one are refused. `addresses` says where the domains
    may lead that a job of Network.Type HTTP names. `log_driver` must be one whose logs can be read back;
    ``local`` keeps bytes as they were written, where ``json-file`` replaces what is not UTF-8. Of a container's output at
    least the newest `log_bytes` are kept, and at most twice that.

    `answer_s` bounds every call but pulls; `reconnect_s` is for how long a daemon that went away is waited for.
    `labels` are put on every container beside our own.
    """

    host: str = ""
    networking: bool = True
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    pids: int = 2048
    capabilities: tuple[str, ...] = CAPABILITIES
    log_driver: str = "local"
    log_bytes: int = 128 * MIB
    answer_s: float = 60
    reconnect_s: float = 60
    labels: dict[str, str] = field(default_factory=dict)
