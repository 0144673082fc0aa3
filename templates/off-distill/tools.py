"""`browse`: a web page as Markdown, read with Crawl4AI in a browser on this machine.

The teacher calls it while data is generated (`python generate_distillation_data.py`), and the student after training.
Try it by hand, with crawl4ai and rnow installed:

    python tools.py                                                  # is everything there that it needs?
    python tools.py https://clinicaltrials.gov/study/NCT02142738     # what the models read of a page

Only pages of the public internet are opened. The browser has no profile, no cookies and no keys of yours, and all
that it loads goes through `relay`, which refuses private addresses, also behind redirects and names. What a page says
is text of strangers: it can mislead a model, but no tool here writes, buys or runs anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import ipaddress
import re
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rnow.core import tool

ALLOW_PRIVATE = False  # True: also pages of your own network; the browser then uses your proxy settings
MAX_CHARACTERS = (
    12_000  # of a page, about 3 000 tokens: nine of them and the replies fit into the student's window
)
TIMEOUT = 120  # seconds for a call; one that is still running then is killed
PATIENCE = 90.0  # seconds after which the tool gives up by itself, in time to say why
PAGE_TIMEOUT = 45_000  # milliseconds that a page may take to load
SETTLE = 1.5  # seconds for pages that fetch their text with a script, as clinicaltrials.gov does
SETUP = "uv pip install crawl4ai, then crawl4ai-setup; the browser alone: playwright install chromium"
INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]"
)  # hides text from people
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PageError(Exception):
    """Why there is no page, in words for the model."""


class SetupError(Exception):
    """What this machine lacks, and the commands that add it."""


@tool(timeout=TIMEOUT)
def browse(url: str) -> str:
    """Open a web page and return its content as Markdown.

    Args:
        url: The page's full address, for example https://clinicaltrials.gov/study/NCT02142738
    """
    try:
        return shorten(asyncio.run(read_page(full_address(url))))
    except PageError as error:
        return f"Error: {error}"


# Another tool is another function; the teacher is shown all of them. A search engine with an API, for example:
#
# @tool
# def search(query: str) -> list:
#     """Search the web; returns titles and addresses.
#
#     Args:
#         query: What to look for
#     """
#     found = httpx.get("https://search.example.com/api", params={"q": query}, timeout=20).json()
#     return [{"title": hit["title"], "url": hit["url"]} for hit in found["results"][:5]]
#
# A key for it goes into .env, its name into config.yml (sandbox: {secrets: [SEARCH_KEY]}), and the function gets it
# with one more parameter, which the models do not see: `args: ToolArgs`, then args.secrets["SEARCH_KEY"].


def full_address(url: str) -> str:
    """The address as http(s) URL without its fragment. Raises PageError when it is none."""
    text = url.strip().strip("<>\"'")
    if text and "://" not in text and "." in text.split("/")[0]:
        text = "https://" + text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme.lower() not in ("http", "https") or re.search(r"\s", text):
        raise PageError(
            f"{url[:200]!r} is not the address of a web page; give a full one such as https://example.org/page"
        )
    place = f"[{host}]" if ":" in host else host
    place = f"{place}:{port}" if port else place  # a user name and a password are left out
    return urlunsplit((parts.scheme.lower(), place, parts.path or "/", parts.query, ""))


def shorten(text: str) -> str:
    """At most MAX_CHARACTERS of a page, cut at the end of a line where possible, with the cut marked."""
    if len(text) <= MAX_CHARACTERS:
        return text
    end = text.rfind("\n", MAX_CHARACTERS // 2, MAX_CHARACTERS)
    shown = text[: end if end > 0 else MAX_CHARACTERS].rstrip()
    return f"{shown}\n\n[cut: {len(text) - len(shown)} more characters of this page are not shown]"


# ---- the browser --------------------------------------------------------------------------------------------------


async def read_page(address: str) -> str:
    """The page's Markdown. Raises PageError, and SetupError without crawl4ai or its browser."""
    if importlib.util.find_spec("crawl4ai") is None:
        raise SetupError(f"crawl4ai is not installed for {sys.executable}: {SETUP}")
    parts = urlsplit(address)
    if not ALLOW_PRIVATE:
        await public_addresses(parts.hostname or "", parts.port or 443)
    try:
        async with asyncio.timeout(PATIENCE):
            return await crawled(address)
    except TimeoutError:
        raise PageError("the page took too long to load; try another address") from None


async def crawled(address: str) -> str:
    """What crawl4ai makes of the page: its main content, or all of it when nothing was recognised as that."""
    from crawl4ai import (
        AsyncWebCrawler,
        BrowserConfig,
        CacheMode,
        CrawlerRunConfig,
        DefaultMarkdownGenerator,
        PruningContentFilter,
    )

    page = CrawlerRunConfig(
        cache_mode=CacheMode.BYPASS,
        wait_until="load",
        page_timeout=PAGE_TIMEOUT,
        delay_before_return_html=SETTLE,
        excluded_tags=["nav", "footer"],
        markdown_generator=DefaultMarkdownGenerator(
            content_filter=PruningContentFilter(), options={"ignore_images": True}
        ),
        verbose=False,
    )
    async with filtered() as proxy:
        options: dict[str, Any] = {"proxy_config": {"server": proxy}} if proxy else {}
        browser = BrowserConfig(
            headless=True,
            verbose=False,
            extra_args=["--force-webrtc-ip-handling-policy=disable_non_proxied_udp"],
            **options,
        )
        try:
            async with AsyncWebCrawler(config=browser) as crawler:
                result = await crawler.arun(url=address, config=page)
        except Exception as error:  # crawl4ai passes on whatever its browser throws
            raise failure(str(error)) from error
    if not result.success:
        raise failure(str(result.error_message or ""))
    markdown = result.markdown
    text = getattr(markdown, "fit_markdown", None) or getattr(markdown, "raw_markdown", None) or ""
    if text := INVISIBLE.sub("", str(text)).strip():
        return text
    raise PageError("the page has no readable text")


def failure(told: str) -> Exception:
    """What the browser's message means: a SetupError when it could not start, else a PageError with its cause."""
    if any(
        sign in told for sign in ("Executable doesn't exist", "playwright install", "missing dependencies")
    ):
        return SetupError(f"crawl4ai has no browser that starts: {SETUP}")
    cause = re.search(r"net::ERR_\w+|Timeout \d+ms exceeded|Download is starting", told)
    reason = f" ({cause.group()})" if cause else ""
    return PageError(f"the page could not be opened{reason}; it may not exist, or refuse automatic readers")


# ---- only the public internet -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def filtered() -> Any:
    """The address of a proxy of this process that reaches public addresses only; None with ALLOW_PRIVATE."""
    if ALLOW_PRIVATE:
        yield None
        return
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the browser, passed on to its host if that is a public address."""
    try:
        host, port, head = target_of(await reader.readuntil(b"\r\n\r\n"))
        addresses = await public_addresses(host, port)
        there, back = await asyncio.open_connection(addresses[0], port)
    except (PageError, ValueError, OSError, EOFError, asyncio.LimitOverrunError) as error:
        said = str(error).encode() if isinstance(error, PageError) else b"The host cannot be reached."
        writer.write(
            b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n" + said
        )
        writer.close()
        return
    if head:
        back.write(head)
    else:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(pipe(reader, back), pipe(there, writer))


def target_of(head: bytes) -> tuple[str, int, bytes]:
    """Host and port of a proxy request, and the request as its host wants it; empty for CONNECT."""
    line, _, fields = head.partition(b"\r\n")
    method, target, version = line.decode("latin-1").split(" ")
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if not parts.hostname:
        raise ValueError(target)
    if method == "CONNECT":
        return parts.hostname, parts.port or 443, b""
    # one request a connection: the browser would use the same one for other hosts
    kept = [
        part for part in fields.split(b"\r\n") if not part.lower().startswith((b"proxy-", b"connection:"))
    ]
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    first = f"{method} {path} {version}".encode("latin-1")
    return parts.hostname, parts.port or 80, b"\r\n".join([first, b"Connection: close", *kept])


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def public_addresses(host: str, port: int) -> list[str]:
    """The IP addresses of a host. Raises PageError when there are none, or one is not on the public internet."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PageError(f"there is no host {host[:200]}; check the address") from None
    addresses = [str(info[4][0]) for info in found]
    if not all(map(is_public, addresses)):
        raise PageError(f"{host} is not on the public internet; only public pages can be opened")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is a public one; IPv4 addresses inside of IPv6 ones are taken out first."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        ip = inside or ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


# ---- by hand ------------------------------------------------------------------------------------------------------


def missing() -> str:
    """What this machine lacks for `browse`, with the commands that add it; empty when nothing."""
    if importlib.util.find_spec("crawl4ai") is None:
        return f"browse in tools.py needs crawl4ai, which is not installed for {sys.executable}: {SETUP}"
    with contextlib.suppress(ImportError):
        from playwright.sync_api import sync_playwright

        with sync_playwright() as play:
            if not Path(play.chromium.executable_path).exists():
                return f"crawl4ai has no browser yet: {SETUP}"
    return ""


def main() -> int:
    """Show pages as the models read them, or without an address what is missing. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Read web pages as the browse tool does.")
    parser.add_argument("url", nargs="*", help="address of a page; none = only check what is installed")
    options = parser.parse_args()
    if lacking := missing():
        print(lacking, file=sys.stderr)
        return 3
    pages = [browse(url) for url in options.url]
    print("\n\n".join(pages) if pages else "Everything that browse needs is there.")
    return 1 if any(page.startswith("Error: ") for page in pages) else 0


if __name__ == "__main__":
    sys.exit(main())
