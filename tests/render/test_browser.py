"""The report in a real browser: it is drawn, with its own style, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib import image

from mpo.records import Report
from mpo.render.html import html

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--blink-settings=preferredColorScheme=1",
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def browse(page: Path, *options: str) -> str:
    """Open a page in a fresh headless browser; return what it prints."""
    profile = page.with_name("profile")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_drawn_in_its_own_colours(
    tmp_path: Path, reports: dict[str, Report], width: int
) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(html(reports["good"]), encoding="utf-8")
    browse(page, f"--screenshot={picture}", f"--window-size={width},900")
    pixels = image.imread(picture)
    assert pixels.shape[:2] == (900, width)
    # The page's own ground: the policy let the style sheet in.
    assert [round(255 * float(value)) for value in pixels[2, 2, :3]] == [0xF6, 0xF7, 0xF9]
    assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2])}) > 10


def test_the_browser_reads_the_page_as_it_was_written(
    tmp_path: Path, reports: dict[str, Report]
) -> None:
    page = tmp_path / "report.html"
    page.write_text(html(reports["hostile"]), encoding="utf-8")
    seen = browse(page, "--dump-dom")
    assert "Infeasible" in seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in seen
    assert "<script" not in seen
    assert seen.count("<svg") == html(reports["hostile"]).count("<svg")
