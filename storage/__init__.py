"""Where data comes from and where results go: one module a driver, one contract for all.

Imports `protocol` only. A driver's SDK is imported in that driver's module alone, and not before it is needed.
"""
