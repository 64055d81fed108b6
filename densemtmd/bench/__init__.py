"""How fast densemtmd is: one module per bench (``label``, ``scale``, ``train`` with ``target``, ``loading``, ``tracking``, ``render``), and
what they share (``clock``, ``networks``, ``training``, ``told``); and how often its intervals hold the truth (``coverage``).
``tools/bench.py`` runs them.

Torch and what needs it are imported where they are used, so that ``--help`` answers at once.
"""
