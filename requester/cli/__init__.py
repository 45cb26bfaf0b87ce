"""The command line: a file a noun, over `requester.client`.

Standard output carries data only (ids, tables, documents, a program's own output); progress, warnings, hints and errors
go to standard error. Commands are imported when they are called, so that ``--version`` costs next to nothing.
"""
