"""The built documentation in a browser, as wide as a desk and as a phone.

Needs docs/_build, playwright and a Chromium; SKJKO_CHROMIUM may name its program.
Screenshots are kept in the folder SKJKO_SCREENSHOTS, if that is set.
"""

# SPDX-License-Identifier: BSD-3-Clause

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).parents[1] / "docs" / "_build"
CHROMIUM = os.environ.get("SKJKO_CHROMIUM") or shutil.which("chromium")
PAGES = (
    "index.html",
    "install.html",
    "five_minutes.html",
    "guide/index.html",
    "guide/density.html",
    "guide/theory.html",
    "gallery/index.html",
    "gallery/plot_blocks.html",
    "api.html",
    "generated/skjko.JKOFlowDensity.html",
    "benchmarks.html",
    "alternatives.html",
    "glossary.html",
    "whats_new.html",
)
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (SITE / "index.html").exists(),
        reason="docs/_build is not there: python -m sphinx -W docs docs/_build",
    ),
    pytest.mark.skipif(
        CHROMIUM is None or not Path(CHROMIUM).exists(),
        reason="there is no chromium on the path, nor in SKJKO_CHROMIUM",
    ),
]


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Keep requests out of the output."""


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Silent, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def watched(browser, address, width):
    """Return a new page, and a list that what goes wrong on it is added to."""
    wide, high = WIDTHS[width]
    page = browser.new_page(viewport={"width": wide, "height": high})
    wrong = []

    def on_console(message):
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def on_request(request):
        if not request.url.startswith((address, "data:")):
            wrong.append(f"loads {request.url}")

    def on_response(response):
        if response.status >= 400:
            wrong.append(f"{response.status}: {response.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", on_request)
    page.on("response", on_response)
    return page, wrong


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, tmp_path, name, width):
    page, wrong = watched(browser, address, width)
    page.goto(f"{address}/{name}", wait_until="load")
    root = "document.documentElement"
    scroll, client = page.evaluate(f"[{root}.scrollWidth, {root}.clientWidth]")
    images = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
    n_broken_images = page.evaluate(images)
    folder = Path(os.environ.get("SKJKO_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{name.replace('/', '-').removesuffix('.html')}-{width}.png"
    page.screenshot(path=picture)
    page.close()
    assert wrong == []
    assert scroll <= client, "the page scrolls to the side"
    assert n_broken_images == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("width", WIDTHS)
def test_internal_links_of_the_first_page_lead_somewhere(browser, address, width):
    page, wrong = watched(browser, address, width)
    page.goto(f"{address}/index.html")
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    own = {url.partition("#")[0] for url in links if url.startswith(address)}
    assert len(own) > 8
    for url in sorted(own):
        assert page.request.get(url).ok, url
    page.close()
    assert wrong == []


def test_search_works_without_a_network(browser, address):
    page, wrong = watched(browser, address, "desktop")
    page.goto(f"{address}/search.html?q=reparameterization")
    found = page.wait_for_selector("#search-results li a")
    assert found.get_attribute("href")
    page.close()
    assert wrong == []
