"""Job specs: from what people and programs write into the one canonical `protocol.jobs.Job`.

Knows: Bacalhau's specs of 1.4 to 1.9, every field, default, rule and older spelling. Must not know: files, networks or
clocks; everything here is a plain function of its arguments.
"""

from protocol.spec.defaults import Defaults, TypeDefaults
from protocol.spec.faults import SpecFault, SpecFaults, faults_in
from protocol.spec.reading import Reading, read_body, read_spec

__all__ = [
    "Defaults",
    "Reading",
    "SpecFault",
    "SpecFaults",
    "TypeDefaults",
    "faults_in",
    "read_body",
    "read_spec",
]
