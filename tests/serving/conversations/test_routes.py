"""The page's API as a browser uses it: routes, statuses, events, and whose conversations are whose."""

import json

import pytest
from starlette.testclient import TestClient

from penjing.data import preferences
from penjing.serving.conversations import routes as routes_module
from penjing.serving.conversations.errors import BusyError, FullError
from penjing.serving.conversations.records import LONGEST_CONTENT
from penjing.serving.conversations.store import Store
from penjing.serving.conversations.transfer import LONGEST_FILE
from tests.serving.conversations.fakes import WordPolicy, application

API = "/api/conversations"


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "chats.db", serve=True, patience=30)
    yield opened
    opened.close()


@pytest.fixture
def client(store):
    with TestClient(application(store)) as made:
        yield made


def events(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for part in response.text.strip().split("\n\n"):
        if not part.startswith(":"):
            name, data = part.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def say(client, id, content, **more):
    return events(client.post(f"{API}/{id}/messages", json={"content": content} | more))


def begin(client, **settings):
    response = client.post(API, json=settings)
    assert response.status_code == 201
    return response.json()["id"]


def test_a_session_as_a_user_would_have_it(client):
    id = begin(client, system="Be brief.", sampling={"temperature": 0.5})
    told = say(client, id, "Hi")
    names = [name for name, _ in told]
    assert names[:2] == ["message", "message"]
    assert names[-1] == "done"
    question, reply = told[0][1], told[-1][1]
    assert (question["role"], question["content"], question["html"]) == ("user", "Hi", "")
    assert (reply["parent"], reply["content"], reply["html"]) == (
        question["id"],
        "You said: Hi ",
        "<p>You said: Hi </p>",
    )

    again = events(client.post(f"{API}/{id}/messages/{reply['id']}/regenerate"))[-1][1]
    assert (again["parent"], again["status"]) == (question["id"], "done")
    edited = say(client, id, "Ho", parent=None)
    assert edited[0][1]["parent"] is None
    whole = client.get(f"{API}/{id}").json()
    assert (len(whole["messages"]), whole["leaf"]) == (5, edited[-1][1]["id"])
    assert client.patch(f"{API}/{id}", json={"leaf": question["id"]}).json()["leaf"] == again["id"]
    changed = client.patch(f"{API}/{id}", json={"title": "Greetings", "settings": {"context": "summary"}}).json()
    assert (changed["title"], changed["settings"]["context"], changed["settings"]["system"]) == (
        "Greetings",
        "summary",
        "Be brief.",
    )
    place = f"{API}/{id}/messages/{reply['id']}"
    assert client.patch(place, json={"feedback": 1}).json()["feedback"] == 1
    assert client.patch(place, json={"pinned": True, "note": "n"}).json()["feedback"] == 1
    fork = client.post(f"{API}/{id}/fork", json={"message": reply["id"]}).json()
    assert [one["content"] for one in fork["messages"]] == ["Hi", "You said: Hi "]
    found = client.get(API, params={"query": "greet"}).json()
    assert {one["id"] for one in found["conversations"]} == {id, fork["id"]}
    budget = client.get(f"{API}/{id}/budget").json()
    assert (budget["context"], budget["turns"], budget["dropped"]) == (1000, 1, 0)
    gone = client.delete(f"{API}/{id}/messages/{edited[0][1]['id']}").json()
    assert set(gone["removed"]) == {edited[0][1]["id"], edited[-1][1]["id"]}
    assert client.delete(f"{API}/{id}").json() == {"deleted": id}
    assert client.get(f"{API}/{id}").status_code == 404


def test_a_finished_reply_can_be_followed_and_stopped_without_harm(client):
    id = begin(client)
    reply = say(client, id, "Hi")[-1][1]
    followed = events(client.get(f"{API}/{id}/messages/{reply['id']}/follow"))
    assert [name for name, _ in followed] == ["message", "done"]
    assert followed[-1][1] == reply
    assert client.post(f"{API}/{id}/messages/{reply['id']}/stop").json() == reply


def test_another_users_conversation_is_not_found_by_any_route(client):
    id = begin(client)
    question, reply = (one[1]["id"] for one in (lambda told: (told[0], told[-1]))(say(client, id, "mine")))
    them = {"x-user": "bo"}
    message = f"{API}/{id}/messages/{reply}"
    for method, place, body in (
        ("GET", f"{API}/{id}", None),
        ("PATCH", f"{API}/{id}", {"title": "x"}),
        ("DELETE", f"{API}/{id}", None),
        ("POST", f"{API}/{id}/fork", {"message": reply}),
        ("GET", f"{API}/{id}/budget", None),
        ("GET", f"{API}/{id}/export", None),
        ("POST", f"{API}/{id}/messages", {"content": "x"}),
        ("POST", f"{API}/{id}/messages/{question}/regenerate", None),
        ("GET", f"{message}/follow", None),
        ("POST", f"{message}/stop", None),
        ("PATCH", message, {"feedback": 1}),
        ("DELETE", message, None),
    ):
        answer = client.request(method, place, json=body, headers=them)
        assert answer.status_code == 404, (method, place)
        assert answer.json()["error"]["type"] == "not_found_error"
    assert client.get(API, headers=them).json() == {"conversations": [], "more": False}
    assert client.get(f"{API}/export", headers=them).json()["conversations"] == []
    assert len(client.get(f"{API}/{id}").json()["messages"]) == 2


def test_the_policy_answers_a_blocked_message_and_the_model_never_sees_it(store):
    app = application(store, policy=WordPolicy())
    with TestClient(app) as client:
        id = begin(client)
        told = say(client, id, "BAD thing")
        assert [name for name, _ in told] == ["message", "message", "blocked", "done"]
        assert (told[0][1]["status"], told[-1][1]["status"]) == ("blocked", "blocked")
        assert told[-1][1]["content"] == "Say it kindly."
        refused = client.post(f"{API}/{id}/messages/{told[0][1]['id']}/regenerate")
        assert refused.status_code == 409
        told = say(client, id, "my SECRET, and an ODD")
        assert told[0][1]["content"] == "my [gone], and an ODD"
        model = app.state.backends.backend
        assert [[message["content"] for message in ask.messages] for ask in model.asked] == [["my [gone], and an ODD"]]
        assert "SECRET" not in json.dumps(client.get(f"{API}/{id}").json())
        # a system prompt and a file are the user's words, too
        refused = client.post(API, json={"system": "Be BAD."})
        assert (refused.status_code, "Say it kindly" in refused.text) == (400, True)
        assert client.patch(f"{API}/{id}", json={"settings": {"system": "Be BAD."}}).status_code == 400
        file = {"messages": [{"role": "user", "content": "BAD"}, {"role": "user", "content": "a SECRET"}]}
        (made,) = client.post(f"{API}/import", json=file).json()["conversations"]
        taken = client.get(f"{API}/{made['id']}").json()["messages"]
        assert [(one["content"], one["status"]) for one in taken] == [("BAD", "blocked"), ("a [gone]", "done")]


def test_presets_begin_conversations(client):
    assert client.get("/api/presets").json() == {"presets": []}
    kept = {"presets": [{"name": "short", "system": "Be brief.", "sampling": {"max_new_tokens": 9}}]}
    assert client.put("/api/presets", json=kept).json() == kept
    whole = client.post(API, json={"preset": "short", "sampling": {"temperature": 0}}).json()
    assert (whole["settings"]["system"], whole["settings"]["sampling"]) == ("Be brief.", {"temperature": 0.0})
    assert client.post(API, json={"preset": "none"}).status_code == 404


def test_thumbs_come_out_as_data_that_the_project_reads(client, tmp_path):
    id = begin(client, system="Be kind.")
    told = say(client, id, "Hi")
    bad = events(client.post(f"{API}/{id}/messages/{told[-1][1]['id']}/regenerate"))[-1][1]
    unrated = events(client.post(f"{API}/{id}/messages/{told[-1][1]['id']}/regenerate"))[-1][1]
    client.patch(f"{API}/{id}/messages/{told[-1][1]['id']}", json={"feedback": 1})
    client.patch(f"{API}/{id}/messages/{bad['id']}", json={"feedback": -1})
    assert unrated["feedback"] is None
    pairs, judged = tmp_path / "pairs.jsonl", tmp_path / "judged.jsonl"
    pairs.write_bytes(client.get("/api/feedback/export").content)
    judged.write_bytes(client.get("/api/feedback/export", params={"kind": "judged"}).content)
    (pair,) = preferences.comparisons(pairs)
    assert [message["content"] for message in pair.prompt] == ["Be kind.", "Hi"]
    assert pair.chosen == pair.rejected == ({"role": "assistant", "content": "You said: Hi "},)
    assert [one.desirable for one in preferences.judged(judged)] == [True, False]
    assert client.get("/api/feedback/export", headers={"x-user": "bo"}).content == b""


@pytest.mark.parametrize("form", ["json", "sharegpt", "markdown"])
def test_an_exported_conversation_comes_in_again(client, form):
    id = begin(client)
    say(client, id, "Why? 为什么")
    file = client.get(f"{API}/{id}/export", params={"format": form})
    assert "Why-" in file.headers["content-disposition"]
    (made,) = client.post(f"{API}/import", content=file.content).json()["conversations"]
    again = client.get(f"{API}/{made['id']}/export", params={"format": form})
    assert again.content == file.content
    assert client.get(f"{API}/{made['id']}").json()["messages"][1]["content"] == "You said: Why? 为什么 "


def test_what_is_wrong_is_answered_with_its_status_and_changes_nothing(client):
    id = begin(client)
    messages = f"{API}/{id}/messages"
    before = client.get(f"{API}/{id}").json()
    for method, place, body, status in (
        ("POST", messages, {"content": "x" * (LONGEST_CONTENT + 1)}, 413),
        ("POST", messages, {"content": "a\0b"}, 400),
        ("POST", messages, {"content": "  "}, 400),
        ("POST", messages, {"content": 3}, 422),
        ("POST", messages, {"contents": "x"}, 422),
        ("POST", messages, {"content": "x", "parent": "nothing"}, 404),
        ("PATCH", f"{API}/{id}", {"title": "x" * 201}, 413),
        ("PATCH", f"{API}/{id}", {"leaf": "nothing"}, 404),
        ("PATCH", f"{API}/{id}", {"settings": {"sampling": {"top_p": 3}}}, 422),
        ("PATCH", f"{API}/{id}", {"settings": {"system": "x" * 40_000}}, 413),
        ("POST", API, {"sampling": {"temperature": -1}}, 422),
        ("GET", API + "?limit=0", None, 422),
        ("GET", API + "?query=" + "x" * 201, None, 413),
        ("GET", API + "?before=nothing", None, 404),
        ("GET", f"{API}/{id}/budget?leaf=nothing", None, 404),
        ("GET", f"{API}/{id}/export?format=pdf", None, 422),
        ("PUT", "/api/presets", {"presets": [{"name": "x"}, {"name": "x"}]}, 400),
    ):
        answer = client.request(method, place, json=body)
        assert answer.status_code == status, (method, place, answer.text)
        assert answer.json()["error"]["message"]
    assert client.get(f"{API}/{id}").json() == before


def test_a_file_too_large_is_refused(client):
    assert client.post(f"{API}/import", content=b"x" * (LONGEST_FILE + 1)).status_code == 413


@pytest.mark.parametrize(("fault", "status"), [(BusyError("locked"), 503), (FullError("full"), 507)])
def test_faults_of_the_database_have_their_status(client, store, monkeypatch, fault, status):
    id = begin(client)

    def failing(*_, **__):
        raise fault

    monkeypatch.setattr(store, "ask", failing)
    answer = client.post(f"{API}/{id}/messages", json={"content": "Hi"})
    assert answer.status_code == status
    assert (answer.headers.get("retry-after") is not None) == (status == 503)
    assert answer.json()["error"] == {"message": str(fault), "type": "server_error", "param": None, "code": None}


def test_a_reply_that_another_server_writes_can_be_followed_and_stopped(postgres_database, monkeypatch):
    """Two servers on one PostgreSQL: a load balancer may send the page that comes back to the other one."""
    monkeypatch.setattr(routes_module, "_POLL", 0.0)
    writer, other = Store.open(postgres_database, serve=True), Store.open(postgres_database, serve=True)
    try:
        with TestClient(application(other)) as client:
            chat = writer.create("local")
            _, reply = writer.ask("local", chat.id, "Hi")
            writer.replies.append({reply.id: "One "})
            place = f"{API}/{chat.id}/messages/{reply.id}"
            assert client.get(f"{API}/{chat.id}").json()["messages"][-1]["status"] == "running"  # its writer lives
            real, calls = other.message, []

            def message(*arguments):
                calls.append(1)
                if len(calls) == 3:
                    writer.replies.append({reply.id: "two "})
                if len(calls) == 5:
                    writer.replies.finish(reply.id, content="One two three.")
                return real(*arguments)

            monkeypatch.setattr(other, "message", message)
            told = events(client.get(f"{place}/follow"))
            assert "".join(data["text"] for name, data in told if name == "text") == "One two "
            assert told[-1][1]["content"] == "One two three."
            _, reply = writer.ask("local", chat.id, "Again")
            writer.replies.append({reply.id: "So "})
            stopped = client.post(f"{API}/{chat.id}/messages/{reply.id}/stop").json()
            assert (stopped["status"], stopped["content"]) == ("interrupted", "So ")
            assert writer.replies.append({reply.id: "much"}) == set()
            # the writer dies: its connection is gone, and with it its lock
            _, reply = writer.ask("local", chat.id, "Last")
            writer.replies.append({reply.id: "Wor"})
            writer.close()
            dead = client.get(f"{API}/{chat.id}").json()["messages"][-1]
            assert (dead["status"], dead["content"], dead["error"]) == ("interrupted", "Wor", "the server stopped")
    finally:
        writer.close()
        other.close()
