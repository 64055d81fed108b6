"""Which packages a wheel holds: all below densemtmd/, and the folder conf/ of the repository as ``densemtmd.conf``. All else is said in
pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["densemtmd", "densemtmd.*"]), "densemtmd.conf"], package_dir={"densemtmd.conf": "conf"})
