"""Check the built documentation: every link and anchor, and that no page is wider than its screen.

``mkdocs build --strict --site-dir site``, then ``python scripts/site_check.py site``. Links need
the standard library only. ``--widths`` opens every page in headless Chromium at the widths of a
phone and of a laptop: a page must not scroll sideways, and on the laptop neither may a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PHONE, LAPTOP = 390, 1280  # pixels


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it.

    Attributes:
        links: Values of ``href`` and ``src``.
        anchors: Values of ``id`` and ``name``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in one tag."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Links of the site that lead nowhere, as ``page: link``; foreign addresses are not asked."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # served from anywhere, so its addresses begin at the site's root
        found += [
            f"{path.relative_to(site.resolve())}: {link}"
            for link in dict.fromkeys(page.links)
            if not _leads_somewhere(link, path, pages, site)
        ]
    return found


def _leads_somewhere(link: str, path: Path, pages: dict[Path, Page], site: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site.resolve()) or not target.exists():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].anchors


def too_wide(site: Path) -> Iterator[str]:
    """Pages that scroll sideways, and tables that do on a laptop, as the browser lays them out."""
    from screenshot import Browser

    tables = (
        "[...document.querySelectorAll('table')].map(t => [t.closest('.md-typeset__scrollwrap')"
        " ?? t, t]).filter(([w, t]) => t.scrollWidth > w.clientWidth + 1)"
        ".map(([w, t]) => `${t.scrollWidth} in ${w.clientWidth}: ${t.innerText.slice(0, 40)}`)"
        ".join(' / ').replaceAll('\\n', ' ')"
    )
    for width in (PHONE, LAPTOP):
        with Browser(width, 900, 60) as browser:
            for path in sorted(site.rglob("*.html")):
                browser.open(path.resolve().as_uri())
                name = path.relative_to(site)
                if (wide := browser.run("document.documentElement.scrollWidth")) > width:
                    yield f"{name}: {wide} pixels on a screen of {width}"
                if width == LAPTOP and (told := browser.run(tables)):
                    yield f"{name}: a table of {told}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path, help="folder of the built site")
    parser.add_argument("--widths", action="store_true", help="also look at widths, in Chromium")
    args = parser.parse_args()
    found = broken_links(args.site)
    if args.widths:
        found += too_wide(args.site)
    pages = len(list(args.site.rglob("*.html")))
    print("\n".join([*found, f"{len(found)} found on {pages} pages"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
