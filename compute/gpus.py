"""Which GPUs this machine has, by the tools of those who make them.

Knows: what to ask each tool, how its answer reads, and under which number a node knows each device. Must not know: who gets
one.

    nvidia-smi   one line of commas a device: index, name, MiB, PCI address
    rocm-smi     a JSON object with ``card0``, ``card1``, … (and ``system``); ROCm 5 and 6 spell its keys in different cases
    xpu-smi      a JSON list of devices, and an object for each, which has its memory

A tool that is not there, fails, or answers something else has no devices: the node begins without them. How the outputs look
is known from what users of the tools have published; nothing here was run on such a machine (docs/adr/0055).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from protocol.nodes import Gpu

ANSWER_S: Final = 10.0
ANSWER_MAX_BYTES: Final = 1 << 20
NVIDIA: Final = "NVIDIA"
AMD: Final = "AMD/ATI"
INTEL: Final = "Intel"
"""Bacalhau's names of the makers."""

_NVIDIA_SMI: Final = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,pci.bus_id",
    "--format=csv,noheader,nounits",
)
_ROCM_SMI: Final = ("rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "vram", "--json")
_XPU_SMI: Final = ("xpu-smi", "discovery", "--json")
_MEBI: Final = 1 << 20

Ask = Callable[[Sequence[str]], Awaitable[str]]
"""Run a tool with its arguments; what it printed, empty if there is no such tool or it failed."""


async def find_gpus(ask: Ask | None = None) -> list[Gpu]:
    """All devices, each with a number of its own on this machine. `ask` is for machines that have none."""
    ask = ask or _ask
    nvidia, amd, intel = await asyncio.gather(_of_nvidia(ask), _of_amd(ask), _of_intel(ask))
    return numbered((nvidia, amd, intel))


async def _of_nvidia(ask: Ask) -> list[Gpu]:
    return read_nvidia(await ask(_NVIDIA_SMI))


async def _of_amd(ask: Ask) -> list[Gpu]:
    return read_amd(await ask(_ROCM_SMI))


async def _of_intel(ask: Ask) -> list[Gpu]:
    listed = read_intel(await ask(_XPU_SMI))
    return [with_memory(each, await ask((*_XPU_SMI, "--device", str(each.index)))) for each in listed]


def numbered(found: Iterable[Sequence[Gpu]]) -> list[Gpu]:
    """The devices of several makers, who all count from 0: who comes first keeps the number, another one gets the next.

    So NVIDIA's come first: Docker knows those by their number, the others by their PCI address.
    """
    taken: dict[int, Gpu] = {}
    for gpu in (gpu for gpus in found for gpu in sorted(gpus, key=lambda each: each.index)):
        index = gpu.index if gpu.index not in taken else max(taken) + 1
        taken[index] = msgspec.structs.replace(gpu, index=index)
    return [taken[index] for index in sorted(taken)]


def read_nvidia(listed: str) -> list[Gpu]:
    """The devices in ``nvidia-smi``'s list; a line of another form is no device."""
    gpus = []
    for line in listed.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdecimal():
            memory = int(parts[2]) if parts[2].isdecimal() else 0
            gpus.append(Gpu(int(parts[0]), parts[1], NVIDIA, memory, parts[3]))
    return gpus


def read_amd(answer: str) -> list[Gpu]:
    """The devices in ``rocm-smi``'s answer, before which there may be lines of warning."""
    gpus = []
    for name, card in _object(answer[max(answer.find("{"), 0) :]).items():
        number = name.removeprefix("card")
        if number == name or not number.isdecimal() or not isinstance(card, dict):
            continue
        said = {str(key).lower(): str(value) for key, value in card.items()}
        series = said.get("card series", "") or said.get("device name", "")
        gpu = Gpu(
            int(number),
            series or "AMD GPU",
            AMD,
            _mebibytes(said.get("vram total memory (b)", "")),
            said.get("pci bus", "").partition(" ")[0].lower(),
        )
        gpus.append(gpu)
    return gpus


def read_intel(answer: str) -> list[Gpu]:
    """The devices in ``xpu-smi``'s list, which tells no memory."""
    devices = _object(answer).get("device_list")
    return [
        Gpu(number, str(each.get("device_name", "")), INTEL, 0, str(each.get("pci_bdf_address", "")).lower())
        for each in (devices if isinstance(devices, list) else [])
        if isinstance(each, dict)
        and isinstance(number := each.get("device_id"), int)
        and each.get("device_type", "GPU") == "GPU"
    ]


def with_memory(gpu: Gpu, answer: str) -> Gpu:
    """A device with the memory that ``xpu-smi`` tells when it is asked for it alone."""
    memory = _mebibytes(str(_object(answer).get("memory_physical_size_byte", "")))
    return msgspec.structs.replace(gpu, memory_mib=memory)


def _mebibytes(size_bytes: str) -> int:
    return int(size_bytes) // _MEBI if size_bytes.isdecimal() and len(size_bytes) < 20 else 0


def _object(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


async def _ask(command: Sequence[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(ANSWER_S):
            answer, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return answer[:ANSWER_MAX_BYTES].decode(errors="replace") if process.returncode == 0 else ""
