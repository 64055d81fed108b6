"""The kinds of tasks, a module each: see :mod:`densemtmd.kind`."""
