"""The pages of `xgenmm data view`, served while a test looks at them."""

import http.client
import threading
from urllib.parse import urlencode

import uvicorn

from xgenmm.data.view.app import open_port


class Site:
    """The pages, served on a free port of this machine."""

    def __init__(self, app):
        self.socket = open_port(0)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)

    def url(self, path: str = "/", **values) -> str:
        return f"http://127.0.0.1:{self.port}{path}" + (f"?{urlencode(values)}" if values else "")

    def get(self, path: str = "/", host: str = "127.0.0.1", **values):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        query = f"?{urlencode(values)}" if values else ""
        connection.request("GET", path + query, headers={"Host": host})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def page(self, path: str = "/", **values) -> str:
        answer, content = self.get(path, **values)
        assert answer.status == 200, content
        return content.decode()
