"""A stand-in for the crawl4ai package, with the names that the off-distill template uses: pages over real HTTP.

A page is fetched through the proxy that the browser was given, without JavaScript; its tags are taken out. Installed by
`install(folder)` as a package that PYTHONPATH finds. The host `pages.example` is the address in its file `site`.
"""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.9.5"


def install(folder: Path, site: str = "") -> Path:
    """Make `import crawl4ai` find this file in the folder, which is returned."""
    (folder / "crawl4ai").mkdir(parents=True)
    shutil.copy(__file__, folder / "crawl4ai" / "__init__.py")
    (folder / "crawl4ai" / "site").write_text(site)
    return folder


class Options(SimpleNamespace):
    def __init__(self, *args, **options):
        super().__init__(**options)


BrowserConfig = CrawlerRunConfig = DefaultMarkdownGenerator = PruningContentFilter = Options
CacheMode = SimpleNamespace(BYPASS="bypass")


class AsyncWebCrawler:
    def __init__(self, config):
        proxy = getattr(config, "proxy_config", {}).get("server")
        handler = urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {})
        self.opener = urllib.request.build_opener(handler)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def arun(self, url, config):
        import asyncio

        return await asyncio.to_thread(self.fetch, url, config.page_timeout / 1000)

    def fetch(self, url, seconds):
        site = Path(__file__).with_name("site")
        if site.exists():
            url = url.replace("https://pages.example", site.read_text())
        try:
            with self.opener.open(url, timeout=seconds) as answer:
                page = answer.read().decode()
        except urllib.error.HTTPError as error:
            page = error.read().decode()
        except OSError as error:
            said = f"Page.goto: net::ERR_FAILED at {url} {error}"
            return SimpleNamespace(success=False, error_message=said, markdown=None)
        text = re.sub(r"<[^>]+>", "", page).strip()
        return SimpleNamespace(
            success=True,
            error_message="",
            markdown=SimpleNamespace(fit_markdown=None, raw_markdown=text),
        )
