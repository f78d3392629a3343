"""Hooks of the documentation site: generated pages, navigation, and links out of `docs/`.

Pages of `docs/` are written for the repository, where links such as `../experiments/quickstart.py`
lead to its files. The site has a copy of each file that is linked to, code as a page.
"""

import json
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

import fl_sim
from fl_sim.cli.catalogue import PACKAGES, list_classes

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # of the site, by the path in the repository
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "README.md",
    "docs/adr": "adr/README.md",
    "docs/notebook.ipynb": "notebook.md",
    "docs/results": "experiments.md",
    "experiments": "experiments.md",
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")
RESULTS = {
    "fl_sim.results.tables": ("Results", "load_results"),
    "fl_sim.results.studies": ("StudyResults", "load_study"),
    "fl_sim.results.comparison": ("compare", "load_run"),
    "fl_sim.audit.session": ("audit",),
}
OUTSIDE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>")
HARMLESS = re.compile(r"rel=\"(?:canonical|alternate)\"")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of results, of the API and of decisions to the navigation."""
    for entry in config.nav or []:
        ((title, page),) = entry.items()
        more = {
            "experiments.md": [
                "measured.md",
                *(f"results/{stem}.md" for stem in _list_pages("results")),
            ],
            "adr/README.md": [f"adr/{stem}.md" for stem in _list_pages("adr") if stem != "README"],
            "api/index.md": [f"api/{name}.md" for name in _write_api() if name != "index"],
        }
        if page in more:
            entry[title] = [page, *more[page]]
    return config


def _list_pages(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "docs" / folder).glob("*.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated."""
    pages = {f"api/{name}.md": text for name, text in _write_api().items()}
    for source in ("CHANGELOG.md", "CONTRIBUTING.md"):
        pages[PAGES[source]] = _move_links((ROOT / source).read_text("utf-8"), "", PAGES[source])
    pages["notebook.md"] = _render_notebook(ROOT / "docs/notebook.ipynb")
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for target in sorted(_find_linked_files()):
        text = (ROOT / target).read_text("utf-8")
        if target.endswith(".py"):
            text = f"# {target}\n\n````python\n{text}````\n"
        place, hidden = _place_copy(target), InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, place, content=text, inclusion=hidden))
    return files


def _find_linked_files() -> set[str]:
    """Return the files outside `docs/` that a page links to, by their path in the repository."""
    found = set()
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        folder = page.parent.relative_to(ROOT).as_posix()
        targets = {_resolve(folder, link[2]) for link in LINK.finditer(page.read_text("utf-8"))}
        found |= {target for target in targets - PAGES.keys() if (ROOT / target).is_file()}
    return {target for target in found if not target.startswith("docs/")}


def _resolve(folder: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(folder, target))


def _place_copy(target: str) -> str:
    """Return the path of the site's copy of a file of the repository."""
    return f"source/{target}.md" if target.endswith(".py") else f"source/{target}"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page that leave `docs/` to the repository."""
    if page.file.generated_by is not None:
        return markdown
    return _move_links(markdown, posixpath.dirname(f"docs/{page.file.src_uri}"), page.file.src_uri)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a page that would load something from another address."""
    for path in Path(config.site_dir).rglob("*.html"):
        loads = [
            tag for tag in OUTSIDE.findall(path.read_text("utf-8")) if not HARMLESS.search(tag)
        ]
        if loads:
            raise PluginError(f"{path} loads from elsewhere: {loads[0]}")


def _move_links(markdown: str, folder: str, page: str) -> str:
    """Return a page with links for the site.

    Args:
        markdown: Text of the page.
        folder: Folder in the repository that its links are relative to.
        page: Path of the page below `docs/`, on the site.
    """

    def move(link: re.Match[str]) -> str:
        target = _resolve(folder, link[2])
        if target not in PAGES and not (ROOT / target).is_file():
            raise PluginError(f"{page}: {link[2]} is not there")
        inside = target.removeprefix("docs/") if target.startswith("docs/") else _place_copy(target)
        own = PAGES.get(target, inside)
        return f"]({posixpath.relpath(own, posixpath.dirname(page) or '.')}{link[3] or ''})"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(move, part) for part in parts)


def _render_notebook(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code, and the text of its outputs."""
    parts = ["[Download the notebook](notebook.ipynb)"]
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_move_links(text, "docs", "notebook.md"))
            continue
        parts.append(f"```python\n{text}\n```")
        outputs = ["".join(_read_output(output)) for output in cell["outputs"]]
        parts += [f"```text\n{text.rstrip()}\n```" for text in outputs if text.strip()]
    title, *rest = parts[1:]
    return "\n\n".join([title, parts[0], *rest]) + "\n"


def _read_output(output: dict[str, Any]) -> list[str]:
    return output.get("text") or output.get("data", {}).get("text/plain", [])


@cache
def _write_api() -> dict[str, str]:
    """Return the pages of the API reference by name, as mkdocstrings reads them."""
    public = [f"{getattr(fl_sim, name).__module__}.{name}" for name in fl_sim.__all__]
    results = [f"{module}.{name}" for module, names in RESULTS.items() for name in names]
    pages = {
        "fl_sim": ("fl_sim", "Names that `import fl_sim` offers.", public),
        "results": ("Results", "Reading what runs have written.", results),
        "contracts": ("Contracts", "Interfaces that plug-ins implement.", ["fl_sim.contracts"]),
    }
    for kind, (package, _) in PACKAGES.items():
        paths = [f"{cls.__module__}.{name}" for name, cls in list_classes(kind).items()]
        about = f"Classes in `{package}`, with their fields and sources."
        pages[kind] = (kind.capitalize(), about, paths)
    texts = {}
    for name, (title, about, paths) in pages.items():
        # Fields and their types stand in the signature and in the docstring of a plug-in.
        own = "members: true" if name in ("fl_sim", "results", "contracts") else "members: false"
        blocks = [f"::: {path}\n    options:\n      {own}" for path in paths]
        texts[name] = "\n\n".join([f"# {title}", about, *blocks]) + "\n"
    lines = [f"| [{title}]({name}.md) | {about} |" for name, (title, about, _) in pages.items()]
    about = "# API reference\n\nGenerated from the docstrings of the code.\n"
    head = f"{about}\n| Page | Content |\n|---|---|"
    return {"index": "\n".join([head, *lines]) + "\n", **texts}
