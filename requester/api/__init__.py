"""The REST edge: Bacalhau's paths, bodies, names and error envelope over the requester's verbs.

Bacalhau's state names and numbers exist in this package alone (`views`); everything behind it speaks the project's own.
"""
