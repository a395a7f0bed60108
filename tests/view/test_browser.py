"""The page in a real Chromium: it loads, filters, follows a lineage, grows with the run, and runs nothing of a text."""

import re
import shutil
from itertools import pairwise

import pytest

from extra_jax.view.answers import Answers
from extra_jax.view.page import write_page
from view.fakes import HOSTILE, metrics_row, row, small_run, tokens_row, write_metrics, write_step
from view.test_judged import a_store
from view.test_server import serving

driver = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
SECONDS = 60_000  # milliseconds that anything may take on a busy machine


@pytest.fixture(scope="module")
def browser():
    with driver.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens an address; afterwards nothing was said on the console and nothing was asked of another host."""
    said, asked, contexts = [], [], []

    def opened(address, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert not [url for url in asked if not re.match(r"http://127\.0\.0\.1:|file:|data:", url)]


def until(page, expression):
    """Waits for a condition; Playwright's own way would need `eval`, which the page forbids."""
    for _ in range(SECONDS // 50):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


ALL_HOSTILE = (
    "document.querySelectorAll('.entry').length > 1 && "
    "[...document.querySelectorAll('.entry .name')].every((name) => name.textContent.startsWith('hostile'))"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, rate in (("arm-s0", 0, 0.1), ("arm-s1", 1, 0.1), ("base-s0", 0, 0.2)):
        small_run(folder / name, seed=seed, rate=rate)
    return folder


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs) as running:
        yield running


def test_curves_of_runs_and_arms_share_a_crosshair_and_lead_to_completions(server, open_page):
    page = open_page(server.url)
    page.wait_for_selector("[data-metric='eval_pass@1'] canvas")
    assert page.locator("[data-metric='reward'] h3").inner_text() == "Reward"
    assert page.locator("[data-metric='reward'] .readout .swatch").count() == 3
    page.select_option("#arms", "1")
    page.wait_for_selector("text=arm (2 seeds)")
    pass_rate = page.locator("[data-metric='eval_pass@1'] .readout")
    assert "20 % to 31 %" in pass_rate.inner_text()  # the two seeds, 0.2 and 0.2 + 1/9
    page.locator("[data-metric='reward'] .u-over").hover(position={"x": 3, "y": 50})
    until(page, "document.querySelector('[data-metric=\"exploration/novelty_mean\"] .step').textContent === 'step 0'")
    assert page.locator("[data-metric='eval_pass@1'] .step").inner_text() == "step 0"
    page.locator("[data-metric='reward'] .u-over").click()
    page.wait_for_selector("#detail .completion")
    assert page.locator("#list .entry .meta").first.inner_text().startswith("step 2")  # the middle of the chart


@pytest.fixture
def press(server, open_page):
    """Presses the middle of a chart, in a window that scrolls."""
    page = open_page(server.url, viewport={"width": 900, "height": 500})
    plot = page.locator("[data-metric='reward'] .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    return page, middle


def test_a_page_that_scrolls_under_the_pressed_button_swallows_no_click(press):
    page, _ = press
    page.evaluate("scrollBy(0, scrollY > 40 ? -20 : 20)")
    page.wait_for_timeout(300)
    page.mouse.up()
    page.wait_for_selector("#detail .completion")


def test_a_drag_in_a_chart_is_no_click(press):
    page, (x, y) = press
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert "view=groups" not in page.url


def test_a_search_for_a_metric_keeps_the_focus(server, open_page):
    page = open_page(server.url)
    page.wait_for_selector("[data-metric='reward'] canvas")
    page.keyboard.press("/")
    page.keyboard.type("novel")
    until(page, "!document.querySelector('[data-metric=\"reward\"]')")
    assert page.locator("[data-metric]").count() == 1
    assert page.input_value("#find") == "novel"


def test_filters_narrow_the_list_and_the_link_restores_them(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0")
    page.wait_for_selector(".entry")
    before = page.locator(".entry").count()
    page.select_option("#guided", "yes")
    until(page, "document.querySelectorAll('.entry').length === 1")
    assert before == 9
    page.select_option("#guided", "")
    page.check("#truncated")
    page.wait_for_selector(".completion.faded")
    until(page, "document.querySelectorAll('.completion:not(.faded)').length === 1")
    page.uncheck("#truncated")
    page.fill("#q", "nowhere to be found")
    page.wait_for_selector("#detail .completion", state="detached")
    page.fill("#q", "")
    page.wait_for_selector("#detail .completion")
    page.fill("#q", "stolen")
    until(page, ALL_HOSTILE)
    again = open_page(page.url)
    again.wait_for_selector(".entry")
    assert again.input_value("#q") == "stolen"
    assert again.locator(".entry").count() == page.locator(".entry").count()


def test_a_lineage_can_be_followed_both_ways(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0&ref=3:7")
    page.wait_for_selector(".lineage")
    said = page.locator(".lineage").inner_text()
    assert "attempt 1:1" in said
    assert "cut after 40 %" in said
    assert "0.21 nats" in said
    assert "0 of 2 are correct" in said
    assert page.locator(".lineage u").inner_text().strip() == "6+12=18"
    assert page.locator(".completion.guided u").first.inner_text().strip() == "6+12=18"
    page.locator(".lineage .ref").click()
    page.wait_for_selector("text=Its beginning was kept for")
    page.click("text=step 3: 0 of 2 correct")
    page.wait_for_selector(".lineage")
    assert page.locator(".visits a.guided[aria-current=true]").count() == 1
    page.keyboard.press("p")
    page.wait_for_selector(".lineage", state="detached")
    page.keyboard.press("j")
    page.wait_for_selector("h2:has-text('hostile')")


def test_tokens_are_coloured_and_explained(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0&ref=3:0")
    page.wait_for_selector(".text .e9")
    page.locator(".text .e9").first.hover()
    assert "entropy 0.75 nats, probability 78 %" in page.locator("#tip").inner_text()
    page.select_option("#color", "logprob")
    page.wait_for_selector(".text .l9")
    page.keyboard.press("Escape")
    page.locator("h2").first.click()
    page.keyboard.press("a")
    page.wait_for_selector(".text .m9")
    page.keyboard.press("0")
    page.wait_for_selector(".text .m9", state="detached")


def test_the_nearest_neighbour_stands_beside(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0&ref=3:0")
    page.click("text=its nearest neighbour 1:0")
    page.wait_for_selector("dialog[open] .completion >> nth=1")
    assert "Distance 0.375" in page.locator("dialog").inner_text()
    assert page.locator("dialog .completion").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")


def contrast(page, selector):
    """WCAG contrast of text and ground of an element, over the surface that lies below."""
    return page.evaluate(
        """(selector) => {
      const canvas = document.createElement('canvas'), pen = canvas.getContext('2d', { willReadFrequently: true });
      const paint = (color) => { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); };
      const light = () => { const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((v) => v / 255).map((v) =>
        v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const node = document.querySelector(selector);
      paint(getComputedStyle(node.closest('.completion')).backgroundColor);
      paint(getComputedStyle(node).backgroundColor);
      const below = light(); paint(getComputedStyle(node).color); const above = light();
      return (Math.max(above, below) + 0.05) / (Math.min(above, below) + 0.05); }""",
        selector,
    )


def test_the_darkest_token_can_be_read(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0&ref=3:0")
    for color, name in (("entropy", "e9"), ("logprob", "l9"), ("advantage", "m9")):
        page.wait_for_selector("#color")
        page.select_option("#color", color)
        page.wait_for_selector(f".text .{name}")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert contrast(page, f".text .{name}") >= 4.5


def test_hostile_completions_are_text(server, open_page):
    page = open_page(server.url + "#view=groups&run=arm-s0&ref=1:2")
    page.wait_for_selector("#detail .completion")
    shown = page.evaluate("[...document.querySelectorAll('#detail .text')].map((node) => node.textContent)")
    named = {"\u202e": "\u27e8202E\u27e9", "\u0007": "\u27e80007\u27e9", "\ud800": "\u27e8D800\u27e9"}
    assert shown == ["".join(named.get(character, character) for character in text) for text in HOSTILE]
    assert page.evaluate("window.stolen") is None
    assert page.locator("#detail img, #detail script").count() == 0


def test_replies_of_the_judge_stand_beside_the_segments(tmp_path, open_page):
    groups = a_store(tmp_path / "store")
    with serving(tmp_path) as server:
        page = open_page(server.url + "#view=groups&source=judge/j1")
        page.wait_for_selector(".segment")
        first = page.locator(".completion").first
        ends = [0, *groups[0][0]["segment_chars"]]
        texts = [groups[0][0]["text"][start:end] for start, end in pairwise(ends)]
        assert first.locator(".segment > .text").all_inner_texts() == texts
        assert first.locator(".score").all_inner_texts() == ["5", *["3"] * (len(texts) - 1)]
        assert first.locator(".segment summary").all_inner_texts() == [
            "at last",
            *(f"reply {i}" for i in range(1, len(texts))),
        ]
        first.locator(".segment summary").first.click()
        assert first.locator(".reply").first.inner_text() == "at last"


def test_what_was_learned_from_scores_leads_to_the_replies(tmp_path, open_page):
    stored = a_store(tmp_path / "store")[1][0]
    count = len(stored["segment_tokens"])
    scores = [5.0, *[None] * (count - 1)]
    trained = row(1, 0, stored["uid"], stored["text"], judged=stored["rollout_id"], segment_scores=scores)
    columns = {name: stored[name] for name in ("segment_tokens", "segment_chars")}
    write_step(tmp_path, 1, [trained | columns | {"segment_advantages": [0.25, *[-0.5] * (count - 1)]}])
    with serving(tmp_path) as server:
        page = open_page(server.url + "#view=groups&source=training")
        page.wait_for_selector(".segment")
        assert page.locator(".score").all_inner_texts() == ["5", *["none"] * (count - 1)]
        worth = page.locator(".segment > .why").all_inner_texts()
        assert worth == ["advantage 0.25", *["advantage −0.5"] * (count - 1)]
        assert "".join(page.locator(".segment > .text").all_inner_texts()) == stored["text"]
        page.click("text=Its replies")
        page.wait_for_selector(".segment summary")
        assert page.locator("#list .entry").count() == 1
        assert page.locator(".segment summary").first.inner_text() == "reply 0"
        assert page.locator("#detail h2").inner_text() == stored["uid"]


def test_a_link_to_what_is_not_there_says_so(server, open_page):
    page = open_page(server.url + "#view=groups&run=elsewhere")
    page.wait_for_selector("text=This page has no run elsewhere")
    page = open_page(server.url + "#view=groups&run=arm-s0&guided=yes&ref=3:7")
    page.wait_for_selector(".lineage")
    page.evaluate("location.hash = 'view=groups&run=arm-s1&step=2'")
    page.wait_for_selector("#list .entry")
    assert page.locator("#list .entry").count() == 2


def test_the_page_grows_with_the_run(tmp_path, open_page):
    run = small_run(tmp_path / "run", steps=2)
    with serving(run) as server:
        page = open_page(server.url)
        page.wait_for_selector("text=step 2 of 40")
        write_step(run, 3, [tokens_row(3, 0, "fresh/1", "7+1=8\n")])
        write_metrics(run, [metrics_row(3)])
        page.wait_for_selector("text=step 3 of 40")
        page.click("#tab-groups")
        page.wait_for_selector(".entry >> text=fresh/1")
        write_step(run, 4, [tokens_row(4, 0, "fresh/2", "7+2=9\n")])
        page.wait_for_selector(".entry >> text=fresh/2")
        assert page.locator(".entry").first.inner_text().startswith("fresh/2")


def test_a_run_that_begins_later_in_a_folder_joins_the_page(tmp_path, open_page):
    small_run(tmp_path / "one")
    with serving(tmp_path) as server:
        page = open_page(server.url)
        page.wait_for_selector(".chip >> text=one")
        small_run(tmp_path / "later", seed=1)
        page.wait_for_selector(".chip >> text=later")
        until(page, "document.querySelectorAll('[data-metric=reward] .readout .swatch').length === 2")
        assert page.locator(".chip").all_inner_texts() == ["one", "later"]


@pytest.mark.parametrize("view", ["curves", "groups&run=arm-s0&ref=3:7"])
def test_nothing_lies_outside_of_a_phone(server, open_page, view):
    page = open_page(server.url + "#view=" + view, viewport={"width": 390, "height": 800})
    page.wait_for_selector("canvas" if view == "curves" else ".completion")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_link_with_a_token_opens_the_page(runs, open_page):
    with serving(runs / "arm-s0", "0.0.0.0") as server:
        page = open_page(server.url.replace("0.0.0.0", "127.0.0.1"))
        page.wait_for_selector("[data-metric='reward'] canvas")
        assert page.url.endswith("/")


def test_the_one_file_works_from_the_disk(runs, tmp_path, open_page):
    path, _, _ = write_page(Answers([str(runs)]), tmp_path / "page.html")
    page = open_page(path.as_uri() + "#view=groups&run=arm-s0&guided=yes")
    page.wait_for_selector(".lineage u")
    assert page.locator(".entry").count() == 1
    page.select_option("#guided", "")
    page.fill("#q", "onerror")
    until(page, ALL_HOSTILE)
    page.click("#tab-curves")
    page.wait_for_selector("[data-metric='reward'] canvas")
    assert page.evaluate("window.stolen") is None
