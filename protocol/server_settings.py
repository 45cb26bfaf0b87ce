"""The settings that a requester and a compute node share, under all their names.

Knows: their keys (Bacalhau's of 1.4 and 1.9 and our own) and how they are read. Must not know: what is a program's own, or
how layers are read (`protocol.config`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar

from protocol.config import Config
from protocol.errors import Invalid

NATS_DEFAULT: Final = "nats://127.0.0.1:4222"
CREDENTIALS: Final = "NATS.Credentials"
NATS: Final = ("NATS.URL", "Compute.Orchestrators", "Node.Network.Orchestrators")
IPFS: Final = (
    "InputSources.Types.IPFS.Endpoint",
    "Publishers.Types.IPFS.Endpoint",
    "Node.IPFS.Connect",
)
DATA_DIR: Final = "DataDir"
LOG_FORMAT: Final = "Logging.Mode"
LOG_LEVEL: Final = "Logging.Level"
VARIABLES: Final = {
    "SHOAL_NATS": "NATS.URL",
    "SHOAL_DIR": DATA_DIR,
    "SHOAL_DATA_DIR": DATA_DIR,
    "BACALHAU_DIR": DATA_DIR,
}
"""Further names for settings in the environment."""

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Word = TypeVar("Word", bound=str)
LOG_FORMATS: Final[tuple[LogFormat, ...]] = ("auto", "console", "json")
LOG_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")


def nats_servers(config: Config, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The NATS servers; one without a scheme is taken as ``nats://``. Raises `Invalid`.

    Where nothing is said, ``NATS_URL`` (which NATS's own tools read) counts, and then the server on this machine.
    """
    given = config.texts(*NATS) or (environ.get("NATS_URL") or NATS_DEFAULT,)
    made = [text if "://" in text else f"nats://{text}" for text in given]
    for text in made:
        if text.partition("://")[0].lower() not in ("nats", "tls"):
            raise Invalid(
                f"{text} is no NATS server", hint=f"Write it like {NATS_DEFAULT} or tls://host:4222."
            )
    return tuple(made)


def credentials(config: Config, *keys: str) -> Path | None:
    """The file of credentials, absolute; None where none is named."""
    text = config.text(*keys, CREDENTIALS)
    return Path(text).expanduser().absolute() if text else None


def data_dir(config: Config, default: Path) -> Path:
    """The program's own folder, absolute."""
    text = config.text(DATA_DIR)
    return (Path(text).expanduser() if text else default).absolute()


def log_format(config: Config) -> LogFormat:
    """How the log looks; Bacalhau's ``default`` and ``cmd`` are for us to choose. Raises `Invalid`."""
    return config.parsed(_format, LOG_FORMAT, default="auto")


def log_level(config: Config) -> LogLevel:
    """From which level on something is logged; ``warn`` and ``trace`` are known too. Raises `Invalid`."""
    return config.parsed(_level, LOG_LEVEL, default="info")


def _format(text: str) -> LogFormat:
    return _one_of("auto" if text.lower() in ("default", "cmd") else text, LOG_FORMATS)


def _level(text: str) -> LogLevel:
    return _one_of({"warn": "warning", "trace": "debug"}.get(text.lower(), text), LOG_LEVELS)


def _one_of(text: str, known: tuple[Word, ...]) -> Word:
    for each in known:
        if each == text.lower():
            return each
    raise Invalid(f"{text!r} is not one of {', '.join(known)}")
