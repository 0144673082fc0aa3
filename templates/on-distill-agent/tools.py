"""`browse`: a web page as Markdown, read by the crawl4ai server that runs in the same container.

The tool runs inside the image of `Dockerfile.crawl4ai`, so this file needs Python 3.8 and its standard library only.
Recorded pages stand in for the web where there is none. On a machine with a crawl4ai server and with rnow installed:

    python tools.py https://clinicaltrials.gov/study/NCT02296125 --record pages    # read it and keep it
    python tools.py https://clinicaltrials.gov/study/NCT02296125 --replay pages    # read what was kept

Inside a container `RNOW_BROWSE_RECORD` and `RNOW_BROWSE_REPLAY` name the folder. Errors are texts for the model.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rnow.core import tool

TOKEN_FILE = Path("/tmp/crawl4ai-token")  # written by Dockerfile.crawl4ai, for its own user only
MAX_CHARACTERS = 20_000  # of a page; config.yml's rollout.max_tool_response cuts by tokens after this
MAX_BYTES = 32 * 1024 * 1024  # of the server's answer
TIMEOUT = 90  # seconds for a call; one that is still running then is killed
PATIENCE = 75.0  # seconds after which the tool gives up by itself, in time to say why
START_UP = 60.0  # seconds that the server may need before it takes connections
FIRST_LINE = re.compile(r"<!-- (\S+)(?: .*)? -->")  # of a recorded page: its address, then whatever else

STATUS = {
    401: "the browser did not accept this project's token, so no page can be opened",
    403: "the browser did not allow this request",
    413: "the request was too large for the browser",
    429: "too many pages were requested at once; wait a moment before the next one",
    500: "the page could not be opened: it may not exist, be down, or refuse automatic readers; try another address",
    502: "the page's site did not answer properly; try another address",
    503: "the browser is busy; try again in a moment",
    504: "the page took too long to load; try another address",
}


class PageError(Exception):
    """Why there is no page, in words for the model."""


class ServerError(PageError):
    """The server answered with an error status."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        if status in (400, 422):
            reason = "the browser refused this address; only public http and https pages can be opened"
        else:
            reason = STATUS.get(status, f"the browser answered with HTTP status {status}")
        super().__init__(f"{reason} ({detail})" if detail else reason)


@tool(sandbox=True, timeout=TIMEOUT)
def browse(url: str) -> str:
    """Open a web page and return its text as Markdown.

    Args:
        url: The page's full address, for example https://clinicaltrials.gov/study/NCT02296125
    """
    try:
        return shorten(read_page(full_address(url)))
    except PageError as error:
        return f"Error: {error}"


def full_address(url: str) -> str:
    """The address as http(s) URL without its fragment. Raises PageError when it is none."""
    text = url.strip().strip("<>\"'")
    if text and "://" not in text and "." in text.split("/")[0]:
        text = "https://" + text
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme.lower() not in ("http", "https") or re.search(r"\s", text):
        raise PageError(
            f"{url[:200]!r} is not the address of a web page; give a full one such as https://example.org/page"
        )
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query, ""))


def read_page(address: str) -> str:
    """The page's Markdown, from the recorded pages if there are any, else from the server. Raises PageError."""
    replay, record = os.environ.get("RNOW_BROWSE_REPLAY"), os.environ.get("RNOW_BROWSE_RECORD")
    if replay:
        return recorded(Path(replay), address)
    text = fetch(address)
    if record:
        keep(Path(record), address, text)
    return text


def shorten(text: str) -> str:
    """At most MAX_CHARACTERS of a page, cut at the end of a line where possible, with the cut marked."""
    if len(text) <= MAX_CHARACTERS:
        return text
    end = text.rfind("\n", MAX_CHARACTERS // 2, MAX_CHARACTERS)
    shown = text[: end if end > 0 else MAX_CHARACTERS].rstrip()
    return f"{shown}\n\n[cut: {len(text) - len(shown)} more characters of this page are not shown]"


# ---- recorded pages: one Markdown file each, with its address in the first line -----------------------------------


def recorded(folder: Path, address: str) -> str:
    """The page of this address in the folder. Raises PageError naming some that are there."""
    known = {}
    for path in sorted(folder.glob("*.md")):
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
        match = FIRST_LINE.match(first)
        if match:
            known[match.group(1).rstrip("/")] = text.strip()
    if address.rstrip("/") in known:
        return known[address.rstrip("/")]
    there = ", ".join(sorted(known)[:5]) or "none"
    raise PageError(f"there is no recorded page for {address}; recorded pages: {there}")


def keep(folder: Path, address: str, text: str) -> None:
    """Write a page into the folder, whole or not at all; a page of the same address is replaced."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", address.split("://")[1]).strip("-")[:80]
    name = f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:8]}.md"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}.{os.getpid()}"
    unfinished.write_text(f"<!-- {address} -->\n\n{text.strip()}\n", encoding="utf-8")
    unfinished.replace(folder / name)


# ---- the server ---------------------------------------------------------------------------------------------------


def fetch(address: str) -> str:
    """The page's Markdown from the server: its main content, or all of it when nothing was recognised as that.

    `POST /md` answers with text alone; a server without it is asked through `POST /crawl`.
    """
    deadline = time.monotonic() + PATIENCE
    try:
        text = markdown_of(post("/md", {"url": address, "f": "fit"}, deadline))
        if not text:
            text = markdown_of(post("/md", {"url": address, "f": "raw"}, deadline))
    except ServerError as error:
        if error.status not in (404, 405):
            raise
        body = {"urls": [address], "browser_config": {}, "crawler_config": {}}
        text = markdown_of(first_result(post("/crawl", body, deadline)))
    if not text:
        raise PageError("the page has no readable text")
    return text


def first_result(answer: dict) -> dict:
    """The only result of a crawl. Raises PageError when the crawl of the page failed."""
    results = answer.get("results")
    result = results[0] if isinstance(results, list) and results else None
    if not isinstance(result, dict):
        raise PageError("the browser's answer holds no page")
    if not result.get("success"):
        reason = one_line(result.get("error_message")) or "no reason given"
        raise PageError(f"the page could not be opened: {reason}")
    return result


def markdown_of(page: dict) -> str:
    """The Markdown of a `/md` answer or of a crawl's result, where it may be an object of several forms."""
    markdown = page.get("markdown")
    if isinstance(markdown, dict):
        markdown = markdown.get("fit_markdown") or markdown.get("raw_markdown")
    return markdown.strip() if isinstance(markdown, str) else ""


def post(path: str, body: dict, deadline: float) -> dict:
    """POST JSON to the server, waiting for it to start. Raises PageError, ServerError for an error status."""
    request = urllib.request.Request(
        os.environ.get("CRAWL4AI_URL", "http://localhost:11235").rstrip("/") + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **authorization()},
    )
    try:
        return parsed(send(request, deadline))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            print("browse: the server's CRAWL4AI_API_TOKEN and the tool's differ", file=sys.stderr)
        raise ServerError(error.code, detail_of(error)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError) or "timed out" in str(reason):
            raise PageError(STATUS[504]) from None
        if isinstance(reason, ConnectionRefusedError):
            raise PageError("the browser is not running, so no page can be opened") from None
        raise PageError(f"the connection to the browser broke off ({type(reason).__name__})") from None


def send(request: urllib.request.Request, deadline: float) -> bytes:
    """The answer's bytes. A server that takes no connections yet is asked again until START_UP or the deadline."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # the server is local: never via a proxy
    last_try = min(deadline, time.monotonic() + START_UP)
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            with opener.open(request, timeout=left) as answer:
                return answer.read(MAX_BYTES + 1)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() + 0.5 > last_try:
                raise
            time.sleep(0.5)


def authorization() -> dict:
    """The header that crawl4ai asks for from 0.9 on; older servers ignore it."""
    token = os.environ.get("CRAWL4AI_API_TOKEN", "")
    if not token:
        try:
            token = TOKEN_FILE.read_text(encoding="ascii").strip()
        except OSError:
            return {}
    return {"Authorization": "Bearer " + token} if token else {}


def parsed(data: bytes) -> dict:
    """A JSON object. Raises PageError when it is too large or something else."""
    if len(data) > MAX_BYTES:
        raise PageError("the page is too large")
    try:
        answer = json.loads(data.decode("utf-8"))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise PageError("the browser's answer was not understood")
    return answer


def detail_of(error: urllib.error.HTTPError) -> str:
    """What an error's body says beyond its status, on one line; empty when it says nothing."""
    try:
        body = json.loads(error.read(65536).decode("utf-8", "replace"))
    except (ValueError, OSError, http.client.HTTPException):
        return ""
    return one_line(body.get("detail")) if isinstance(body, dict) else ""


def one_line(value: object) -> str:
    """A text's first line, at most 200 characters; empty for anything that is no text."""
    lines = value.strip().splitlines() if isinstance(value, str) else []
    return lines[0][:200] if lines else ""


def main() -> int:
    """Read pages from the command line, and keep them or read kept ones. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Read web pages as the browse tool does.")
    parser.add_argument("url", nargs="+", help="address of a page")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--record", metavar="FOLDER", help="keep the pages there")
    where.add_argument("--replay", metavar="FOLDER", help="read pages that were kept there")
    options = parser.parse_args()
    os.environ["RNOW_BROWSE_RECORD"] = options.record or ""
    os.environ["RNOW_BROWSE_REPLAY"] = options.replay or ""
    failed = 0
    for url in options.url:
        try:
            print(shorten(read_page(full_address(url))))
        except PageError as error:
            print(f"{url}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
