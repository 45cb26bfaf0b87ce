"""The requester: takes jobs, decides who runs them, keeps the log; and the command line that talks to it.

`requester.core` decides, in pure functions; the modules beside it act. Never imports `compute`; only the command line
(`requester.cli`) may use `storage`, to bring results home.
"""
