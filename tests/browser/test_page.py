"""The report's page in a real browser, opened from disk as a reader would."""

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
    lost = ({"round": 1, "client": 2, "cause": "ValueError: " + "x" * 200},)
    results = make_results(
        sweep(
            axes=AXES,
            seeds=(0, 1),
            broken=lambda settings, seed: settings["layout.fraction"] == 1 and seed == 1,
            lost=lost,
        )
    )
    return page.write_page(results).as_uri()


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


def test_its_policy_lets_no_script_in(opened):
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
    figures = browser.find_elements("css selector", "figure svg")
    assert len(figures) == 11
    for figure in figures:
        assert figure.is_displayed()
        assert figure.size["width"] > 300
        assert figure.size["height"] > 100


def test_links_of_the_contents_lead_to_visible_headings(opened):
    browser = opened(1366)
    for link in browser.find_elements("css selector", "nav a"):
        target = link.get_attribute("href").split("#")[1]
        assert browser.find_element("id", target).text == link.text
