"""The Docker engine: containers on this machine's daemon, through its API (1.41, Docker 20.10, and newer).

`config`, `reference`, `progress`, `faults` and `frames` decide and are plain functions; `daemon` is the one module that
speaks to the daemon; `images`, `running` and `engine` join them. Import those by name: nothing here pulls in the client
for whoever only wants the settings.
"""
