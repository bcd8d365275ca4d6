"""The documentation site: it is built without a warning, is whole, and asks no other host."""

import html.parser
import os
import pathlib
import subprocess
import sys

import pytest

from tools import site_hooks

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
REPOSITORY = "https://github.com/OWNER/depth_anything_jax"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # strict: a broken link is an error
    return folder


def test_every_document_and_folder_has_a_page(site):
    documents = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert documents <= {p.stem for p in site.glob("*.html")}
    packages = {p.parent.name for p in (ROOT / site_hooks.PACKAGE).glob("*/__init__.py")}
    pages = {p.stem: p.read_text(encoding="utf-8") for p in (site / "api").glob("*.html")}
    assert packages - set(pages) <= {"assets"}
    assert "affine_invariant_by_region" in pages["losses"]
    assert "cutmix_masks" in pages["training"]


def test_formulas_are_mathml(site):
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count("<math ") >= 30
    assert "```math" not in method and "$`" not in method


class Loads(html.parser.HTMLParser):
    """Collects what a browser fetches by itself: not where a reader may click."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        names = {"link": ("href",), "a": ()}.get(tag, ("src", "srcset", "data", "poster"))
        self.found += [(tag, v) for n, v in attributes if n in names and v]


def test_pages_ask_no_other_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found
        assert [x for x in loads.found if "//" in x[1] and not x[1].startswith("data:")] == [], page
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "link", "to"),
    [
        ("use.md", "[a](../README.md)", f"[a]({REPOSITORY}/blob/main/README.md)"),
        ("use.md", "[a](../tests)", f"[a]({REPOSITORY}/tree/main/tests)"),
        ("use.md", "[a](../setup.py#x)", f"[a]({REPOSITORY}/blob/main/setup.py#x)"),
        ("use.md", "[a](data.md#x) ![b](images/app.png)", None),
        ("use.md", "[a](https://arxiv.org/abs/2401.10891) [b](#here)", None),
    ],
)
def test_links_out_of_the_documents_lead_to_the_repository(page, link, to):
    assert site_hooks.outside(link, page, REPOSITORY) == (to or link)


def test_a_document_that_the_navigation_lacks_is_refused():
    page = type("File", (), {"src_uri": "lost.md"})()
    files = type("Files", (), {"documentation_pages": lambda self: [page]})()
    with pytest.raises(ValueError, match=r"nav: lacks lost\.md"):
        site_hooks.on_nav(type("Nav", (), {"pages": []})(), None, files)
