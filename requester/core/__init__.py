"""The deciding part: plain functions over frozen Structs, given the time. No I/O, no clock, no randomness."""
