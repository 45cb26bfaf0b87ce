"""Real servers on loopback, each an async context manager: NATS, S3, Kubo, a container registry, the Docker daemon.

Knows command lines, ports and how each server says that it is ready: a module a server. Every one keeps its data and its log
in the folder it is given, listens on free ports of loopback, and is ended by its own handle when the context is left.
`Missing` says how to get a program that is not there; `Failed` quotes the log of one that did not start. Tests, devstack,
demo and benchmarks all start their servers here. (`docker_daemon` is in `deploy.docker` and named here as well.)
"""

from deploy.docker import DockerDaemon, docker_daemon
from deploy.processes import Failed
from deploy.programs import Missing
from deploy.servers.images import Registry, registry
from deploy.servers.ipfs import Kubo, kubo
from deploy.servers.nats import NATS_CONFIG, NatsServer, nats_server
from deploy.servers.s3 import S3Server, s3_server
from deploy.servers.server import LOOPBACK, Server

__all__ = [
    "LOOPBACK",
    "NATS_CONFIG",
    "DockerDaemon",
    "Failed",
    "Kubo",
    "Missing",
    "NatsServer",
    "Registry",
    "S3Server",
    "Server",
    "docker_daemon",
    "kubo",
    "nats_server",
    "registry",
    "s3_server",
]
