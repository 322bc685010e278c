"""A real server of conversations in a process of its own, for tests that kill it: `python -m ... DATABASE`.

Its model says "forever" as other models would speak for a long time. The port that it got is the first line it prints.
"""

import socket
import sys

import uvicorn

from penjing.serving.conversations.store import Store
from tests.serving.conversations.fakes import application


def main() -> None:
    app = application(Store.open(sys.argv[1], serve=True))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(256)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main()
