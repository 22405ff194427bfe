"""The built site in a real browser: reachable, readable, usable, at desk and phone width.

`make endtoend` runs it on the site that it has built; `make browser` on the one built last.
"""

import functools
import http.server
import io
import json
import os
import re
import shutil
import threading
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
from PIL import Image
from test_notebooks import SET_UP
from test_site import PAGES

from memoir_core.config import PROFILES

pytestmark = pytest.mark.endtoend

WIDTHS = (1280, 390)
SCREENS = {1280: 900, 390: 2 * 844}  # where a chapter's opening ends: one screen, two of a phone
TO_LEFT = np.array([[-1, 0, 0, 90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # stored from right
# Pages of code are all made in one way: axe, which takes seconds a page, looks at two of them.
CODE = [name for name in PAGES if name.startswith("book/code/")]
FOR_AXE = {*PAGES} - {*CODE[2:]}
PAGE_MB, SITE_MB = 4, 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a keyboard or a screen reader stumbles over even where axe calls it moderate only
ALSO = {"heading-order"}
CONTRAST = "color-contrast"
# Other hosts have no address. Were requests routed instead, each would pass through this process,
# and nothing that the pages share would be kept: not the 1.5 MB of scripts, nor their compilation.
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

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
# Runs axe once, so that all rules share what it measures of a page: contrast where LOOKS marked it,
# and of the others those that can find something serious, by the impacts of their checks.
AXE = """async ({ rules, also }) => {
  axe.configure({ rules: [{ id: 'color-contrast', selector: '[data-look]' }] });
  const serious = check => { const { impact } = axe._audit.data.checks[check.id ?? check] ?? {};
    return !impact || ['serious', 'critical'].includes(impact) };
  const idle = axe._audit.rules.filter(rule => !also.includes(rule.id)
    && ![...rule.any, ...rule.all, ...rule.none].some(serious));
  const options = rules ? { runOnly: { type: 'rule', values: rules } }
    : { rules: Object.fromEntries(idle.map(rule => [rule.id, { enabled: false }])) };
  const usual = { resultTypes: ['violations'], preload: false };
  return (await axe.run({ ...usual, ...options })).violations }"""
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
# Texts of the picture of the model that leave the card they lie on, or the picture; and how many
# pictures can be seen
PIPELINE = """() => { const shown = [...document.querySelectorAll('svg.flow')]
    .filter(svg => svg.getBoundingClientRect().width), found = [];
  for (const svg of shown) {
    const { width, height } = svg.viewBox.baseVal, whole = { x: 0, y: 0, width, height };
    const cards = [...svg.querySelectorAll('.f-card')].map(card => card.getBBox());
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBBox(), x = box.x + box.width / 2, y = box.y + box.height / 2;
      const on = cards.filter(c => c.x < x && x < c.x + c.width && c.y < y && y < c.y + c.height);
      const card = on.pop() ?? whole;
      if (box.x < card.x + 2 || box.x + box.width > card.x + card.width - 2
          || box.y < card.y || box.y + box.height > card.y + card.height)
        found.push(text.textContent); } }
  return [shown.length, found] }"""
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
            executable_path=path,  # WebGL without a GPU is drawn by SwiftShader
            args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", ONLY_HERE],
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(site):
    """Serve the site from this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many files

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/favicon.ico":  # which a browser asks of every host once
                self.send_response(204)
                return self.end_headers()
            super().do_GET()

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visitor:
    """A page that may load from this machine only, and that remembers what went wrong."""

    def __init__(self, browser, address, width=WIDTHS[0]):
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.on("request", self._only_local)
        self.context.set_default_timeout(60_000)  # a busy machine is slow, not wrong
        self.page = self.context.new_page()
        self.address, self.problems = address, []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        self.page.on("response", self._response)

    def _only_local(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1":
            self.problems.append(f"a request to another host: {request.url}")

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


def axe_problems(page, theme, rules=None):
    """What axe-core finds serious in a theme: by all of its rules, or some; contrast by look."""
    from axe_playwright_python.sync_playwright import Axe

    set_theme(page, theme)
    page.evaluate(ALIKE)
    if rules is None or CONTRAST in rules:
        page.evaluate(LOOKS)
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate(AXE, {"rules": rules, "also": [*ALSO]})
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


# How a chapter begins: what ends where, and what besides its subject can be seen. A heading is in
# title size where its letters are as high as the title's.
OPENING = """async () => {
  const article = document.querySelector('article');
  const all = what => [...article.querySelectorAll(what)], seen = e => e.checkVisibility();
  const bottom = e => e.getBoundingClientRect().bottom + scrollY;
  const size = e => parseFloat(getComputedStyle(e).fontSize);
  const figures = all('figure#main-figure'), box = all('section > blockquote')[0];
  const [title, ...others] = all('h1, h2, h3, h4, .admonition-title');
  for (const f of figures) await f.querySelector('img').decode();
  const leads = f => document.getElementById(f.querySelector('a').hash.slice(1));
  return { ends: Math.max(...[...figures, box].map(bottom)), box: box.innerText,
    titles: [...document.querySelectorAll('h1')].filter(seen).length,
    large: others.filter(e => size(e) >= size(title)).map(e => e.innerText),
    first: all('img').filter(seen)[0].closest('figure')?.id,
    code: all('.cell_input').filter(seen)[0].innerText.trim(),
    made: figures.map(f => leads(f)?.querySelector('img')?.src == f.querySelector('img').src),
    parameters: all('.cell_input').filter(e => /^\\s*(# Parameters|profile:)/.test(e.textContent))
      .map(e => !!e.closest('details') && !seen(e)) } }"""


def opening_problems(page, width):
    """What is wrong with how a chapter begins, on one screen of a desk or two of a phone."""
    found = page.evaluate(OPENING)
    wrong = {
        f"title, figure and box end at {found['ends']:.0f} px": found["ends"] > SCREENS[width],
        f"{found['titles']} titles": found["titles"] != 1,
        f"headings as large as the title: {found['large']}": bool(found["large"]),
        f"another figure is first: {found['first']}": found["first"] != "main-figure",
        f"set-up is shown first: {found['code']}": bool(SET_UP.search(found["code"])),
        f"no time of this run: {found['box']}": not re.search(r"Time: \d+ s and", found["box"]),
        f"the figure leads to no such cell: {found['made']}": found["made"] != [True],
        f"parameters stand once, folded: {found['parameters']}": found["parameters"] != [True],
    }
    return [f"{width} px: {what}" for what, so in wrong.items() if so]


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
        if name.startswith("book/chapters/"):
            problems += opening_problems(page, width)
        pictures, outside = page.evaluate(PIPELINE)
        problems += [f"{width} px: leaves its card in the picture: {text}" for text in outside]
        if pictures != (name == "book/intro" or name.startswith("book/chapters/")):
            problems.append(f"{width} px: {pictures} pictures of the model")
    images = page.evaluate(IMAGES)
    problems += [f"a missing image: {image}" for image in images if not image["width"]]
    problems += [f"no meaning in alt: {i}" for i in images if len(i["alt"].split()) < 3]
    if name in FOR_AXE:
        problems += axe_problems(page, "dark", [CONTRAST])  # all that a theme changes
    # Page by page, 'next' leads through the whole table of contents and ends with it
    following = [f"{visitor.address}/{n}.html" for n in PAGES[PAGES.index(name) + 1 :][:1]]
    reached = page.locator("a.right-next").evaluate_all("all => all.map(a => a.href)")
    if reached != following:
        problems.append(f"'next' leads to {reached}, not to {following}")
    if "Nothing in it is for clinical use" not in page.inner_text("footer.bd-footer-content"):
        problems.append("the footer does not say that this is not for clinical use")
    problems += visitor.problems
    assert not problems, f"{name}:\n" + "\n".join(problems)


def test_a_pale_word_is_refused_in_the_theme_in_which_it_is_pale(visitor):
    page = visitor.open("book/how_to_read")
    page.evaluate("""() => { const cell = document.querySelector('main td');
        cell.innerHTML = '<span style="color: #c8c8c8">pale on white</span>' }""")
    (found,) = axe_problems(page, "light", [CONTRAST])
    assert "pale on white" in found and not axe_problems(page, "dark", [CONTRAST])


def test_an_opening_that_is_not_the_subject_is_refused(visitor):
    page = visitor.open("book/chapters/03_encoders")
    assert not opening_problems(page, WIDTHS[0])
    page.evaluate("""() => { for (const d of document.querySelectorAll('details')) d.open = true;
      const figure = document.querySelector('figure#main-figure');
      figure.before(document.querySelector('.cell img').cloneNode());
      figure.querySelector('a').hash = '#elsewhere';
      figure.style.paddingTop = '900px';
      document.querySelector('article h2').style.fontSize = '4rem'; }""")
    found = "\n".join(opening_problems(page, WIDTHS[0]))
    for what in ("end at", "as large", "another figure", "set-up", "no such cell", "stand once"):
        assert what in found, found


def test_a_text_that_leaves_its_card_is_found(visitor):
    page = visitor.open("book/intro")
    assert page.evaluate(PIPELINE) == [1, []]
    page.evaluate("document.querySelector('svg.flow text').textContent = 'x'.repeat(40)")
    page.set_viewport_size({"width": WIDTHS[1], "height": 900})
    assert page.evaluate(PIPELINE) == [1, []], "a phone has a picture of its own"
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    assert page.evaluate(PIPELINE) == [1, ["x" * 40]]


def test_next_leads_from_the_front_page_into_the_book(visitor):
    page = visitor.open("index")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    page.click("a.right-next")
    page.wait_for_url(f"**/{PAGES[1]}.html")


def open_viewer(page, place):
    """Open the viewer of volumes that is `place`-th on a page, as a keyboard does."""
    figure = page.locator("figure.brain").nth(place)
    figure.locator("button.brain-open").focus()
    page.keyboard.press("Enter")
    figure.and_(page.locator("[data-open]")).wait_for()
    return figure


def test_a_viewer_of_volumes_opens_when_asked_and_obeys_the_keyboard(visitor):
    page, asked = visitor.page, []
    page.set_viewport_size({"width": WIDTHS[1], "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    visitor.open("book/chapters/02_visualisation")
    assert not [url for url in asked if "niivue" in url or "/volumes/" in url]
    figure = open_viewer(page, 0)
    assert not figure.locator("img").is_visible()
    canvas, said = figure.locator("canvas"), figure.locator("output")
    assert canvas.evaluate("e => e === document.activeElement")
    first = said.inner_text()
    page.keyboard.press("ArrowRight")
    assert re.match(r"x 24, y -18, z 4 mm: CN .*\(SD from", first)
    assert said.inner_text().startswith("x 26, y -18, z 4 mm: CN")
    figure.locator("select").first.select_option(index=2)
    page.wait_for_function("e => e.textContent.includes('Dementia')", arg=said.element_handle())
    assert said.inner_text().startswith("x 26, y -18"), "the place stays"
    figure.get_by_label("back to front").focus()
    page.keyboard.press("ArrowRight")
    assert "y -17" in said.inner_text()
    drawn = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L"))
    assert len(np.unique(drawn)) > 50 and (drawn > 60).mean() > 0.05, "nothing was drawn"
    assert page.evaluate(OVERFLOW) <= 0
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    rules = ["label", "select-name", "button-name", "role-img-alt", "image-alt", CONTRAST]
    problems = axe_problems(page, "light", rules) + axe_problems(page, "dark", [CONTRAST])
    assert not visitor.problems + problems


def test_a_volume_of_ones_own_is_measured_and_never_sent(browser, site, tmp_path):
    """From a disk, where no page may fetch; measured as `memoir_book.check` measures it."""
    from test_content import head, registered, t1  # here: torch, MONAI and nilearn take seconds

    from memoir_book.intake import content
    from memoir_core.volumes import AFFINE, on_grid, read_volume

    opened = Visitor(browser, Path(site).resolve().as_uri(), WIDTHS[1])
    page = opened.open("book/chapters/02_visualisation")
    figure = open_viewer(page, page.locator("figure.brain").count() - 1)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    turned = nibabel.Nifti1Image(registered(t1(), 1)[::-1], AFFINE @ TO_LEFT)
    cases = {"good.nii.gz": turned, "off.nii": nibabel.Nifti1Image(head(), AFFINE)}
    for name, image in cases.items():
        nibabel.save(image, tmp_path / name)
        figure.locator("input[type=file]").set_input_files(tmp_path / name)
        figure.locator("td").first.wait_for()
        page.wait_for_function(
            "([e, name]) => e.dataset.found && e.querySelector('.brain-verdict p').innerText"
            " === name",
            arg=[figure.element_handle(), name],
        )
        found = json.loads(figure.get_attribute("data-found"))
        wanted = content.numbers(on_grid(*read_volume(tmp_path / name)), "t1")
        for key in ("share", "outside", "distance_mm", "correlation", "turned"):
            assert found[key] == pytest.approx(wanted[key], abs=0.02), (name, key)
        said, good = figure.locator(".brain-verdict").inner_text(), name == "good.nii.gz"
        assert good == (content.judge(wanted, "t1") == "") == ("Registered? yes" in said)
        assert ("Stripped? yes" in said) == good and (found["dice"] > 0.9) == good
    assert all("volume_check.js" in url for url in asked), asked
    assert not opened.problems, opened.problems
    refused = page.evaluate("() => fetch('https://example.org').then(() => false, () => true)")
    assert refused, "the page may still connect"
    opened.context.close()


def test_a_picture_stays_without_webgl_and_without_scripts(browser, address):
    """Then no button promises a viewer, and words say why."""
    for how in ("no WebGL2", "no scripts"):
        context = browser.new_context(java_script_enabled=how != "no scripts")
        if how == "no WebGL2":
            context.add_init_script(
                "const get = HTMLCanvasElement.prototype.getContext;"
                "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
                " return kind === 'webgl2' ? null : get.call(this, kind, ...rest); }"
            )
        page = context.new_page()
        page.goto(f"{address}/book/chapters/02_visualisation.html")
        figure = page.locator("figure.brain").first
        assert figure.locator("img").is_visible() and not figure.locator("button").count()
        assert "WebGL2" in figure.inner_text()
        context.close()


def test_the_slider_moves_the_threshold_and_the_recalls(visitor):
    page = visitor.open("book/chapters/06_ablation")
    viewer = page.locator("figure:has(input[type=range])").first
    picture, said = viewer.locator("img"), viewer.locator("output")
    seen = {(picture.get_attribute("src"), said.inner_text())}
    viewer.locator("input").focus()
    for key in ("Home", "End"):
        page.keyboard.press(key)
        seen.add((picture.get_attribute("src"), said.inner_text()))
        assert viewer.locator("input").get_attribute("aria-valuetext") == said.inner_text()
    assert len(seen) == len({threshold for _, threshold in seen}) == 3


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


TRY = {
    "book/try_the_model": "attention",
    "book/chapters/03_encoders": "attention",
    "book/chapters/06_ablation": "heads",
    "book/chapters/08_retrieval": "nearest",
}


@pytest.mark.parametrize("name", TRY)
def test_the_model_runs_where_its_question_is_asked(visitor, name):
    asked = []
    page = visitor.page
    page.on("request", note := lambda request: asked.append(request.url))
    visitor.open(name)
    box = page.locator(".memoir-try")
    assert name == "book/try_the_model" or not [url for url in asked if "model.js" in url]
    box.scroll_into_view_if_needed()  # only then megabytes are loaded
    page.wait_for_selector(".memoir-try[data-ready]")
    assert f"try-{TRY[name]}" in box.locator("section").first.get_attribute("class")
    assert [url for url in asked if "model.js" in url] == [f"{visitor.address}/_static/model.js"]
    problems = []
    if name == "book/try_the_model":  # it is the same everywhere
        problems = axe_problems(page, "light") + axe_problems(page, "dark")
    page.set_viewport_size({"width": WIDTHS[1], "height": 900})
    assert page.evaluate(OVERFLOW) <= 0, page.evaluate(WIDE)
    assert not problems + visitor.problems, "\n".join(problems + visitor.problems)
    page.remove_listener("request", note)


def test_a_reader_with_a_phone_sees_the_diagnosis_move(browser, site):
    """From the disk: T1 masked, MMSE from 29 to 20. The page repeats what the run had said."""
    opened = Visitor(browser, Path(site).resolve().as_uri(), WIDTHS[1])
    page = opened.open("book/try_the_model")
    page.wait_for_selector(".memoir-try[data-ready]")
    box = page.locator(".memoir-try")
    box.get_by_label("T1", exact=True).uncheck()
    said = []
    for score in (29, 20):
        box.get_by_label("MMSE", exact=True).fill(str(score))
        said.append(box.locator(".try-summary").inner_text())
    assert said[0] != said[1] and "CN 0." in said[0]
    box.locator(".try-exact").locator("text=another diagnosis is named in 0").wait_for()
    assert not opened.problems, opened.problems
    opened.context.close()


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
    set_up = page.locator("details.hide").first
    assert set_up.locator("summary").inner_text() == "Set-up: parameters, imports, start"
    set_up.locator("summary").focus()
    page.keyboard.press("Enter")
    set_up.get_by_text("# Parameters").wait_for(state="visible")


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
