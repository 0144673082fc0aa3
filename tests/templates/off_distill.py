"""What tests of the off-distill template share: the template as a project, its modules, a small web site."""

import importlib.util
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rnow.assets import asset_root
from rnow.commands.init import InitRequest, init

TEMPLATE = asset_root() / "templates" / "off-distill"
SKILL = asset_root() / "skills" / "off-policy-distillation"


def make_project(folder, *settings, template="off-distill", name=""):
    """The template as `rnow init` writes it."""
    assert init(InitRequest(template, folder, name, settings), as_json=False) == 0
    return folder


def load_module(name):
    """A Python file of the template as a module."""
    spec = importlib.util.spec_from_file_location(f"off_distill_{name}", TEMPLATE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def web_site(pages, host="127.0.0.1"):
    """A server whose pages are `pages[path]`: HTML, or an address to go on to. Yields (its address, paths asked)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            page = pages.get(self.path, "<p>There is no such page.</p>")
            if page.startswith("http"):
                self.send_response(302)
                self.send_header("Location", page)
                page = ""
            else:
                self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Length", str(len(page.encode())))
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://{host}:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
