"""Every link of the built site: to a page or file that is there, and to an anchor that is on it. Exit code 1 otherwise.

The builder checks links in the Markdown. This checks what came out, whatever made it: navigation, reference, pages that
nothing leads to, and that nothing is fetched from elsewhere.

    tools/check_site.py SITE
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

# Attributes that a browser follows by itself, for these elements; the others wait for a click.
FETCHED = {"img", "link", "script"}
# Links for machines that name the site by its address.
NAMES_ONLY = {"canonical", "prev", "next"}


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, path: Path) -> None:
        """Read it."""
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element has."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if values.get("rel") not in NAMES_ONLY:
            self.links.extend((tag, values[name]) for name in ("href", "src") if name in values)


def main() -> None:
    """Check the site that the command line names."""
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    faults = [fault for path, page in pages.items() for fault in faults_of(site, path, page, pages)]
    linked = {target(site, path, link)[0] for path, page in pages.items() for _, link in page.links if is_local(link)}
    faults += [
        f"{path.relative_to(site)}: nothing leads here" for path in pages if path not in linked | {site / "404.html"}
    ]
    for fault in faults:
        print(fault)
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links, {len(faults)} faults")
    sys.exit(bool(faults))


def faults_of(site: Path, path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """What is wrong with the links of a page."""
    for tag, link in page.links:
        where = f"{path.relative_to(site)}: {link}"
        if not is_local(link):
            if tag in FETCHED:
                yield f"{where} is fetched from elsewhere"
            continue
        file, anchor = target(site, path, link)
        if not file.is_file():
            yield f"{where} leads nowhere"
        elif anchor and file in pages and anchor not in pages[file].anchors:
            yield f"{where} has no such anchor"


def is_local(link: str) -> bool:
    """It is of this site."""
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def target(site: Path, path: Path, link: str) -> tuple[Path, str]:
    """The file and the anchor that a link leads to."""
    address, anchor = urldefrag(link)
    address = unquote(urlsplit(address).path)
    if not address:
        return path, anchor
    file = (site / address.lstrip("/") if address.startswith("/") else path.parent / address).resolve()
    return (file / "index.html" if file.is_dir() else file), anchor


if __name__ == "__main__":
    main()
