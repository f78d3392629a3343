"""Serves the page of results while they are written, to this machine alone."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from time import monotonic, thread_time

from fl_sim.core.atomic_io import DamagedFileError, read_json
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import LOCK
from fl_sim.report.content import Content, read_content
from fl_sim.report.page import Live, render_html
from fl_sim.results import RESULT
from fl_sim.results.studies import SUMMARY as STUDY
from fl_sim.results.tables import SUMMARY, UNFINISHED

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
PAUSE = 1.0  # seconds between two looks at the files
MIN_BUILD_PAUSE = 3.0  # seconds between two pages, at least
BUILD_SHARE = 0.2  # of one processor's time that is spent on pages, at most
MAX_RUNNING = 4  # runs whose rounds are shown
ATTENTION = 15.0  # seconds after a request during which somebody is taken to look on


class LivePage:
    """The page of a folder of results, which is built again when they have changed."""

    def __init__(self, path: Path) -> None:
        """Show that there are no results yet."""
        self.path = path
        self.version, self.built, self.due = 0, (0, 0), 0.0
        self.asked = monotonic()
        self.state = "There are no results yet; this page shows them as they come."
        self.html = self._render(0)

    def refresh(self) -> None:
        """Build the page again if results have changed, somebody looks on, and it is time."""
        now, stamp = monotonic(), self._stamp()
        if stamp == self.built or now < self.due or now - self.asked > ATTENTION:
            return
        started = thread_time()
        version, html, self.state = self.version + 1, b"", describe_state(self.path)
        try:
            html = self._render(version, read_content(self.path))
        except RequestError as error:
            if self._stamp() == stamp:  # else it was read between two files that belong together
                self.state = f"The results cannot be read: {error}."
                html = self._render(version)
        if html:
            self.html, self.version, self.built = html, version, stamp
        self.due = monotonic() + max(MIN_BUILD_PAUSE, (thread_time() - started) / BUILD_SHARE)

    def describe(self) -> bytes:
        """Return the version of the page and the state of the runs as JSON."""
        state = " ".join(filter(None, [self.state, describe_running(self.path)]))
        return json.dumps({"version": self.version, "state": state}).encode()

    def _render(self, version: int, content: Content | None = None) -> bytes:
        content = content or Content(self.path.name, [], True, "")
        title, sections, complete, question, _ = content
        live = Live(self.state, version)
        return render_html(title, sections, complete, question, live=live).encode()

    def _stamp(self) -> tuple[int, int]:
        """Return the time and the inode of the summary, which each write changes, or zeros."""
        for name in (STUDY, SUMMARY):
            try:
                status = (self.path / name).stat()
            except FileNotFoundError:
                continue
            return status.st_mtime_ns, status.st_ino
        return 0, 0


def describe_state(path: Path) -> str:
    """Return in words the number of runs that have finished."""
    try:
        cells = read_json(path / SUMMARY)["cells"]
    except (DamagedFileError, KeyError):
        return "This page shows results as they come."
    done = sum(cell.get("status") == "finished" for cell in cells)
    going = any(cell.get("error") == UNFINISHED for cell in cells)
    end = "; this page shows others as they come" if going else ""
    return f"{done} of {len(cells)} runs have finished{end}."


def describe_running(path: Path) -> str:
    """Return in words the rounds of runs that the newest sweep has begun and not finished."""
    started, words = _read_start(path), []
    for file in sorted(path.glob("*/seed=*/progress.jsonl")):
        try:
            if file.stat().st_mtime_ns >= started and not (file.parent / RESULT).exists():
                line = json.loads(file.read_text(errors="replace").splitlines()[-1])
                words.append(f"{line['label']}: round {line['round']} of {line['rounds']}")
        except FileNotFoundError:  # removed since, as the run is done again
            continue
        except (IndexError, KeyError, TypeError, ValueError):  # before the end of a line
            continue
    return "; ".join(words[:MAX_RUNNING]) + "." * bool(words)


def _read_start(path: Path) -> int:
    """Return the time at which the newest sweep in a folder began, or 0 if it is not known."""
    lock = path / LOCK
    return lock.stat().st_mtime_ns if lock.exists() else 0


def is_over(path: Path) -> bool:
    """Return whether the newest sweep in a folder has written the summary of all its runs."""
    name = STUDY if (path / STUDY).exists() else SUMMARY
    try:
        started = _read_start(path)
        written = (path / name).stat().st_mtime_ns
        cells = read_json(path / name).get("cells", ())
    except (FileNotFoundError, DamagedFileError):
        return False
    return written >= started and all(cell.get("error") != UNFINISHED for cell in cells)


def serve(
    path: Path,
    port: int,
    until_finished: bool,
    announce: Callable[[str], None],
    stop: Event | None = None,
) -> None:
    """Serve the page of a folder until it is interrupted.

    Args:
        path: Folder of an experiment or of a study.
        port: Port of 127.0.0.1; 0 for any that is free.
        until_finished: Return when the sweep has ended, after its last page could be fetched.
        announce: Called with the address.
        stop: Event that ends it too.

    Raises:
        RequestError: If the port cannot be used.
    """
    page, stop = LivePage(path), stop or Event()
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _make_handler(page))
    except OSError as error:
        raise RequestError(f"--port: cannot use {port}: {error.strerror}") from None
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    announce(f"http://{LOOPBACK}:{server.server_port}/")
    try:
        while not stop.wait(PAUSE):
            over = until_finished and is_over(path)
            if over:
                page.due, page.asked = 0.0, monotonic()
            page.refresh()
            if over:
                stop.wait(2 * MIN_BUILD_PAUSE)  # pages that are open ask every three seconds
                return
    finally:
        server.shutdown()
        server.server_close()


def _make_handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers requests for the page and its state."""

        def do_GET(self) -> None:
            """Send the page or its state; refuse names of other hosts, which could be anybody's.

            A page elsewhere could otherwise read this one under a name that leads here.
            """
            host, _, port = self.headers.get("Host", "").partition(":")
            if host not in HOSTS or port != str(self.connection.getsockname()[1]):
                self.send_error(403, "Only for this machine")
                return
            page.asked = monotonic()
            if self.path == "/":
                self._send(page.html, "text/html; charset=utf-8")
            elif self.path == "/state":
                self._send(page.describe(), "application/json")
            else:
                self.send_error(404)

        def _send(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing about requests."""

    return Handler
