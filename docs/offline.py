"""Extension of Sphinx: formulas without scripts, and a check of all internal links.

A page loads nothing from other hosts: formulas are MathML, which browsers draw. After a
build, links to files and anchors that are not there are warnings. Docstrings are shown
without what a class has from other libraries.
"""

# SPDX-License-Identifier: BSD-3-Clause

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

# What a browser loads with a page.
LOADED = {"img": "src", "link": "href", "script": "src", "source": "src"}


class Links(HTMLParser):
    """Anchors of a page, its links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        url = attrs.get(LOADED.get(tag))
        if url and attrs.get("rel") != "canonical":
            self.loaded.add(url)


def broken_links(folder):
    """Yield what is wrong with the links of all pages in a folder, as (page, text)."""
    paths = [p for p in folder.rglob("*.html") if p.parent.name != "_static"]
    pages = {p: Links(p.read_text(encoding="utf-8")) for p in paths}
    for path, page in pages.items():
        for url in sorted(page.links | page.loaded):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if url in page.loaded and parts.scheme != "data":
                    yield path, f"loads {url} from another host"
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = path if not parts.path else target
            anchor = unquote(parts.fragment)
            if not target.exists():
                yield path, f"links to {url}, which is no file"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield path, f"links to {url}, which has no such anchor"


def check_links(app, exception):
    """Warn of broken links."""
    if exception is None and app.builder.format == "html":
        for path, text in broken_links(Path(app.outdir)):
            logging.getLogger(__name__).warning("%s %s", path, text)


def inline(writer, node):
    """Write a formula within text."""
    writer.body.append(tex2mathml(node.astext()))
    raise SkipNode


def display(writer, node):
    """Write a formula in a line of its own."""
    mathml = tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="math">{mathml}</div>\n')
    raise SkipNode


def escape(app, what, name, obj, options, lines):
    """Keep |x| and n_blocks_ of docstrings from being links of reStructuredText."""
    is_code = False
    for i, line in enumerate(lines):
        is_code = line.strip() != "" and (is_code or line.lstrip().startswith(">>>"))
        if not is_code and "``" not in line:
            line = re.sub(r"(?<!\\)\|", r"\|", line)
            lines[i] = re.sub(r"(?<![`\w])([A-Za-z]\w*)_(?![`\w])", r"\1\_", line)


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out members that other libraries define."""
    function = getattr(obj, "fget", None) or getattr(obj, "__func__", obj)
    module = getattr(function, "__module__", None)
    return True if module and not module.startswith("skjko") else None


def move_notes(app, name, source):
    """Link to the page of the notes, which are outside of this folder."""
    source[0] = source[0].replace("(../benchmarks/NOTES.md", "(notes.md")


def setup(app):
    """Add all of it to Sphinx."""
    # After numpydoc, which reads the docstrings as they stand.
    app.connect("autodoc-process-docstring", escape, priority=900)
    app.connect("autodoc-skip-member", skip_inherited)
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    app.connect("source-read", move_notes)
    app.connect("build-finished", check_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
