"""``densemtmd <verb>``, the command that a wheel installs, and ``python -m densemtmd <verb>``."""

from __future__ import annotations

import sys

from densemtmd.commands.densemtmd import main

if __name__ == "__main__":
    sys.exit(main())
