"""Real faults: jobs run while processes are killed, stopped and cut off, and the recorded history is judged afterwards.

``python -m tests.faults --jobs 100 --faults 50 --seed 7`` (as root, for the network namespaces). `plan` (what happens when)
and `check` (what must hold) are plain functions; `hosts`, `world`, `load` and `inject` act.
"""
