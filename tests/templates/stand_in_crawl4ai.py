"""A stand-in for crawl4ai's server, with the shapes of its releases; the page's address says how it goes.

    /status/504         that status          /failed     the site cannot be reached (0.9 hides why behind a 500)
    /empty              no main content      /blank      no text at all
    /unsuccessful       200, but no page     /long       50 000 characters
    /garbage            no JSON              /slow       an answer after 5 s
    /hangup             closes the connection

Standard library only, Python 3.8 or newer: `python stand_in_crawl4ai.py [PORT]` serves it inside a container as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MD, CRAWL = "/md", "/crawl"
LONG = "".join(f"line {number:05d} of a long page\n" for number in range(1900))


class StandIn(ThreadingHTTPServer):
    """`token` None = a server before 0.9; `endpoints` = the ones it has. `seen` keeps (path, body) of each POST."""

    daemon_threads = True

    def __init__(self, port=0, token=None, endpoints=(MD, CRAWL)):
        super().__init__(("127.0.0.1", port), Handler)
        self.token, self.endpoints, self.seen = token, endpoints, []

    def handle_error(self, request, client_address):
        """A caller that did not wait for its answer is part of the tests."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"status": "ok", "timestamp": time.time(), "version": "0.9.2"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        token = self.server.token
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            return self.answer(401, {"detail": "Authentication required"})
        if self.path not in self.server.endpoints:
            return self.answer(404, {"detail": "Not Found"})
        address = body["url"] if self.path == MD else body["urls"][0]
        return self.page(address, body)

    def page(self, address, body):
        kind = urlsplit(address).path.strip("/").split("/")
        if kind[0] == "status":
            detail = "URL blocked: private address" if kind[1] == "400" else "from the server"
            generic = {"error": "Internal server error", "correlation_id": "00ff"}
            return self.answer(int(kind[1]), generic if kind[1] == "500" else {"detail": detail})
        if kind[0] == "failed":
            if self.server.token:
                return self.answer(500, {"error": "Internal server error", "correlation_id": "00ff"})
            return self.answer(500, {"detail": "Crawl request failed: net::ERR_NAME_NOT_RESOLVED\n at frame"})
        if kind[0] == "garbage":
            return self.send(200, b"<html>not json</html>")
        if kind[0] == "hangup":
            return self.connection.close()
        if kind[0] == "slow":
            time.sleep(5)
        text = {"long": LONG, "blank": "", "empty": "the whole page"}.get(
            kind[0], f"# Page\n\nThis is {address}."
        )
        main = "" if kind[0] in ("empty", "blank") else text
        ok = kind[0] != "unsuccessful"
        if self.path == MD:
            shown = text if body.get("f") == "raw" else main
            answer = {"url": address, "filter": body.get("f", "fit"), "query": None, "cache": "0"}
            return self.answer(200, {**answer, "markdown": shown if ok else None, "success": ok})
        result = {"url": address, "success": ok, "status_code": 200, "html": "<p>", "error_message": ""}
        result["markdown"] = {"raw_markdown": text, "fit_markdown": main, "references_markdown": ""}
        if not ok:
            result.update(markdown=None, error_message="Timeout 60000ms exceeded.\n  at navigation")
        return self.answer(200, {"success": True, "results": [result], "server_processing_time_s": 0.1})

    def answer(self, status, body):
        self.send(status, json.dumps(body).encode())

    def send(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else 11235
    StandIn(chosen, os.environ.get("CRAWL4AI_API_TOKEN")).serve_forever()
