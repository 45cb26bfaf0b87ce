"""Which version of the project is installed.

Knows: where that is written down. Must not know: who asks.
"""


def installed_version() -> str:
    """The installed distribution's version, or ``0.0.0`` where the packages run from their sources alone."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shoal")
    except PackageNotFoundError:
        return "0.0.0"
