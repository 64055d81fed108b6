"""The network that comes with the package: it labels pictures before anybody has trained one. Its card is README.md beside this file."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""What :func:`densemtmd.release.release` wrote, in the form of a run's folder."""
