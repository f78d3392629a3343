"""The report's page in a real browser, opened from disk as a reader would."""

from dataclasses import replace

import pytest

from fl_sim.report import page

pytestmark = pytest.mark.browser

AXES = {
    "model": ["resnet18, pretrained, last_block", "small_cnn, random, full"],
    "layout.fraction": [0.0, 0.5, 1.0],
    "strategy": ["FedAvg", "TrimmedMean(num_byzantine=2)"],
}


@pytest.fixture(scope="module")
def address(make_results, sweep):
    """Return the address of a page without PDF files, which take most of the time."""
    lost = ({"round": 1, "client": 2, "cause": "ValueError: " + "x" * 200},)
    results = make_results(
        sweep(
            axes=AXES,
            seeds=(0, 1),
            broken=lambda settings, seed: settings["layout.fraction"] == 1 and seed == 1,
            lost=lost,
        )
    )
    results = replace(results, question="What does protecting images cost?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MANY_SETTINGS", 0)
        return page.write_page(results).as_uri()


def unfold(browser):
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")


@pytest.fixture
def opened(browser, address):
    """Return a function that opens the page in a window of some width."""

    def open_at(width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        return browser

    yield open_at
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_opens_without_a_word_on_the_console(opened):
    browser = opened(1366)
    assert browser.title == "toy on Fashion-MNIST"
    assert browser.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [name for name in browser.execute_script(loaded) if not name.startswith("data:")] == []


def test_its_policy_lets_no_other_script_in(opened):
    browser = opened(1366)
    browser.execute_script(
        """const own = document.createElement('script');
        own.textContent = 'window.ran = true'; document.body.append(own);
        const picture = document.createElement('img');
        picture.src = 'http://127.0.0.1:9/x.png'; document.body.append(picture);"""
    )
    assert browser.execute_script("return window.ran === undefined")
    refused = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert refused.count("Content Security Policy") >= 2
    style = "return getComputedStyle(document.body).maxWidth"
    assert browser.execute_script(style) == "1120px"  # the page's own style still holds


@pytest.mark.parametrize("width", [1366, 400])
def test_nothing_sticks_out(opened, width):
    browser = opened(width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_tables_fit_a_laptop_without_scrolling(opened):
    too_wide = """return [...document.querySelectorAll('.scroll')]
        .filter(e => e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-label'))"""
    assert opened(1366).execute_script(too_wide) == []


@pytest.mark.parametrize("width", [1366, 400])
def test_every_figure_is_visible(opened, width):
    browser = opened(width)
    unfold(browser)
    figures = browser.find_elements("css selector", "figure svg")
    assert len(figures) == 12
    for figure in figures:
        assert figure.is_displayed()
        assert figure.size["width"] > 300
        assert figure.size["height"] > 100


def test_links_of_the_contents_lead_to_visible_headings(opened):
    browser = opened(1366)
    for link in browser.find_elements("css selector", "nav a"):
        target = link.get_attribute("href").split("#")[1]
        assert browser.find_element("id", target).text == link.text


def test_the_first_screen_has_question_answer_and_figure(opened):
    browser = opened(1280)
    for name in ("h1", ".question", ".tiles", ".answer p", "#answer svg"):
        box = browser.find_element("css selector", name).rect
        assert box["y"] + box["height"] <= 900, name


def test_details_are_folded_until_a_link_leads_to_them(opened):
    browser = opened(1280)
    assert browser.execute_script("return document.documentElement.scrollHeight") <= 3 * 900
    closed = "return document.querySelector('#leakage').closest('details').open"
    assert browser.execute_script(closed) is False
    browser.execute_script("location.hash = '#leakage'")
    wait = "const done = arguments[0]; setTimeout(done, 50)"
    browser.execute_async_script(wait)
    assert browser.execute_script(closed) is True


def read_column(browser, place):
    code = """return [...document.querySelector('#key').parentElement.querySelectorAll('tbody tr')]
        .filter(row => !row.hidden).map(row => row.cells[arguments[0]].firstChild.textContent)"""
    return [text.strip() for text in browser.execute_script(code, place)]


def test_a_click_sorts_a_table_and_a_third_one_restores_it(opened):
    browser = opened(1280)
    heads = browser.find_elements("css selector", "section[aria-labelledby=key] thead button")
    place = next(i for i, head in enumerate(heads) if head.text.startswith("A_mix"))
    before = read_column(browser, place)
    heads[place].click()
    assert read_column(browser, place) == sorted(before, key=float, reverse=True)
    heads[place].click()
    assert read_column(browser, place) == sorted(before, key=float)
    heads[place].click()
    assert read_column(browser, place) == before


def test_words_filter_the_rows_of_a_table(opened):
    browser = opened(1280)
    field = browser.find_element("css selector", "section[aria-labelledby=key] input")
    field.send_keys("fedavg small")
    assert set(read_column(browser, 0)) == {"small_cnn, random, full"}
    assert len(read_column(browser, 0)) == 3


def test_heads_stay_and_the_cue_shows_on_a_narrow_screen(opened):
    browser = opened(390)
    state = """const box = document.querySelector('section[aria-labelledby=key] .scroll');
        box.scrollLeft = 120;
        const head = box.querySelector('tbody th').getBoundingClientRect();
        return [box.scrollWidth > box.clientWidth,
            Math.abs(head.left - box.getBoundingClientRect().left) <= 1,
            box.previousElementSibling.querySelector('.cue').hidden]"""
    assert browser.execute_script(state) == [True, True, False]


def test_a_dark_scheme_is_dark(opened):
    browser = opened(1280)
    for scheme, darker in (("light", False), ("dark", True)):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = (
            sum(map(int, colour[4:-1].split(","))) for colour in browser.execute_script(colours)
        )
        assert (paper < ink) is darker
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_points_tell_their_values_under_the_pointer(opened):
    titles = "return [...document.querySelectorAll('#answer circle title')].map(e => e.textContent)"
    assert any("accuracy" in title for title in opened(1280).execute_script(titles))
