"""Headless browsers for tests of pages: those that the system has, Debian's packages `chromium` and `firefox-esr`.

Playwright steers both, and downloads none.
"""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

PROGRAMS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
DESKTOP, PHONE = (1280, 900), (390, 844)


class Page:
    """A page in a browser, and what went wrong in it.

    Attributes:
      page: Playwright's page.
      errors: uncaught errors and messages of the console's level `error`.
      requests: addresses that the page asked for, without files and data URIs.
    """

    def __init__(self, page):
        self.page, self.errors, self.requests = page, [], []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url):
        if urlsplit(url).scheme not in ("file", "data", "blob", "about"):
            self.requests.append(url)

    def is_wider_than_the_window(self):
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@contextmanager
def started(kind):
    """Playwright's browser of a kind of `PROGRAMS`; skips the test if it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, see requirements-test.txt")
    program = next(filter(None, map(shutil.which, PROGRAMS[kind])), None)
    if program is None:
        pytest.skip(f"no {kind} is installed: on Debian, apt install {PROGRAMS[kind][0]}")
    with playwright.sync_playwright() as started:
        if kind == "chromium":
            browser = started.chromium.launch(executable_path=program)
        else:  # the channel that speaks WebDriver BiDi, as a Firefox does that Playwright has not changed
            browser = started.firefox.launch(executable_path=program, channel="moz-firefox")
        try:
            yield browser
        finally:
            browser.close()


def opened(browser, url, size=DESKTOP, *, dark=False):
    """A new page with this address, in a window of (width, height) pixels."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    found = Page(context.new_page())
    found.page.goto(url)
    return found
