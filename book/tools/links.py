"""Where the links of the built pages lead: to files and headings that exist, and to addresses outside that still answer.

Inside the site every link is checked, wherever this runs. Outside, an address is *dead* when its server says that the page is not
there (404, 410) or when its host has no name any more while other hosts have; anything else, a refusal to robots or a slow
server, only *could not be checked*. Without a network nothing outside can be said, and that is what is said. Only broken links
inside and dead addresses are faults.
"""

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from bs4 import BeautifulSoup

DEAD = (404, 410)
AGENT = "kdlib link check"
NO_NAME = "no such host"


def read(page: Path) -> tuple[list[str], set[str]]:
    """The addresses that a page's links name, and the places on it that a link can name."""
    soup = BeautifulSoup(page.read_bytes(), "html.parser")
    places = {str(each[name]) for name in ("id", "name") for each in soup.select(f"[{name}]")}
    return [str(each["href"]) for each in soup.select("a[href]")], places


def inside(site: Path, pages: dict[Path, tuple[list[str], set[str]]]) -> list[str]:
    """Links to pages, files or places of the site that do not exist."""
    faults = []
    for page, (links, _) in pages.items():
        for link in dict.fromkeys(links):
            address, place = urldefrag(link)
            if urlsplit(address).scheme or address.startswith("//"):
                continue
            target = (page.parent / unquote(address)).resolve() if address else page
            if target.is_dir():
                target /= "index.html"
            where = page.relative_to(site).as_posix()
            if not target.is_file():
                faults.append(f"{where}: {link} leads to no file")
            elif place and target in pages and "=" not in place and unquote(place) not in pages[target][1]:
                faults.append(f"{where}: {link} leads to no such place on its page")  # one with = is a figure's state
    return faults


def ask(address: str, seconds: float = 20) -> str:
    """What a server says of an address: "ok", "404" and so on, NO_NAME, or why it could not be asked."""
    for method in ("HEAD", "GET"):  # some servers refuse the first
        request = urllib.request.Request(address, method=method, headers={"User-Agent": AGENT})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                return "ok"
        except urllib.error.HTTPError as answer:
            if method == "GET":
                return str(answer.code)
        except urllib.error.URLError as problem:
            named = re.search(
                r"Name or service not known|nodename nor servname|getaddrinfo failed", str(problem.reason)
            )
            return NO_NAME if named else str(problem.reason)
        except (OSError, ValueError, ssl.SSLError) as problem:
            return str(problem) or type(problem).__name__
    raise AssertionError("the loop returns")


def outside(addresses: Iterable[str], ask: Callable[[str], str] = ask) -> tuple[list[str], list[str], int]:
    """(dead addresses, those that could not be checked, how many were asked), each with the answer."""
    wanted = sorted(set(addresses))
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(wanted, pool.map(ask, wanted), strict=True))
    online = any(answer == "ok" or answer.isdigit() for answer in answers.values())
    dead = [a for a, said in answers.items() if said in map(str, DEAD) or (said == NO_NAME and online)]
    unknown = [a for a, said in answers.items() if said != "ok" and a not in dead]
    return [f"{a}: {answers[a]}" for a in dead], [f"{a}: {answers[a]}" for a in unknown], len(wanted)


def pages_of(site: Path) -> dict[Path, tuple[list[str], set[str]]]:
    """Every page of the site with its links and places; templates that the theme leaves in _static are none."""
    found = [page for page in sorted(site.rglob("*.html")) if page.relative_to(site).parts[0] != "_static"]
    return {page.resolve(): read(page) for page in found}


def addresses(pages: dict[Path, tuple[list[str], set[str]]], own: str) -> list[str]:
    """Outside addresses without the place on the page, and without those that name the repository `own` (owner/name)."""
    links = {urldefrag(link)[0] for each, _ in pages.values() for link in each}
    return sorted(link for link in links if link.startswith(("http://", "https://")) and own not in link)
