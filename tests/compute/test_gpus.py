"""GPUs: what the makers' tools print, and how each device gets a number of its own."""

import json
import sys
from collections.abc import Sequence

import pytest

from compute import gpus
from compute.gpus import AMD, INTEL, NVIDIA, find_gpus, read_amd, read_intel, read_nvidia, with_memory
from protocol.nodes import Gpu

NVIDIA_SMI = "0, NVIDIA A100-SXM4-80GB, 81920, 00000000:07:00.0\n1, Tesla T4, 15360, 00000000:3B:00.0\n"
ROCM_5 = (
    '{"card0": {"PCI Bus": "0000:E7:00.0", "VRAM Total Memory (B)": "68702699520", '
    '"VRAM Total Used Memory (B)": "10960896", "Card series": "Instinct MI210", "Card model": "0x0c34", '
    '"Card vendor": "Advanced Micro Devices, Inc. [AMD/ATI]", "Card SKU": "D67301"}}'
)
ROCM_6 = """

WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

{"card1": {"PCI Bus": "0000:03:00.0", "VRAM Total Memory (B)": "21458059264", "VRAM Total Used Memory (B)": "27856896",
"Card Series": "Radeon RX 7900 XT", "Card Model": "0x744c", "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
"GFX Version": "gfx1100"}, "system": {"Driver version": "6.7.0"}}
"""
XPU_LIST = json.dumps(
    {
        "device_list": [
            {
                "device_function_type": "physical",
                "device_id": number,
                "device_name": "Intel Corporation Device 56c1 (rev 05)",
                "device_type": "GPU",
                "drm_device": f"/dev/dri/card{number + 1}",
                "pci_bdf_address": address,
                "vendor_name": "Intel(R) Corporation",
            }
            for number, address in enumerate(("0000:e9:00.0", "0000:ea:00.0"))
        ]
    }
)
XPU_DEVICE = (
    '{"device_id": 0, "memory_physical_size_byte": "5314183168", "memory_free_size_byte": "5287350272"}'
)


def test_nvidia() -> None:
    """What ``nvidia-smi`` lists are devices under its numbers; lines of another form are none."""
    assert read_nvidia(NVIDIA_SMI) == [
        Gpu(0, "NVIDIA A100-SXM4-80GB", NVIDIA, 81_920, "00000000:07:00.0"),
        Gpu(1, "Tesla T4", NVIDIA, 15_360, "00000000:3B:00.0"),
    ]
    assert read_nvidia("no devices were found\n1, T4, [N/A], 00000000:02:00.0\n") == [
        Gpu(1, "T4", NVIDIA, 0, "00000000:02:00.0")
    ]


@pytest.mark.parametrize(
    ("answer", "gpu"),
    [
        (ROCM_5, Gpu(0, "Instinct MI210", AMD, 65_520, "0000:e7:00.0")),
        (ROCM_6, Gpu(1, "Radeon RX 7900 XT", AMD, 20_464, "0000:03:00.0")),
    ],
    ids=["ROCm 5", "ROCm 6"],
)
def test_amd(answer: str, gpu: Gpu) -> None:
    """What ``rocm-smi`` prints is read in the spelling of either version, whatever it says before."""
    assert read_amd(answer) == [gpu]


def test_intel() -> None:
    """``xpu-smi`` lists devices, and tells the memory of each when it is asked."""
    first, second = read_intel(XPU_LIST)
    assert with_memory(first, XPU_DEVICE) == Gpu(
        0, "Intel Corporation Device 56c1 (rev 05)", INTEL, 5_068, "0000:e9:00.0"
    )
    assert second.pci_address == "0000:ea:00.0"
    assert with_memory(second, "Error: no such device").memory_mib == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{",
        "[]",
        "null",
        '{"card0": 5, "cardX": {}, "card": {}}',
        '{"device_list": [5, {}]}',
        "{}",
        "\0" * 9,
    ],
)
def test_what_tells_of_no_device(answer: str) -> None:
    """A tool that has nothing to tell, or breaks off, has no devices."""
    assert read_nvidia(answer) == read_amd(answer) == read_intel(answer) == []


async def test_devices_of_several_makers_have_numbers_of_their_own() -> None:
    """Where several makers count their devices from 0, no two have the same number; NVIDIA's keep theirs."""
    asked: list[Sequence[str]] = []

    async def ask(command: Sequence[str]) -> str:
        asked.append(command)
        if command[0] == "xpu-smi":
            return XPU_DEVICE if "--device" in command else XPU_LIST
        return {"nvidia-smi": NVIDIA_SMI, "rocm-smi": ROCM_5}[command[0]]

    found = await find_gpus(ask)

    assert [(gpu.index, gpu.vendor) for gpu in found] == [
        (0, NVIDIA),
        (1, NVIDIA),
        (2, AMD),
        (3, INTEL),
        (4, INTEL),
    ]
    assert found[3].memory_mib == 5_068
    assert ("xpu-smi", "discovery", "--json", "--device", "1") in asked


async def test_a_tool_that_fails_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that is not installed, ends with an error or does not end keeps no node from starting."""
    monkeypatch.setattr(gpus, "ANSWER_S", 0.2)
    python = sys.executable
    assert await gpus._ask(("no-such-tool",)) == ""
    assert await gpus._ask((python, "-c", "print('{}'); exit(1)")) == ""
    assert await gpus._ask((python, "-c", "import time; print('{}', flush=True); time.sleep(60)")) == ""
    monkeypatch.setattr(gpus, "ANSWER_S", 30)
    assert await gpus._ask((python, "-c", "print('{}')")) == "{}\n"
