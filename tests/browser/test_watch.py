"""The page that `fl-sim watch` serves, in a real browser."""

import os
import threading
import time

import pytest

from fl_sim.report import watch

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("blank_figures")]


def test_it_is_loaded_again_when_results_change_and_keeps_what_is_open(
    browser, make_results, sweep, monkeypatch
):
    monkeypatch.setattr(watch, "PAUSE", 0.1)
    monkeypatch.setattr(watch, "MIN_BUILD_PAUSE", 0.1)
    monkeypatch.setattr(watch, "BUILD_SHARE", 1e9)
    path = make_results(sweep(axes={"layout.fraction": [0.0, 0.5]})).path
    addresses, stop = [], threading.Event()
    arguments = (path, 0, False, addresses.append, stop)
    server = threading.Thread(target=watch.serve, args=arguments)
    server.start()

    def wait_for(words):
        until = time.monotonic() + 60
        while words not in browser.page_source:
            assert time.monotonic() < until, words
            time.sleep(0.2)

    try:
        while not addresses:
            time.sleep(0.05)
        browser.get(addresses[0])
        wait_for("2 of 2 runs have finished")
        assert browser.get_log("browser") == []
        browser.execute_script("document.querySelectorAll('details')[2].open = true")
        version = browser.find_element("css selector", ".live").get_attribute("data-version")
        os.utime(path / "summary.json")
        wait_for(f'data-version="{int(version) + 1}"')
        opened = "return [...document.querySelectorAll('details')].map(each => each.open)"
        assert browser.execute_script(opened).index(True) == 2
    finally:
        stop.set()
        server.join(10)
    wait_for("The server has stopped")
