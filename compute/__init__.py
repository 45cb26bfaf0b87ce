"""A compute node: takes commands, fetches inputs, runs programs in Docker or WebAssembly, publishes what they wrote.

Imports `storage` and `protocol`, never `requester`.
"""
