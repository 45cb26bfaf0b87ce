"""What runs beside shoal: the servers it needs, as processes, and how they are had.

Knows programs, ports and folders; knows nothing of jobs, and imports nothing of the other packages.
"""
