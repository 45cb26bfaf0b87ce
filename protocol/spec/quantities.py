"""Amounts as people write them: cores, bytes, devices and durations.

Knows: the grammars. CPU is a Kubernetes quantity (``500m``, ``0.5``, ``2``); memory and disk are read as go-humanize does
(``512Mb`` = 512,000,000, ``1Gi`` = 1,073,741,824, any case, blanks ignored); GPU is a whole number; durations are Go's
(``1m30s``) with days added, or plain seconds. Must not know: where an amount stands. Everything is exact arithmetic; what
cannot be read raises `Invalid`.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final, TypeVar

from protocol.errors import Invalid
from protocol.jobs import Amounts, Resources
from protocol.spec.bounds import BYTES_MAX, CPU_MAX, GPU_MAX, NUMBER_MAX_CHARACTERS, SECONDS_MAX

N = TypeVar("N", int, float)

JOB_DEFAULT: Final = Amounts(cpu=0.5, memory_bytes=512_000_000)
"""What a task gets that asks for nothing: 500m and 512Mb."""

_CPU_SUFFIXES: Final[dict[str, Decimal]] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_BYTE_STEPS: Final = "kmgtpe"
_BYTE_SUFFIXES: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{step + end: 1000**power for power, step in enumerate(_BYTE_STEPS, 1) for end in ("", "b")},
    **{step + end: 1024**power for power, step in enumerate(_BYTE_STEPS, 1) for end in ("i", "ib")},
}
_SECOND_UNITS: Final[dict[str, Decimal]] = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}

_NUMBER: Final = r"[0-9]+\.?[0-9]*|\.[0-9]+"
_CPU: Final = re.compile(rf"\+?({_NUMBER})(?:([eE][+-]?[0-9]{{1,3}})|([numkMGTPE]|[KMGTPE]i)?)")
_BYTES: Final = re.compile(rf"({_NUMBER})([a-z]*)")
_DURATION: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h|d)")


def parse_cpu(text: str) -> float:
    """Cores. Raises `Invalid`."""
    plain = _plain(text, "CPU", "500m, 0.5 or 2")
    found = _CPU.fullmatch(plain)
    if not found:
        raise _unreadable(text, "CPU", "500m, 0.5 or 2")
    number = Decimal(found[1] + (found[2] or "")) * _CPU_SUFFIXES[found[3] or ""]
    if number > CPU_MAX:
        near = f" Did you mean {plain[:-1]}m?" if plain.endswith("M") else ""
        raise Invalid(f"{text.strip()} is more than {CPU_MAX:,} cores", hint=f"CPU counts cores.{near}")
    return float(number)


def parse_bytes(text: str) -> int:
    """Bytes, rounded down to a whole number. Raises `Invalid`."""
    plain = _plain(text, "a size", "512Mb or 1Gi").lower().replace(",", "")
    found = _BYTES.fullmatch(plain)
    if not found:
        raise _unreadable(text, "a size", "512Mb or 1Gi")
    factor = _BYTE_SUFFIXES.get(found[2])
    if factor is None:
        raise Invalid(
            f'"{text.strip()}" has the unknown unit "{found[2]}"',
            hint="Units are b, kb, ki, mb, mi, gb, gi …",
        )
    number = int(Decimal(found[1]) * factor)
    if number > BYTES_MAX:
        raise Invalid(
            f"{text.strip()} is more than any machine has", hint="Write a size such as 512Mb or 1Gi."
        )
    return number


def parse_gpu(text: str) -> int:
    """Devices. Raises `Invalid`."""
    plain = _plain(text, "GPU", "1")
    if not (plain.isascii() and plain.isdecimal()):
        raise _unreadable(text, "GPU", "1, a whole number of devices")
    if int(plain) > GPU_MAX:
        raise Invalid(f"{plain} GPUs are more than {GPU_MAX:,}")
    return int(plain)


def parse_duration_s(text: str) -> float:
    """Seconds, from ``1m30s``, ``5m``, ``2h``, ``1d``, ``0`` or plain seconds. Raises `Invalid`."""
    plain = _plain(text, "a duration", "90, 5m or 1m30s").removeprefix("+")
    if re.fullmatch(_NUMBER, plain):
        seconds = Decimal(plain)
    else:
        parts = list(_DURATION.finditer(plain))
        if not parts or "".join(part[0] for part in parts) != plain:
            raise _unreadable(text, "a duration", "90, 5m or 1m30s")
        seconds = sum((Decimal(part[1]) * _SECOND_UNITS[part[2]] for part in parts), Decimal(0))
    if seconds > SECONDS_MAX:
        raise Invalid(f"{text.strip()} is longer than ten years", hint="Use 0 for no limit.")
    return float(seconds)


def amounts(resources: Resources, default: Amounts = JOB_DEFAULT) -> Amounts:
    """A task's wants as numbers; what is empty comes from `default`. Raises `Invalid`, naming the field."""
    return Amounts(
        cpu=_field("CPU", resources.cpu, parse_cpu, default.cpu),
        memory_bytes=_field("Memory", resources.memory, parse_bytes, default.memory_bytes),
        disk_bytes=_field("Disk", resources.disk, parse_bytes, default.disk_bytes),
        gpu=_field("GPU", resources.gpu, parse_gpu, default.gpu),
    )


def format_bytes(size_bytes: int) -> str:
    """A size as people read it, in powers of 1024: ``17 B``, ``1.5 KiB``, ``512 MiB``."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for step in _BYTE_STEPS:
        size /= 1024
        if size < 1023.95 or step == _BYTE_STEPS[-1]:
            return f"{size:.1f}".removesuffix(".0") + f" {step.upper()}iB"
    raise AssertionError(size_bytes)


def _field(name: str, text: str, parse: Callable[[str], N], default: N) -> N:
    if not text.strip():
        return default
    try:
        return parse(text)
    except Invalid as fault:
        raise Invalid(f"Resources.{name}: {fault.message}", hint=fault.hint) from fault


def _plain(text: str, what: str, example: str) -> str:
    """The text without blanks. A length is set before anything is computed with it."""
    plain = "".join(text.split())
    if not plain or len(plain) > NUMBER_MAX_CHARACTERS:
        raise _unreadable(text, what, example)
    if plain.endswith("%"):
        raise Invalid(
            f"{plain} is a percentage, which only a node's own capacity can be",
            hint=f"Write {what} like {example}.",
        )
    return plain


def _unreadable(text: str, what: str, example: str) -> Invalid:
    shown = text.strip()
    shown = shown if len(shown) <= 40 else shown[:40] + "…"
    negative = " (it cannot be negative)" if shown.startswith("-") else ""
    return Invalid(f'"{shown}" cannot be read as {what}{negative}', hint=f"Write {what} like {example}.")
