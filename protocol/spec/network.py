"""What a task may reach, and at which ports it is reached.

Knows: the rules for network types, domains and ports. Must not know: how an engine makes a network.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final

import msgspec

from protocol.jobs import TCP, UDP, Network, Port
from protocol.spec.bounds import DOMAINS_MAX, PORTS_MAX, Path
from protocol.spec.faults import Findings, path_text, quoted
from protocol.spelling import near

TYPES: Final = ("Default", "None", "Host", "Full", "HTTP", "Bridge")
"""In the order of Bacalhau's numbers since 1.5; ``Full`` is an older name of ``Host``."""

PROTOCOLS: Final = (TCP, UDP)
WITH_PORTS: Final = ("Host", "Bridge")
STATIC_PORTS: Final = range(1024, 65_536)
TARGET_PORTS: Final = range(1, 65_536)
DOMAIN_MAX_CHARACTERS: Final = 255
"""A domain name's 253, with a dot on either side."""

_NAMES: Final = {name.lower(): name for name in TYPES}
_DOMAIN: Final = re.compile(
    r"\.?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_PORT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def type_from_number(value: Any) -> Any:
    """The name of a network type that is given as a number; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value in range(len(TYPES)):
        return TYPES[value]
    return value


def read_network(network: Network, path: Path, findings: Findings) -> Network:
    """A network in canonical form: type spelt properly, domains in lower case without those that others cover."""
    name = _NAMES.get(network.type.strip().lower() or "default")
    if name is None:
        message = f"{path_text((*path, 'Type'))} {quoted(network.type)} is not one of {', '.join(TYPES)}"
        findings.fault((*path, "Type"), message, near=near(network.type, TYPES))
        return network
    if name == "Full":
        findings.warn(f"{path_text(path)}.Type: Full is now called Host")
        name = "Host"
    ports = [_with_protocol(port) for port in network.ports]
    _check_ports(ports, name, (*path, "Ports"), findings)
    domains = _read_domains(network.domains, name, (*path, "Domains"), findings)
    return msgspec.structs.replace(network, type=name, domains=domains, ports=ports)


def _with_protocol(port: Port) -> Port:
    """A port with its protocol in lower case; an empty one is none."""
    if port.protocol is msgspec.UNSET:
        return port
    return msgspec.structs.replace(port, protocol=port.protocol.strip().lower() or msgspec.UNSET)


def _read_domains(domains: list[str], type: str, path: Path, findings: Findings) -> list[str]:
    if domains and type != "HTTP":
        findings.fault(path, f"{path_text(path)} only has a meaning with Type HTTP, and Type is {type}")
    if type == "HTTP" and not domains:
        findings.fault(path, f"{path_text(path)} is missing: Type HTTP reaches only what is named there")
    if len(domains) > DOMAINS_MAX:
        findings.fault(path, f"{path_text(path)} has more than {DOMAINS_MAX} entries")
        return domains
    lower = [domain.strip().lower() for domain in domains]
    wrong = [index for index, domain in enumerate(lower) if not _is_domain(domain)]
    for index in wrong:
        here = (*path, index)
        findings.fault(here, f"{path_text(here)} {quoted(lower[index])} is not a domain or an address")
    return domains if wrong else _uncovered(lower)


def _is_domain(text: str) -> bool:
    return len(text) <= DOMAIN_MAX_CHARACTERS and (_DOMAIN.fullmatch(text) is not None or _is_address(text))


def _uncovered(domains: Iterable[str]) -> list[str]:
    """Without repetitions, and without what ``.x.com`` covers: ``x.com`` itself and all below it."""
    once = list(dict.fromkeys(domains))
    wide = {domain for domain in once if domain.startswith(".")}
    return [domain for domain in once if not (wide & _above(domain))]


def _above(domain: str) -> set[str]:
    """The wide forms that cover a domain, itself not counted."""
    labels = domain.lstrip(".").split(".")
    covering = {"." + ".".join(labels[index:]) for index in range(len(labels))}
    return covering - {domain}


def _check_ports(ports: list[Port], type: str, path: Path, findings: Findings) -> None:
    if ports and type not in WITH_PORTS:
        findings.fault(path, f"{path_text(path)} needs Type Host or Bridge, and Type is {type}")
    if len(ports) > PORTS_MAX:
        findings.fault(path, f"{path_text(path)} has more than {PORTS_MAX} entries")
        return
    names: set[str] = set()
    static: set[tuple[int, str]] = set()
    for index, port in enumerate(ports):
        here = (*path, index)
        _check_port(port, type, here, findings)
        if port.name in names:
            findings.fault(
                (*here, "Name"), f"{path_text((*here, 'Name'))} {quoted(port.name)} is taken already"
            )
        if port.static and (port.static, port.transport) in static:
            findings.fault(
                (*here, "Static"), f"{path_text((*here, 'Static'))} {port.static} is taken already"
            )
        names.add(port.name)
        static.add((port.static, port.transport))


def _check_port(port: Port, type: str, path: Path, findings: Findings) -> None:
    def wrong(name: str, text: str) -> None:
        findings.fault((*path, name), f"{path_text((*path, name))} {text}")

    if not port.name:
        wrong("Name", "is missing")
    elif not _PORT_NAME.fullmatch(port.name):
        wrong("Name", f'{quoted(port.name)} must be letters, digits and "_", as in an environment variable')
    if port.static and port.static not in STATIC_PORTS:
        wrong("Static", f"{port.static} is not between {STATIC_PORTS[0]} and {STATIC_PORTS[-1]}")
    if port.target and port.target not in TARGET_PORTS:
        wrong("Target", f"{port.target} is not between {TARGET_PORTS[0]} and {TARGET_PORTS[-1]}")
    if port.transport not in PROTOCOLS:
        here = (*path, "Protocol")
        message = f"{path_text(here)} {quoted(port.transport)} is not one of {', '.join(PROTOCOLS)}"
        findings.fault(here, message, near=near(port.transport, PROTOCOLS))
    if port.target and type == "Host":
        wrong("Target", "only has a meaning with Type Bridge: on the host's network there is one port")
    if port.host_network and type == "Host":
        wrong("HostNetwork", "only has a meaning with Type Bridge")
    elif port.host_network and not _is_address(port.host_network):
        wrong("HostNetwork", f"{quoted(port.host_network)} is not an address")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
