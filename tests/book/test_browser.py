"""The built site in a real browser: reachable, readable, usable, at desk and phone width.

`make endtoend` runs it on the site that it has built; `make browser` on the one built last.
"""

import functools
import http.server
import os
import shutil
import threading
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_site import PAGES

from memoir_core.config import PROFILES

pytestmark = pytest.mark.endtoend

WIDTHS = (1280, 390)
# Pages of code are all made in one way: axe, which takes seconds a page, looks at two of them.
CODE = [name for name in PAGES if name.startswith("book/code/")]
FOR_AXE = {*PAGES} - {*CODE[2:]}
PAGE_MB, SITE_MB = 4, 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a keyboard or a screen reader stumbles over even where axe calls it moderate only
ALSO = {"heading-order"}

# Elements whose own box leaves the screen and that no scrolling parent holds back
WIDE = """() => [...document.querySelectorAll('main *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return true; }).slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""
OVERFLOW = "() => document.scrollingElement.scrollWidth - innerWidth"
# Thousands of words of code look alike: one of each kind stays (its classes and those of all around
# it, on which its colours depend), the others are made plain text, or axe takes minutes.
ALIKE = """() => { const seen = new Set(), look = word => {
    const around = [word.getAttribute('style')];
    for (let e = word; e; e = e.parentElement) around.push(e.className);
    return around.join('|') };
  const alike = [...document.querySelectorAll('.highlight span')].filter(word => {
    const kind = look(word), known = seen.has(kind); seen.add(kind); return known });
  for (const word of alike) word.replaceWith(word.textContent) }"""
# axe asks of each piece of text, for a hundredth of a second or more, what lies behind it. What has
# the same colour, size and weight on the same backgrounds has the same contrast: one of each look
# is marked, the last one of a page, on which something may have been laid, and all that is placed
# freely. A picture's own text is none.
LOOKS = """() => { const looks = new Map(), behind = e => { const all = [];
    for (; e; e = e.parentElement) { const s = getComputedStyle(e);
      if (s.position == 'absolute' || s.position == 'fixed') all.push(e.className, e.id);
      all.push(s.backgroundColor, s.backgroundImage.slice(0, 40), s.opacity, s.filter); }
    return all.join('|').replace(/(rgba\\(0, 0, 0, 0\\)\\|none\\|1\\|none\\|?)+/g, '-'); };
  for (const e of document.querySelectorAll('body *')) {
    e.removeAttribute('data-look');
    if (e.closest('svg, script, style, noscript')) continue;
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())
        && !e.matches('input, select, textarea')) continue;
    const s = getComputedStyle(e);
    looks.set([e.tagName, s.color, s.fontSize, s.fontWeight, s.visibility, s.textShadow,
               behind(e)].join('|'), e); }
  for (const e of looks.values()) e.setAttribute('data-look', '');
  return looks.size }"""
# Chooses every answer of a page's quiz; says how many questions there are, and which do not answer
QUIZ = """() => {
  const wrong = [], asked = [...document.querySelectorAll('article p')].filter(
    p => /^Question \\d+\\.\\d+\\./.test(p.textContent) && !p.closest('.admonition'));
  for (const p of asked) {
    const buttons = [...(p.nextElementSibling?.querySelectorAll('button') ?? [])];
    buttons.forEach(b => b.click());
    const said = buttons.map(b => b.nextElementSibling.textContent);
    const right = said.filter(text => text.includes('Right. ')).length;
    if (buttons.length < 3 || right !== 1 || said.some(text => !/\\) +\\S[^]{3}/.test(text)))
      wrong.push(`a question that does not answer: ${p.textContent.slice(0, 80)} ${said}`); }
  return [asked.length, wrong] }"""
IMAGES = """async () => { const found = [...document.images];
  for (const i of found) { i.loading = 'eager'; try { await i.decode() } catch { } }
  return found.map(i => ({ src: i.src.slice(0, 80), width: i.naturalWidth, alt: i.alt })) }"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("MEMOIR_CHROMIUM", ""), *CHROMIUM)
    path = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if path is None:
        message = "NO BROWSER: the site was not looked at. Install one: apt-get install chromium"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(site):
    """Serve the site from this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visitor:
    """A page that may load from this machine only, and that remembers what went wrong."""

    def __init__(self, browser, address, width=WIDTHS[0]):
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.route("**/*", self._only_local)
        self.context.set_default_timeout(60_000)  # a busy machine is slow, not wrong
        self.page = self.context.new_page()
        self.address, self.problems = address, []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        self.page.on("response", self._response)

    def _only_local(self, route):
        parts = urlsplit(route.request.url)
        if parts.scheme in ("data", "blob", "file") or parts.hostname == "127.0.0.1":
            route.continue_()
        else:
            self.problems.append(f"a request to another host: {route.request.url}")
            route.abort()

    def _console(self, message):
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def open(self, name):
        self.page.goto(f"{self.address}/{name}.html", wait_until="load")
        return self.page


@pytest.fixture(scope="module")
def one_visitor(browser, address):
    """One window for all tests: what the pages share is then loaded once."""
    return Visitor(browser, address)


@pytest.fixture
def visitor(one_visitor):
    one_visitor.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    one_visitor.problems.clear()
    return one_visitor


def set_theme(page, theme):
    page.evaluate(
        """theme => { document.documentElement.dataset.mode = theme;
        document.documentElement.dataset.theme = theme; }""",
        theme,
    )


def axe_problems(page, theme, everything=True):
    """What axe-core finds serious in a theme: all of its rules, or the contrast of each look."""
    from axe_playwright_python.sync_playwright import Axe

    set_theme(page, theme)
    page.evaluate(ALIKE)
    page.evaluate(LOOKS)
    usual, contrast = {"resultTypes": ["violations"], "preload": False}, "color-contrast"
    asked = [({"include": [["[data-look]"]]}, {"runOnly": {"type": "rule", "values": [contrast]}})]
    if everything:
        asked.append((None, {"rules": {contrast: {"enabled": False}}}))
    found = []
    for context, options in asked:
        found += Axe().run(page, context, usual | options).response["violations"]
    return [
        f"{theme} theme, {v['id']} ({v['impact']}): {v['help']}\n"
        + "\n".join(
            f"    {node['target']} {node['html'][:150]}\n      "
            + "; ".join(m["message"][:160] for m in [*node["any"], *node["all"], *node["none"]][:2])
            for node in v["nodes"][:4]
        )
        for v in found
        if v["impact"] in ("serious", "critical") or v["id"] in ALSO
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_fits_every_width_and_is_accessible(visitor, name):
    page = visitor.open(name)
    asked, problems = page.evaluate(QUIZ)
    if name.startswith("book/chapters/") and asked < 2:
        problems.append(f"{asked} questions in the quiz")
    problems += axe_problems(page, "light") if name in FOR_AXE else []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if page.evaluate(OVERFLOW) > 0:
            problems.append(f"{width} px: wider than the screen: {page.evaluate(WIDE)}")
    images = page.evaluate(IMAGES)
    problems += [f"a missing image: {image}" for image in images if not image["width"]]
    problems += [f"no meaning in alt: {i}" for i in images if len(i["alt"].split()) < 3]
    if name in FOR_AXE:
        problems += axe_problems(page, "dark", everything=False)  # all that a theme changes
    # Page by page, 'next' leads through the whole table of contents and ends with it
    following = [f"{visitor.address}/{n}.html" for n in PAGES[PAGES.index(name) + 1 :][:1]]
    reached = page.locator("a.right-next").evaluate_all("all => all.map(a => a.href)")
    if reached != following:
        problems.append(f"'next' leads to {reached}, not to {following}")
    if "Nothing in it is for clinical use" not in page.inner_text("footer.bd-footer-content"):
        problems.append("the footer does not say that this is not for clinical use")
    problems += visitor.problems
    assert not problems, f"{name}:\n" + "\n".join(problems)


@pytest.mark.parametrize("name", ["03_encoders", "04_stage1_contrastive"])
def test_the_first_idea_begins_on_the_first_screens_of_a_phone(visitor, name):
    page = visitor.open(f"book/chapters/{name}")
    page.set_viewport_size({"width": WIDTHS[1], "height": 900})
    tops = page.locator("article h2").evaluate_all(
        "all => all.map(h => h.getBoundingClientRect().top + scrollY)"
    )
    assert 200 < tops[0] < 600, tops[:3]


def test_next_leads_from_the_front_page_into_the_book(visitor):
    page = visitor.open("index")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    page.click("a.right-next")
    page.wait_for_url(f"**/{PAGES[1]}.html")


def test_the_slider_moves_the_slice(visitor):
    page = visitor.open("book/chapters/02_visualisation")
    viewer = page.locator("figure:has(input[type=range])").first
    before = viewer.locator("img").get_attribute("src")
    viewer.locator("input").focus()
    page.keyboard.press("ArrowRight")
    assert viewer.locator("img").get_attribute("src") != before
    shown = viewer.locator("output").inner_text()
    assert shown == viewer.locator("input").input_value()


def test_the_explorer_shows_the_chosen_query(visitor):
    page = visitor.open("book/chapters/08_retrieval")
    explorer = page.locator("section[id^=explorer]")
    cards = explorer.locator("figcaption")
    assert cards.count() == 1 + PROFILES["smoke"].rerank_k
    before = cards.all_inner_texts()
    explorer.locator("select").select_option(index=1)
    assert cards.all_inner_texts() != before
    widths = explorer.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert all(widths), "a slice did not load"


def test_formulas_are_typeset_without_the_network(visitor):
    page = visitor.open("book/chapters/04_stage1_contrastive")
    page.wait_for_selector("mjx-container")
    page.wait_for_timeout(300)
    assert not visitor.problems, visitor.problems


def test_the_search_finds_a_term(visitor):
    page = visitor.open("search")
    page.goto(page.url + "?q=InfoNCE")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("04_stage1_contrastive" in link for link in found), found
    assert not visitor.problems, visitor.problems


def test_it_can_be_opened_from_the_disk(browser, site):
    opened = Visitor(browser, Path(site).resolve().as_uri())
    page = opened.open(PAGES[0])
    page.click("a.right-next")
    page.wait_for_url(f"**/{PAGES[1]}.html")
    assert not opened.problems, opened.problems
    opened.context.close()


def test_solutions_open_with_the_keyboard(visitor):
    page = visitor.open("book/chapters/01_cohort")
    button = page.locator(".admonition.dropdown button.toggle-button").first
    hidden = page.locator(".admonition.dropdown").first.locator("> :nth-child(2)")
    assert not hidden.is_visible()
    button.focus()
    page.keyboard.press("Enter")
    hidden.wait_for(state="visible")


def test_a_choice_of_the_quiz_tells_its_reason_and_is_counted(visitor):
    page = visitor.open("book/chapters/10_reproduction_report")
    questions, told = page.locator("ul.quiz"), page.locator(".quiz-count")
    total = questions.count()
    assert f"{total} questions" in told.inner_text()
    assert not page.get_by_text("It can show that the method runs").is_visible()
    first = questions.nth(1).locator("button")
    first.nth(1).focus()
    page.keyboard.press("Enter")  # by keyboard: it is a button
    item = questions.nth(1).locator("li").nth(1)
    assert first.nth(1).get_attribute("aria-expanded") == "true"
    assert "Right. (b) It can show" in item.locator("[aria-live]").inner_text()
    assert told.inner_text() == f"Quiz: 1 of 1 right at the first choice, {total - 1} to go."
    questions.nth(0).locator("button").nth(0).click()
    assert "Not this one. (a) " in questions.nth(0).locator("li").nth(0).inner_text()
    questions.nth(0).locator("button").nth(2).click()  # reads on; the first choice counts
    for k in range(2, total):
        questions.nth(k).locator("button").nth(0).click()
    assert told.inner_text().startswith(f"Quiz: 1 of {total} right at the first choice. ")
    assert not visitor.problems, visitor.problems


def test_without_scripts_the_quiz_is_text_with_its_answers(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/book/chapters/10_reproduction_report.html")
    assert page.locator("ul.quiz, .quiz-count").count() == 0
    assert page.get_by_text("It can show that the method runs").count() == 1
    context.close()


def test_a_chapter_to_work_in_is_a_students_copy(site):
    text = (site / "book" / "chapters" / "05_stage2_multitask.html").read_text("utf-8")
    assert 'href="../../notebooks/05_stage2_multitask.ipynb"' in text
    text = (site / "notebooks" / "05_stage2_multitask.ipynb").read_text("utf-8")
    assert "raise NotImplementedError  # your code" in text and "_solved" not in text


def test_the_site_is_light(site):
    heavy = [p.name for p in site.rglob("*.html") if p.stat().st_size > PAGE_MB * 1e6]
    assert not heavy, f"over {PAGE_MB} MB: {heavy}"
    total = sum(p.stat().st_size for p in site.rglob("*") if p.is_file()) / 1e6
    assert total < SITE_MB, f"{total:.0f} MB"
