"""The report in a real browser, at the width of a phone and of a desk."""

import json
import re
import shutil
import subprocess

import pytest

from darec.report.render import write
from darec.report.source import Source

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDTHS = {"phone": 390, "desk": 1200}

# The report forbids scripts, so a page around it measures: each frame is a viewport of its own.
FRAMES = """<!doctype html><body style="margin:0;display:flex">
<iframe id="phone" src="report.html" style="border:0;width:390px;height:3000px;flex:none"></iframe>
<iframe id="desk" src="report.html" style="border:0;width:1200px;height:3000px;flex:none"></iframe>
<pre id="found"></pre><script>
onload = () => {
  const found = {};
  for (const id of ["phone", "desk"]) {
    const page = document.getElementById(id).contentDocument;
    page.querySelectorAll("details").forEach(part => part.open = true);
    const count = selector => page.querySelectorAll(selector).length;
    found[id] = { width: page.documentElement.scrollWidth, scripts: count("script, img"), sections: count("section"),
      drawings: count("svg"), scrollers: count(".scroll"), small: [...page.querySelectorAll("p, td, li, dd")].filter(
        each => parseFloat(getComputedStyle(each).fontSize) < 12).length };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script></body>"""

needs_browser = pytest.mark.skipif(BROWSER is None, reason="NO CHROMIUM: the report's pages are NOT looked at")


@pytest.fixture(scope="module")
def page(nights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    store, _, second = nights
    write(Source.of_run(store, second), folder / "report.html")
    (folder / "frames.html").write_text(FRAMES)
    return folder


def browse(folder, *options):
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *QUIET, profile, "--virtual-time-budget=10000", *options, (folder / "frames.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_browser
def test_nothing_is_wider_than_the_screen_and_no_script_came_in(page):
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', browse(page, "--dump-dom")).group(1))
    for name, width in WIDTHS.items():
        assert found[name]["width"] <= width, f"{name}: the page is {found[name]['width']} px wide"
        assert found[name]["scripts"] == 0
        assert found[name]["sections"] == 14
        assert found[name]["drawings"] >= 4
        assert found[name]["small"] == 0


@needs_browser
def test_it_can_be_looked_at(page):
    shot = page / "shot.png"
    browse(page, f"--screenshot={shot}", "--window-size=1590,3000")
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert shot.stat().st_size > 50_000  # a blank page is a tenth of that
