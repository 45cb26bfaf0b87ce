"""Whether a job names a host in its ``Network.Domains``.

Knows: what a domain in that list means. Must not know: who asks, or how.
"""

from collections.abc import Sequence

from storage.addresses import plain_host


def named(host: str, domains: Sequence[str]) -> bool:
    """Whether a job that names these domains may reach a host: ``.x.com`` means x.com and all below it, others themselves
    alone."""
    name = plain_host(host)
    for each in domains:
        domain = each.rstrip(".")
        if name == domain.removeprefix(".") or (domain.startswith(".") and name.endswith(domain)):
            return True
    return False
