"""Hooks of mkdocs: pages of public functions, links to files outside docs/, formulas as MathML.

mkdocs.yml names this file. The documents stay as GitHub shows them; these functions add what a site
needs beyond that while it is built.
"""

import ast
import html
import pathlib
import posixpath
import re
from typing import Any

from latex2mathml import converter
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "depth_anything_jax"
API = "api"


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each folder of the package, and one for the package itself."""
    for name, content in api_pages().items():
        files.append(File.generated(config, f"{API}/{name}.md", content=content))
    return files


def on_config(config: Any) -> Any:
    """Adds those pages to the navigation."""
    config.nav.append({"Functions": [{n: f"{API}/{n}.md"} for n in api_pages()]})
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites links that leave docs/, and formulas."""
    linked = outside(markdown, page.file.src_uri, config.extra["repository"])
    return formulas(linked)


def on_nav(nav: Navigation, config: Any, files: Files) -> Navigation:
    """Refuses a document that the navigation lacks.

    Raises:
      ValueError: names the documents.
    """
    missing = sorted(
        f.src_uri for f in files.documentation_pages() if not any(f is p.file for p in nav.pages)
    )
    if missing:
        raise ValueError(f"mkdocs.yml, nav: lacks {', '.join(missing)}")
    return nav


def api_pages() -> dict[str, str]:
    """Markdown by the name of the folder: its modules' public functions and classes."""
    pages = {PACKAGE: f"# {PACKAGE}\n\n::: {PACKAGE}\n    options: {{heading_level: 2}}\n"}
    folders = sorted(p.parent for p in (ROOT / PACKAGE).glob("*/__init__.py"))
    for folder in folders:
        modules = []
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            kinds = (ast.FunctionDef, ast.ClassDef)
            if any(isinstance(n, kinds) and not n.name.startswith("_") for n in tree.body):
                parts = path.relative_to(ROOT).with_suffix("").parts
                modules.append(".".join(p for p in parts if p != "__init__"))
        blocks = [f"::: {m}\n    options: {{heading_level: 2}}\n" for m in modules]
        if blocks:
            pages[folder.name] = f"# {folder.name}\n\n" + "\n".join(blocks)
    return pages


def outside(markdown: str, page: str, repository: str) -> str:
    """Links of a page to files of the checkout outside docs/, as links to the repository."""

    def link(found: re.Match[str]) -> str:
        target, hash_, anchor = found[1].partition("#")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if "://" in target or not target or path.startswith("docs/"):
            return found[0]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({repository}/{kind}/main/{path}{hash_}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", link, markdown)


def formulas(markdown: str) -> str:
    """GitHub's ```math blocks and $`…`$ as MathML, which browsers show by themselves."""

    def displayed(found: re.Match[str]) -> str:
        return "\n" + mathml(found[1], "block") + "\n"

    text = re.sub(r"^```math\n(.*?)^```$", displayed, markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\$`(.*?)`\$", lambda m: mathml(m[1], "inline"), text)


def mathml(latex: str, display: str) -> str:
    """One formula; the source stands in its title."""
    made = converter.convert(" ".join(latex.split()), display=display)
    return made.replace("<math ", f'<math title="{html.escape(latex.strip())}" ', 1)
