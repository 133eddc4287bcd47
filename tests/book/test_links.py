"""The link check: broken links inside always, dead ones outside where there is a network, and no guess where there is none."""

import http.server
import threading

import pytest

from book.tools import contents, links, release

from .tinybook import TinyBook


@pytest.fixture
def site(tmp_path):
    """A root whose built site has two pages; site(text) puts the text on the second one."""
    tiny = TinyBook(tmp_path / "root")
    folder = tiny.root / "_build" / "html"
    contents.write_atomically(folder / "index.html", '<h1 id="top">A</h1><a href="part/a.html#b">a</a>')

    def page(text: str) -> TinyBook:
        contents.write_atomically(folder / "part" / "a.html", f'<h2 id="b">B</h2>{text}')
        return tiny

    return page


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("../index.html#top", None),
        ("#b", None),
        ("#T=4&alpha=0.5", None),  # the state of a figure
        ("..", None),
        ("mailto:a@example.org", None),
        ("b.html", "part/a.html: b.html leads to no file"),
        ("../index.html#end", "part/a.html: ../index.html#end leads to no such place on its page"),
        ("#c", "part/a.html: #c leads to no such place on its page"),
    ],
)
def test_links_inside(site, link, said):
    status, printed = site(f'<a href="{link.replace("&", "&amp;")}">x</a>').call("links")
    assert status == (1 if said else 0), printed
    assert (said or "2 pages with 2 links, 0 broken; 0 addresses outside") in printed


def test_outside_dead_is_a_fault_and_what_could_not_be_asked_is_only_said():
    said = {"a": "ok", "b": "404", "c": "410", "d": "403", "e": "timed out", "f": links.NO_NAME, "g": "503"}
    dead, unknown, asked = links.outside([*said, "a"], said.__getitem__)
    assert dead == ["b: 404", "c: 410", f"f: {links.NO_NAME}"]
    assert unknown == ["d: 403", "e: timed out", "g: 503"] and asked == 7


def test_without_a_network_nothing_outside_is_called_dead(site, monkeypatch):
    monkeypatch.setattr(links, "ask", lambda address: links.NO_NAME)
    monkeypatch.setattr(links.outside, "__defaults__", (links.ask,))
    own = release.repository(site("").root)[0]
    text = f'<a href="https://example.org/x#y">x</a><a href="{own}/tree/release">own</a>'
    status, printed = site(text).call("links")
    assert status == 0 and f"could not be checked: https://example.org/x: {links.NO_NAME}" in printed
    assert "1 addresses outside, 0 dead, 1 could not be checked" in printed


def test_a_server_is_asked_and_its_answer_kept():
    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(405 if self.path == "/get-only" else 200 if self.path == "/here" else 404)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/get-only" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    try:
        assert [links.ask(f"{home}/{path}", 5) for path in ("here", "get-only", "gone")] == ["ok", "ok", "404"]
    finally:
        server.shutdown()
        server.server_close()
    assert "refused" in links.ask(f"{home}/here", 5)
    assert links.ask("http://no-such-host.invalid/", 5) != "ok"


def test_links_of_a_book_that_is_not_built_are_refused_with_the_remedy(tmp_path):
    status, printed = TinyBook(tmp_path / "root").call("links")
    assert status == 1 and "run `make book` first" in printed
