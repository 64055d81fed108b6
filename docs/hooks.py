"""What the site needs beyond mkdocs: the README as its first page, results/ beside the pages, docstrings in Markdown.

Links are written so that they hold in the repository (``../results/street7/table.md``); in the site results/ lies beside the pages, and
they are changed accordingly. A page that would load anything from elsewhere ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("README.md", "CHANGELOG.md", "LICENSE", "notebooks/quickstart.ipynb", "densemtmd/released/README.md")
"""Files of the repository that the site has too."""


def on_files(files: Files, config: Any) -> Files:
    """Adds README (as index.md), the others of :data:`BESIDE`, and all of results/."""
    for name in BESIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, "index.md" if name == "README.md" else name, content=text))
    for path in sorted((ROOT / "results").rglob("*")):
        if path.is_file() and path.suffix != ".npz":
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them; a heading for pages of results, which have none."""
    name = page.file.src_uri
    if name.startswith("results/"):
        return f"# {name}\n\n{markdown}"
    if name == "index.md":
        return markdown.replace("](docs/", "](")
    return markdown.replace("](../README.md", "](index.md").replace("](../", "](")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Raises what a page would load from elsewhere."""
    loaded = re.findall(r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)""", output)
    loaded += re.findall(r"""<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)""", output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {loaded[0]} from elsewhere: keep a copy in docs/images or link to it")
    return output


class Roles(griffe.Extension):
    """Docstrings are written for those who read the code: Sphinx's roles and lists of terms become Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring's text in Markdown.

    >>> to_markdown("See :func:`~densemtmd.dense.densify` and ``x``::")
    'See `densify` and ``x``:'
    """
    text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^(``.+``)\n    (?=\S)", r"\n\1\n:   ", text, flags=re.MULTILINE)  # a term and what it means
    return re.sub(r"^(?:>>> .*\n?(?:.+\n?)*)", lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text, flags=re.MULTILINE)
