"""The report's page as a browser shows it: Chromium, headless, at the widths of a phone and a desktop.

Playwright drives the Chromium of the system (`apt-get install chromium`), never one of its own.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from report_inputs import NAMES, evaluation, full_bench, save, sparse_bench
from rsedge.raster import Grid, RasterWriter
from rsedge.report import Sources, write_report
from rsedge_sample.files import COLORS, LANDCOVER

GREY, RED, BLUE = (120, 120, 120), COLORS["building"], COLORS["water"]
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
WIDTHS = (360, 1280)
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
Open = Callable[..., Any]

# What the scripts below share: elements that can be seen and hold text themselves.
SHOWN = """const shown = within => [...document.querySelectorAll('body *')].filter(e => !e.closest(within) &&
  e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));"""
# Text that sticks out of the page, unless what holds it scrolls.
STICKS_OUT = f"""() => {{ {SHOWN}
  return shown('.scroll, script, style').filter(e => {{
    const box = e.getBoundingClientRect();
    return box.left < -0.5 || box.right > innerWidth + 0.5;
  }}).map(e => e.tagName + ' ' + e.textContent.slice(0, 40));
}}"""
FONT_PX = f"""() => {{ {SHOWN}
  return shown('script, style').map(e => parseFloat(getComputedStyle(e).fontSize));
}}"""
SCROLLERS = """() => [...document.querySelectorAll('.scroll')].map(
  e => [e.getAttribute('aria-label'), e.scrollWidth, e.clientWidth])"""
# Of all drawings: how many labels they have, pairs of texts that overlap, and texts that leave the drawing.
DRAWN = """() => {
  const wrong = [];
  let labels = 0;
  for (const svg of document.querySelectorAll('.plot svg')) {
    if (!svg.checkVisibility()) continue;
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
    labels += svg.querySelectorAll('text.label').length;
    for (const [text, a] of texts) {
      if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.top < edge.top - 1 || a.bottom > edge.bottom + 1)
        wrong.push(['outside', text.textContent]);
      for (const [other, b] of texts) {
        if (text === other) break;
        if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
          wrong.push(['overlap', text.textContent, other.textContent]);
      }
    }
  }
  return [labels, wrong];
}"""
# Texts whose contrast with what is painted behind them, by WCAG's formula, is below its 4.5.
CONTRAST = f"""() => {{ {SHOWN}
  const parse = c => [...c.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = e => {{
    const own = parse(getComputedStyle(e).backgroundColor);
    if (own[3] >= 1 || !e.parentElement) return own;
    const below = behind(e.parentElement);
    return own.slice(0, 3).map((v, i) => v * own[3] + below[i] * (1 - own[3]));
  }};
  return shown('.compare figure, svg, script, style').map(e => {{
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + ' ' + e.textContent.slice(0, 30)];
  }}).filter(([ratio]) => ratio < 4.5);
}}"""


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must test the page in a browser")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed (pip install playwright)")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        _missing("there is no Chromium (apt-get install chromium, or CHROMIUM=PATH)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pages: all there is, little, scores only, several machines, what somebody wrote to break in."""
    folder = tmp_path_factory.mktemp("pages")
    bench, sparse = save(folder / "bench.json", full_bench()), save(folder / "sparse.json", sparse_bench())
    scores = save(folder / "eval.json", evaluation())
    other = full_bench()
    other["machine"] = {
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "cores": 6,
        "gpus": ["Orin (nvgpu)"],
    }
    for row in other["rows"]:
        row["name"] = "a_model_with_quite_a_long_name_and_no_spaces_in_it-" + row["label"]
    evil = sparse_bench()
    evil["rows"][1]["name"] = evil["machine"]["cpu"] = EVIL
    grid = Grid(40, 60)
    for name, value in (("image", None), ("mask", 0), ("truth", 4)):
        with RasterWriter(
            folder / f"{name}.tif", grid, 3 if value is None else 1, () if value is None else LANDCOVER
        ) as out:
            out.write(
                np.full((3, 40, 60), GREY[0], np.uint8)
                if value is None
                else np.full((1, 40, 60), value, np.uint8)
            )
    image, mask, truth = (folder / f"{name}.tif" for name in ("image", "mask", "truth"))
    write_report(
        folder / "full.html",
        [bench, scores],
        Sources(image, mask, truth),
        command="rsedge report " + "x" * 200,
    )
    write_report(folder / "sparse.html", [sparse])
    write_report(folder / "scores.html", [scores])
    write_report(
        folder / "many.html", [bench, save(folder / "other.json", other), scores], Sources(image, mask)
    )
    names = (EVIL, *NAMES[1:])
    write_report(
        folder / "evil.html",
        [save(folder / "a.json", evil), save(folder / "b.json", evaluation(names))],
        heading=EVIL,
    )
    return folder


@pytest.fixture
def open_page(browser: Any, pages: Path) -> Iterator[Open]:
    """Opens a page by name in a window of its own; what its console and its network say is in ``said``."""
    contexts = []

    def open_it(name: str, width: int = 1280, **how: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **how)
        contexts.append(context)
        page = context.new_page()
        page.said = said = []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.on("dialog", lambda dialog: said.append(("dialog", dialog.message)))
        own = (pages / f"{name}.html").as_uri()
        page.on(
            "request",
            lambda r: None if r.url == own or r.url.startswith("data:") else said.append(("asked", r.url)),
        )
        page.goto(own)
        return page

    yield open_it
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["full", "sparse", "scores", "many", "evil"])
def test_a_page_fits_and_says_nothing_to_console_or_network(open_page: Open, name: str, width: int) -> None:
    page = open_page(name, width)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(STICKS_OUT) == []
    labels, wrong = page.evaluate(DRAWN)
    assert wrong == []
    assert labels >= {"full": 10, "many": 20}.get(name, 0)
    assert page.evaluate("window.hacked") is None
    assert page.said == []


def test_on_a_phone_nothing_has_to_be_scrolled_sideways(open_page: Open) -> None:
    page = open_page("full", 360)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    for label, inside, seen in page.evaluate(SCROLLERS):
        assert inside <= seen, label
    assert min(page.evaluate(FONT_PX)) >= 12


def test_the_main_table_fits_a_desktop(open_page: Open) -> None:
    label, inside, seen = open_page("full").evaluate(SCROLLERS)[0]
    assert label.startswith("Cost, speed and accuracy")
    assert inside <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "sparse"])
def test_text_stands_out_from_what_is_behind_it(open_page: Open, name: str, scheme: str) -> None:
    page = open_page(name, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) > 128) == (scheme == "light")


def _seen(page: Any) -> list[tuple[int, ...]]:
    """Colours at 10 %, 40 % and 90 % of the slider's width."""
    panes = page.locator(".panes")
    panes.scroll_into_view_if_needed()
    shot = np.asarray(Image.open(io.BytesIO(panes.screenshot())).convert("RGB"))
    height, width = shot.shape[:2]
    return [tuple(int(v) for v in shot[height * 3 // 4, int(width * at)]) for at in (0.1, 0.4, 0.9)]


def _near(seen: list[tuple[int, ...]], *wanted: tuple[int, ...]) -> bool:
    return all(
        max(abs(a - b) for a, b in zip(x, y, strict=True)) < 6 for x, y in zip(seen, wanted, strict=True)
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_follows_mouse_and_keyboard(open_page: Open, width: int) -> None:
    page = open_page("full", width)
    assert _near(_seen(page), GREY, GREY, RED)
    box = page.locator(".panes").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert _near(_seen(page), GREY, RED, RED)
    slider = page.get_by_role("slider")
    at = int(slider.input_value())
    assert abs(at - 25) <= 1
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == str(at + 20)
    assert slider.get_attribute("aria-valuetext") == f"{at + 20} % image, {80 - at} % mask"
    assert _near(_seen(page), GREY, GREY, RED)
    page.keyboard.press("Home")
    assert _near(_seen(page), RED, RED, RED)
    page.keyboard.press("End")
    assert _near(_seen(page), GREY, GREY, GREY)
    assert page.said == []


def test_the_slider_follows_a_finger(open_page: Open) -> None:
    page = open_page("full", 360, has_touch=True, is_mobile=True)
    page.locator(".panes").scroll_into_view_if_needed()
    box = page.locator(".panes").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert abs(int(page.get_by_role("slider").input_value()) - 25) <= 1
    assert _near(_seen(page), GREY, RED, RED)


def test_any_two_pictures_can_be_compared(open_page: Open) -> None:
    page = open_page("full")
    page.get_by_label("mask | truth").check()
    assert _near(_seen(page), RED, RED, BLUE)
    page.keyboard.press("ArrowLeft")  # the choices are one group of radio buttons
    assert _near(_seen(page), GREY, GREY, BLUE)
    assert (
        page.get_by_role("slider").get_attribute("aria-label") == "image left of the line, truth right of it"
    )


def test_two_pictures_leave_nothing_to_choose(open_page: Open) -> None:
    page = open_page("many")
    assert not page.locator(".choices").is_visible()
    assert _near(_seen(page), GREY, GREY, RED)


@pytest.mark.parametrize("width", WIDTHS)
def test_without_scripts_the_pictures_stand_side_by_side(open_page: Open, width: int) -> None:
    page = open_page("full", width, java_script_enabled=False)
    boxes = [
        page.locator(f"figure[data-pane={name}] img").bounding_box() for name in ("image", "mask", "truth")
    ]
    assert all(box["width"] > 250 and box["x"] + box["width"] <= width for box in boxes)
    assert len({(box["x"], box["y"]) for box in boxes}) == 3
    assert not page.locator(".choices").is_visible()
    assert not page.get_by_role("slider").is_visible()


def test_the_policy_stops_what_is_put_into_the_page(open_page: Open) -> None:
    page = open_page("full")
    page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
          const image = document.createElement('img');
          image.src = 'http://127.0.0.1:9/x.png';
          document.body.append(image);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    stopped = [text for kind, text in page.said if kind == "error" and "Content Security Policy" in text]
    assert len(stopped) == 2


def test_a_printed_page_shows_all_of_it(open_page: Open) -> None:
    page = open_page("full")
    page.emulate_media(media="print")
    assert all(page.locator(f"figure[data-pane={name}]").is_visible() for name in ("image", "mask", "truth"))
    assert page.get_by_text("RAPL, package 0").first.is_visible()  # in what is folded on a screen
    assert not page.get_by_role("slider").is_visible()
