"""kill -9 in the middle of many conversations: what anyone saw is there afterwards, and the database is whole."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penjing.serving.conversations.store import Store

ROOT = Path(__file__).parents[3]


class Client:
    """A page that talks to the server over a connection of its own, and remembers what it was shown."""

    def __init__(self, port, number):
        self.port, self.number = port, number
        self.id = None
        self.done = {}
        """Replies that were shown to be done, by id."""
        self.running = ""
        """What was shown of the last one, which never ends."""
        self.reply = None

    async def request(self, method, place, body):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        writer.write(
            f"{method} {place} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        await writer.drain()
        return reader, writer

    async def talk(self, started):
        reader, writer = await self.request("POST", "/api/conversations", {"title": f"chat {self.number}"})
        answer = await reader.read()
        writer.close()
        self.id = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
        for content in (f"first {self.number}", "forever"):
            reader, writer = await self.request("POST", f"/api/conversations/{self.id}/messages", {"content": content})
            try:
                await self.listen(reader, started if content == "forever" else None)
            except ConnectionError:
                return
            finally:
                writer.close()

    async def listen(self, reader, started):
        name, pieces = "", 0
        while line := await reader.readline():
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                try:
                    data = json.loads(line[6:])
                except ValueError:
                    return  # the server died within this line: it was not shown
                if name == "done":
                    self.done[data["id"]] = data["content"]
                elif name == "message" and data["role"] == "assistant":
                    self.reply = data["id"]
                elif name == "text" and started is not None:
                    self.running += data["text"]
                    pieces += 1
                    if pieces == 2:
                        started.release()


def kill_in_the_middle(place, conversations):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.conversations.crash_server", str(place)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        port = int(process.stdout.readline())

        async def session():
            started = asyncio.Semaphore(0)
            clients = [Client(port, number) for number in range(conversations)]
            talks = [asyncio.create_task(client.talk(started)) for client in clients]
            for _ in clients:  # each is in the middle of a reply
                await started.acquire()
            process.send_signal(signal.SIGKILL)
            await asyncio.wait(talks)
            for talk in talks:
                talk.result()
            return clients

        return asyncio.run(asyncio.wait_for(session(), 400))
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def check(place, clients):
    store = Store.open(place, serve=True)
    try:
        with store.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        with store.database.writing() as connection:
            connection.exec_driver_sql("INSERT INTO grams (grams) VALUES ('integrity-check')")
        assert len(store.page("local", limit=200)[0]) == len(clients)
        for client in clients:
            found = store.get("local", client.id)
            said = [one.content for one in found.path()]
            assert found.title == f"chat {client.number}"
            assert said[:3] == [f"first {client.number}", f"You said: first {client.number} ", "forever"]
            assert len(said) == 4
            reply = found.messages[-1]
            assert client.reply == reply.id
            assert (reply.status, reply.error) == ("interrupted", "the server stopped")
            assert reply.content.startswith(client.running)  # all that anyone saw
            assert len(client.running) > 0
            assert list(client.done.values()) == [said[1]]
            assert store.page("local", query=f"first {client.number}")[0]
    finally:
        store.close()


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_a_killed_server_loses_nothing_that_anyone_saw(tmp_path):
    check(tmp_path / "chats.db", kill_in_the_middle(tmp_path / "chats.db", 8))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("time", range(3))
def test_a_server_killed_during_a_hundred_conversations_loses_nothing_that_anyone_saw(tmp_path, time):
    check(tmp_path / "chats.db", kill_in_the_middle(tmp_path / "chats.db", 100))
