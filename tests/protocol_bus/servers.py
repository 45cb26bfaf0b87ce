"""A NATS cluster for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.keyring import Keyring
from deploy.processes import free_ports
from deploy.servers import NatsServer, nats_server

Cluster = list[NatsServer]


@asynccontextmanager
async def nats_cluster(folder: Path, size: int = 3) -> AsyncIterator[Cluster]:
    """Servers from nats.conf, with the cluster block that it shows, on loopback."""
    ports = free_ports(size)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    Keyring.create(folder / "keys.json")
    contexts = []
    for number, port in enumerate(ports):
        block = f'cluster {{ name: "shoal", listen: "127.0.0.1:{port}", routes: [{routes}] }}'
        contexts.append(
            nats_server(
                folder / f"nats-{number}",
                config=f'server_name: "nats-{number}"\n{block}',
                keys=folder / "keys.json",
            )
        )
    # Together: none of them is ready alone.
    started = await asyncio.gather(*(context.__aenter__() for context in contexts))
    try:
        yield started
    finally:
        await asyncio.gather(*(context.__aexit__(None, None, None) for context in contexts))
