"""Which packages a wheel holds: all below densemtmd/, and the folder conf/ of the repository as ``densemtmd.conf``; and the README as a
package index shows it. All else is said in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup


def on_an_index(readme: str, project: str) -> str:
    """The README without what holds in the repository alone, where its links and pictures are relative.

    They become absolute by the URL ``Repository`` of pyproject.toml. Where it names none, links become plain text, and pictures, with the
    words in italics below them, are left out: an index would show broken ones.

    Args:
        readme: in Markdown.
        project: pyproject.toml.
    """
    named = re.search(r'^Repository *= *"([^"]+?)/?"', project, re.MULTILINE)
    relative = r"\((?![a-z]+:|#)([^)\s]+)\)"
    readme = re.sub(r"^<!--[^\n]*-->\n", "", readme, flags=re.MULTILINE)
    if named:
        readme = re.sub(rf"(!\[[^\]]*\]){relative}", rf"\1({named[1]}/raw/HEAD/\2)", readme)
        return re.sub(rf"(\[[^\]]*\]){relative}", rf"\1({named[1]}/blob/HEAD/\2)", readme)
    readme = re.sub(rf"^!\[[^\]]*\]{relative}\n\n(?:\*[^*]+\*\n\n)?", "", readme, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]*)\]{relative}", r"\1", readme)


if __name__ == "__main__":
    here = Path(__file__).parent
    setup(
        packages=[*find_packages(include=["densemtmd", "densemtmd.*"]), "densemtmd.conf"],
        package_dir={"densemtmd.conf": "conf"},
        long_description=on_an_index((here / "README.md").read_text("utf-8"), (here / "pyproject.toml").read_text("utf-8")),
        long_description_content_type="text/markdown",
    )
