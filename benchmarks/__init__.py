"""Measurements beside a named peer or limit, taken in the same run: ``make bench``.

Speed is never asserted in a test: a shared machine makes such a test lie. A figure here is a median together with the
ratio to something measured in turn with it, and the load average of the machine.
"""
