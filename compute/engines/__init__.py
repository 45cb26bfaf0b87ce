"""Engines: what runs a program. One module each, one contract for all, and an explicit table."""
