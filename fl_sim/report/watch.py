"""Serves the page of results while they are written, to this machine alone."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from time import monotonic, thread_time

from fl_sim.core.atomic_io import DamagedFileError, read_json
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import LOCK
from fl_sim.report.content import read_content
from fl_sim.report.page import Live, render_html
from fl_sim.results.studies import SUMMARY as STUDY
from fl_sim.results.tables import SUMMARY, UNFINISHED

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
PAUSE = 1.0  # seconds between two looks at the files
MIN_BUILD_PAUSE = 3.0  # seconds between two pages, at least
BUILD_SHARE = 0.2  # of one processor's time that is spent on pages, at most
ATTENTION = 15.0  # seconds after a request during which somebody is taken to look on


class LivePage:
    """The page of a folder of results, which is built again when they have changed."""

    def __init__(self, path: Path) -> None:
        """Show that there are no results yet."""
        self.path = path
        self.version, self.built, self.due = 0, (0, 0), 0.0
        self.asked = monotonic()
        self.html = self._render(0, "There are no results yet; this page shows them as they come.")

    def refresh(self) -> None:
        """Build the page again if results have changed, somebody looks on, and it is time."""
        now, stamp = monotonic(), self._stamp()
        if stamp == self.built or now < self.due or now - self.asked > ATTENTION:
            return
        started = thread_time()
        version, html = self.version + 1, b""
        try:
            html = self._render(version, describe_state(self.path), read=True)
        except RequestError as error:
            if self._stamp() == stamp:  # else it was read between two files that belong together
                html = self._render(version, f"The results cannot be read: {error}.")
        if html:
            self.html, self.version, self.built = html, version, stamp
        self.due = monotonic() + max(MIN_BUILD_PAUSE, (thread_time() - started) / BUILD_SHARE)

    def _render(self, version: int, state: str, read: bool = False) -> bytes:
        live = Live(state, version)
        if not read:
            return render_html(self.path.name, [], True, live=live).encode()
        title, sections, complete, question = read_content(self.path)
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


def is_over(path: Path) -> bool:
    """Return whether the newest sweep in a folder has written the summary of all its runs."""
    name = STUDY if (path / STUDY).exists() else SUMMARY
    try:
        started = (path / LOCK).stat().st_mtime_ns if (path / LOCK).exists() else 0
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
        """Answers requests for the page and its version."""

        def do_GET(self) -> None:
            """Send the page or its version; refuse names of other hosts, which could be anybody's.

            A page elsewhere could otherwise read this one under a name that leads here.
            """
            host, _, port = self.headers.get("Host", "").partition(":")
            if host not in HOSTS or port != str(self.connection.getsockname()[1]):
                self.send_error(403, "Only for this machine")
                return
            page.asked = monotonic()
            if self.path == "/":
                self._send(page.html, "text/html; charset=utf-8")
            elif self.path == "/version":
                self._send(str(page.version).encode(), "text/plain")
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
