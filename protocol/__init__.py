"""The words that requesters and compute nodes share: specs, messages, states, errors and the bus they travel on.

This package knows nobody above it. Its core modules (``pyproject.toml`` lists them) hold no I/O, no clock and no
randomness.
"""
