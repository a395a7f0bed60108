"""The server hands out what it should, to whom it should, as data; and the page that is one file."""

import base64
import hashlib
import http.client
import json
import re
import threading
from contextlib import contextmanager

import pytest

from extra_jax.cli import main
from extra_jax.errors import ExtraError
from extra_jax.view.answers import Answers, to_json
from extra_jax.view.page import write_page
from extra_jax.view.server import Server, is_loopback
from view.fakes import HOSTILE, row, small_run, write_step


@contextmanager
def serving(run, host="127.0.0.1"):
    answers = Answers([str(run)])
    while answers.advance():
        pass
    server = Server(answers, host, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(tmp_path):
    with serving(small_run(tmp_path / "run")) as running:
        yield running


def get(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_every_answer_forbids_foreign_content(server):
    for path in ("/", "/app.js", "/api/runs", "/api/none", "/nothing"):
        _, headers, _ = get(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_no_file_is_made_of_an_address(server):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/run/config.yaml",
        "/app.js/../x",
        "/.",
    ):
        assert get(server, path)[0] == 404
    for query in (
        "run=99",
        "run=-1",
        "run=x",
        "source=../..",
        "source=training&ref=..",
        "ref=1:2:3",
        "ref=99:0",
        "step=1e9",
    ):
        for name in ("groups", "group", "row"):
            status, headers, body = get(server, f"/api/{name}?{query}")
            assert status in (200, 404)
            assert headers["Content-Type"] == "application/json"
            if status == 404:
                assert "error" in json.loads(body)


def test_a_file_that_went_away_is_told(server):
    run = server.answers.runs[0].directory
    (run / "rollouts" / "step_000001.jsonl").unlink()
    status, _, body = get(server, "/api/group?source=training&ref=1:0")
    assert status == 404
    assert re.search("step_000001.jsonl|no such completion", json.loads(body)["error"])


def test_nothing_but_reading_is_possible(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(server, "/api/runs", method)[0] == 501
    assert get(server, "/", "HEAD")[2] == b""


def test_another_name_for_this_machine_is_refused(server):
    assert get(server, "/api/runs", Host="evil.example")[0] == 421
    assert get(server, "/api/runs", Host=f"localhost:{server.port}")[0] == 200


def test_hostile_texts_leave_as_json(server):
    status, headers, body = get(server, "/api/group?source=training&ref=1:2")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["rows"][0]["completion"] == HOSTILE[0]
    assert body.isascii()


def test_long_answers_are_packed_for_browsers_that_say_so(server):
    plain, packed = get(server, "/uplot.js")[2], get(server, "/uplot.js", **{"Accept-Encoding": "gzip"})
    assert packed[1]["Content-Encoding"] == "gzip"
    assert len(packed[2]) < len(plain) / 2


def test_a_host_that_others_reach_needs_the_token(tmp_path):
    with serving(small_run(tmp_path / "run", steps=1), "0.0.0.0") as server:
        assert len(server.token) >= 32
        assert server.url.endswith(f"?token={server.token}")
        for path in ("/", "/app.js", "/api/runs", "/?token=", "/?token=wrong", f"/?token={server.token}x"):
            assert get(server, path)[0] == 403
        assert get(server, "/", Cookie="extra_jax_view=wrong; ;=")[0] == 403
        status, headers, _ = get(server, f"/?token={server.token}")
        assert status == 200
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert get(server, "/api/runs", Cookie=cookie.partition(";")[0])[0] == 200


def test_loopback_is_recognised():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "")))


def test_a_port_that_is_taken_is_told(server):
    with pytest.raises(ExtraError, match=f"{server.port}.*Choose another --port"):
        Server(server.answers, "127.0.0.1", server.port)


def test_json_is_strict():
    assert to_json({"a": [float("nan"), float("inf"), 1.5], "b": "\ud800"}) == b'{"a":[null,null,1.5],"b":"\\ud800"}'


def scripts(page):
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


def test_one_file_holds_everything_and_runs_only_its_own_scripts(tmp_path):
    run = small_run(tmp_path / "run")
    path, chosen, total = write_page(Answers([str(run)]), tmp_path / "page.html")
    page = path.read_text()
    assert chosen == total
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts(page)]
    assert len(digests) == 5
    assert set(re.findall(r"sha256-([^']+)", policy)) >= set(digests)
    assert "unsafe" not in policy
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in data
    shown = json.loads(data)
    assert any(r["completion"] == HOSTILE[1] for detail in shown["details"].values() for r in detail["rows"])


def test_one_file_is_bounded_and_holds_the_parents_of_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("extra_jax.view.page.MOST_BYTES", 60_000)
    run = tmp_path / "run"
    write_step(run, 1, [row(1, i, f"p{i // 2}", "x" * 1000) for i in range(200)])
    write_step(
        run,
        2,
        [row(2, 0, "p3", parent="1:7", prefix_ids=[1, 2])] + [row(2, i, f"q{i}", "x" * 1000) for i in range(1, 200)],
    )
    path, chosen, total = write_page(Answers([str(run)]), tmp_path / "page.html")
    assert path.stat().st_size < 400_000
    assert 5 < chosen < total == 300
    details = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])["details"]
    assert {"0|training|2:0", "0|training|1:6"} <= set(details)


def test_the_verb_writes_a_file_and_says_what_is_wrong(tmp_path, capsys):
    run = small_run(tmp_path / "run", steps=1)
    out = tmp_path / "pages" / "view.html"
    assert main(["view", str(run), "--out", str(out)]) == 0
    assert out.is_file()
    assert "groups of completions" in capsys.readouterr().out
    assert main(["view", str(run), "--out", str(tmp_path / "folder")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["view", str(run), "--port", "99999"]) == 2
