"""Amounts as people write them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from protocol.jobs import Amounts, Resources
from protocol.spec.bounds import BYTES_MAX
from protocol.spec.quantities import (
    JOB_DEFAULT,
    amounts,
    format_bytes,
    parse_bytes,
    parse_cpu,
    parse_duration_s,
    parse_gpu,
)

PARSERS: list[Callable[[str], float]] = [parse_cpu, parse_bytes, parse_gpu, parse_duration_s]


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("500m", 0.5),
        ("0.5", 0.5),
        (".5", 0.5),
        ("2", 2.0),
        (" 2 ", 2.0),
        ("+2", 2.0),
        ("1e3", 1000.0),
        ("1E-1", 0.1),
        ("1k", 1000.0),
        ("1Ki", 1024.0),
        ("100u", 0.0001),
        ("1000000n", 0.001),
        ("0", 0.0),
    ],
)
def test_cpu_is_read_as_a_kubernetes_quantity(text: str, cores: float) -> None:
    """CPU is read as Kubernetes reads a quantity."""
    assert cores == parse_cpu(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512Mb", 512_000_000),
        ("512mb", 512_000_000),
        ("512 MB", 512_000_000),
        ("512M", 512_000_000),
        ("1Gi", 1 << 30),
        ("1GiB", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("1GB", 10**9),
        ("0.1GB", 10**8),
        ("1,024", 1024),
        ("42", 42),
        ("42B", 42),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1Ti", 1 << 40),
        ("1pb", 10**15),
        ("1ei", 1 << 60),
        ("0", 0),
        ("1.9", 1),
    ],
)
def test_memory_and_disk_are_read_as_go_humanize_reads_them(text: str, size_bytes: int) -> None:
    """Sizes are read in any case and with blanks; Mb is a million, Mi is 2^20."""
    assert size_bytes == parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("1m30s", 90.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("2h45m", 9900.0),
        ("1d", 86_400.0),
        ("250ms", 0.25),
        ("1us", 1e-6),
        ("0", 0.0),
    ],
)
def test_durations_are_gos_with_days_or_plain_seconds(text: str, seconds: float) -> None:
    """A duration is written 1m30s, 2h, 1d, or as plain seconds."""
    assert seconds == parse_duration_s(text)


def test_gpus_are_whole_devices() -> None:
    """GPU is a whole number."""
    assert parse_gpu(" 2 ") == 2


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text", ["", " ", "-1", "abc", "1x2", "50%", "9" * 70, "1e99999999999", "٣", "1\x00", "nan", "inf"]
)
def test_what_cannot_be_read_is_refused_with_a_hint(parse: Callable[[str], float], text: str) -> None:
    """An amount that cannot be read is refused, and the refusal shows how to write it."""
    with pytest.raises(Invalid) as caught:
        parse(text)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_cpu, "50%", "percentage"),
        (parse_cpu, "-1", "negative"),
        (parse_cpu, "500M", "more than"),
        (parse_bytes, "5x", 'unit "x"'),
        (parse_bytes, "9ei", "more than"),
        (parse_gpu, "1.5", "GPU"),
        (parse_gpu, "99999999", "more than"),
        (parse_duration_s, "1w", "duration"),
        (parse_duration_s, "99999999999", "ten years"),
    ],
)
def test_a_refusal_says_why(parse: Callable[[str], float], text: str, says: str) -> None:
    """A refused amount is told with its reason."""
    with pytest.raises(Invalid) as caught:
        parse(text)

    assert says in caught.value.message


def test_a_slip_of_case_in_millicores_is_noticed() -> None:
    """500M cores are answered with 500m."""
    with pytest.raises(Invalid) as caught:
        parse_cpu("500M")

    assert "500m" in caught.value.hint


def test_what_a_task_does_not_ask_for_comes_from_the_default() -> None:
    """Empty resources are the default; what is given replaces its part."""
    assert Amounts(0.5, 512_000_000) == JOB_DEFAULT == amounts(Resources())
    assert Amounts(2.0, 512_000_000, 10**9, 1) == amounts(Resources(cpu="2", disk="1GB", gpu="1"))
    assert Amounts(0.0, 7, 8, 9) == amounts(Resources(cpu="0"), Amounts(1.0, 7, 8, 9))


def test_an_unreadable_amount_names_its_field() -> None:
    """A bad resource is told with the field's name."""
    with pytest.raises(Invalid, match=r"Resources\.Memory") as caught:
        amounts(Resources(memory="lots"))

    assert "Resources.Memory" in caught.value.message


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 << 20, "512 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (1 << 40, "1 TiB"),
        (BYTES_MAX, "8 EiB"),
    ],
)
def test_sizes_are_shown_in_powers_of_1024(size_bytes: int, text: str) -> None:
    """A size is shown with at most one digit behind the point."""
    assert text == format_bytes(size_bytes)


@given(st.integers(0, 2**60))
def test_a_shown_size_is_read_again_as_nearly_the_same(size_bytes: int) -> None:
    """What `format_bytes` shows, `parse_bytes` reads, within the rounding of one digit."""
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.05)


@given(st.integers(0, 10**9))
def test_thousandths_of_cores_are_exact(millis: int) -> None:
    """Every number of millicores is read as exactly that."""
    assert millis / 1000 == parse_cpu(f"{millis}m")


@given(st.text(max_size=80))
def test_any_text_is_an_amount_or_invalid(text: str) -> None:
    """No text does anything but be read or be refused."""
    for parse in PARSERS:
        try:
            value = parse(text)
        except Invalid:
            continue
        assert value >= 0
