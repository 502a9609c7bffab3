"""A file in, its text out. Files are parsed in processes of their own, which may crash.

`pool.py` is what the worker uses; all else but `process.py` runs in the child processes.
"""
