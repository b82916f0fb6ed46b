"""`POST /test/<n>/` and the runs it starts, through real web processes and a real worker."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from hitledger.ledger import LedgerStore
from hitledger.posting import Poster
from hitledger.settings import Settings
from hitledger.web import create_app
from hitledger.web.runs import MOST_WAITING, Preferences, WaitingRoom
from tests.credentials import bearer
from tests.guarded import guarded
from tests.issuer import LocalIssuer
from tests.ports import free_port
from tests.processes import Running
from tests.support import Valkey, wait_until
from tests.testruns import environment_of, worker

THREADS = 4


@dataclass(frozen=True)
class Answered:
    """A response."""

    status: int
    headers: Message
    json: Any


class Web:
    """A running service, as its clients see it."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._shown = bearer(token)

    def ask(self, method: str, path: str, **headers: str) -> Answered:
        """Send a request and return whatever is answered."""
        named = self._shown | {name.title(): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answered(answer.status, answer.headers, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Answered(error.code, error.headers, json.load(error))

    def post(self, path: str, **headers: str) -> Answered:
        """Post to a path."""
        return self.ask("POST", path, **headers)

    def get(self, path: str) -> Answered:
        """Get a path."""
        return self.ask("GET", path)

    def ended(self, run_id: str) -> Any:
        """Wait for a run's end and return it."""
        return wait_until(lambda: (run := self.get(f"/test/runs/{run_id}/").json)["finished_at"] and run)

    def answers(self) -> bool:
        """Tell whether it does."""
        try:
            return self.get("/livez").status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def served(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, issuer_of_all: LocalIssuer | None
) -> Iterator[Settings]:
    """Let one web process with few threads, and a worker, run for all tests of this module."""
    folder = tmp_path_factory.mktemp("web-runs")
    settings = Settings(
        port=free_port(),
        workers=1,
        threads=THREADS,
        redis_url=valkey.url,
        data_dir=folder,
        # Of this module's turn alone: the suite's processes may share it out.
        key_prefix=f"test-{folder.name}-{os.getpid()}",
        test_max_requests=100_000,
        # So seldom that nothing but a reader posts while a test looks.
        posting_interval_ms=60_000,
    )
    if issuer_of_all:
        settings = guarded(settings, issuer_of_all)
    with (
        Running([sys.executable, "-m", "hitledger", "web"], environment_of(settings)),
        worker(settings),
    ):
        wait_until(Web(settings.own_url).answers)
        yield settings


@pytest.fixture
def web(served: Settings, token: str | None) -> Web:
    """The service."""
    return Web(served.own_url, token)


def test_a_run_that_ends_in_time(web: Web) -> None:
    """The answer is 200 with the run, and its hits are in /stats/ at once, URL by URL."""
    before = web.get("/stats/").json["total_requests"]
    answer = web.post("/test/20/")
    run = answer.json
    assert answer.status == 200
    assert list(run) == [
        "id", "status", "requested", "sent", "succeeded", "failed", "pool", "distinct_urls",
        "started_at", "finished_at", "requests_per_second", "latency_ms", "error",
    ]  # fmt: skip
    assert (run["status"], run["requested"], run["sent"], run["succeeded"], run["failed"]) == (
        "finished",
        20,
        20,
        20,
        0,
    )
    assert len(set(run["pool"])) == 3
    assert list(run["latency_ms"]) == ["p50", "p90", "p99", "max"]
    assert run["started_at"] <= run["finished_at"]
    assert run["finished_at"].endswith("Z")
    assert "Location" not in answer.headers
    assert "Preference-Applied" not in answer.headers

    report = web.get("/stats/?limit=10000").json
    urls = {row["url"]: row["requests"] for row in report["urls"]}
    of_run = {url: count for url, count in urls.items() if url.split("/")[2] in run["pool"]}
    assert sum(of_run.values()) == 20
    assert len(of_run) == run["distinct_urls"]
    # The run, the report before it, and the request that started the run.
    assert report["total_requests"] == before + 20 + 2
    assert web.get(f"/test/runs/{run['id']}/").json == run


def test_the_hits_are_posted_before_the_answer(web: Web, served: Settings) -> None:
    """When the answer is 200 the run's hits are in the ledger, for every reader, and not only on their way."""
    store = LedgerStore(served)
    Poster(served, store).post_now()
    before = store.totals().requests
    assert web.post("/test/50/", prefer="wait=60").status == 200
    # That of the request that started the run is journalled with its answer.
    assert store.totals().requests == before + 50
    store.close()


def test_a_run_that_does_not_end_in_time(web: Web) -> None:
    """The answer is 202 with the run so far, and says where to follow it."""
    answer = web.post("/test/2000/", prefer="wait=0")
    assert answer.status == 202
    assert answer.json["status"] in ("queued", "running")
    assert answer.json["latency_ms"] is None
    assert answer.headers["Location"] == f"/test/runs/{answer.json['id']}/"
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert web.ended(answer.json["id"])["succeeded"] == 2000


@pytest.mark.parametrize(
    ("prefer", "requests", "status", "applied"),
    [
        # More than are sent before the run is looked at for the answer.
        ("respond-async", 2000, 202, "respond-async"),
        ("wait=60", 1, 200, "wait=60"),
        ("wait=3600", 1, 200, "wait=60"),
        ("respond-async, wait=50", 1, 200, "respond-async, wait=50"),
        ("Wait = 50; foo=bar, handling=lenient", 1, 200, "wait=50"),
        ("wait=soon", 1, 200, None),
        ("wait=-1", 1, 200, None),
    ],
)
def test_preferences(web: Web, prefer: str, requests: int, status: int, applied: str | None) -> None:
    """What a client prefers is honoured where it can be, and the answer says what was."""
    answer = web.post(f"/test/{requests}/", prefer=prefer)
    assert (answer.status, answer.headers["Preference-Applied"]) == (status, applied)
    assert web.ended(answer.json["id"])["sent"] == requests


def test_reading_preferences() -> None:
    """The first of several preferences of one name counts; without any, the wait is ten seconds."""
    assert Preferences.read("").seconds == 10
    assert Preferences.read("wait=3, wait=4").seconds == 3
    assert Preferences.read('wait="7"').seconds == 7
    assert Preferences.read("respond-async").seconds == 0
    assert Preferences.read("wait=٣").seconds == 10
    assert Preferences.read("wait=2").applied(waited=False) == ""


@pytest.mark.slow
def test_many_runs_at_once(web: Web) -> None:
    """Fifty runs asked for together outnumber the threads; all end well, and others are served meanwhile."""
    with ThreadPoolExecutor(51) as clients:
        posts = [clients.submit(web.post, "/test/100/") for _ in range(50)]
        other = clients.submit(web.get, "/api/other/")
        answers = [post.result() for post in posts]
        assert other.result().status == 200
    assert {answer.status for answer in answers} <= {200, 202}
    runs = [web.ended(answer.json["id"]) for answer in answers]
    assert [(run["status"], run["succeeded"]) for run in runs] == [("finished", 100)] * 50
    assert len({tuple(run["pool"]) for run in runs}) == 50


def test_room_for_those_who_wait() -> None:
    """At most half of the threads wait, and never more than there are connections for; a place can be had again."""
    room = WaitingRoom(THREADS)
    with room.place() as first, room.place() as second, room.place() as third:
        assert (first, second, third) == (True, True, False)
    with room.place() as again:
        assert again
    many = WaitingRoom(1000)
    held = [many.place() for _ in range(MOST_WAITING)]
    assert all(place.__enter__() for place in held)
    with many.place() as one_more:
        assert not one_more


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "abc", "1" + "0" * 30, "100001", "%20", "1e3", "٣", "+5"])
def test_a_number_that_is_none(web: Web, n: str) -> None:
    """Anything but a whole number from 1 to the limit is a 422 that names it, and starts nothing."""
    before = web.get("/test/runs/").json
    answer = web.post(f"/test/{quote(n, safe='%')}/")
    assert (answer.status, answer.json["parameter"]) == (422, "n")
    assert "100,000" in answer.json["detail"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert web.get("/test/runs/").json == before


def test_an_unknown_parameter(web: Web) -> None:
    """A parameter that there is not is a 422 that names it."""
    assert web.post("/test/1/?m=2").json["parameter"] == "m"
    assert web.get("/test/runs/?limit=0").json["parameter"] == "limit"


def test_the_host_header_is_not_the_target(web: Web) -> None:
    """A run goes to the service's own address, whatever the request called it."""
    answer = web.post("/test/3/", host="169.254.169.254", prefer="wait=60")
    assert (answer.status, answer.json["succeeded"]) == (200, 3)


def test_the_list(web: Web) -> None:
    """Runs are listed newest first, as many as are asked for."""
    ids = [web.post("/test/1/").json["id"] for _ in range(3)]
    listed = web.get("/test/runs/?limit=2").json["runs"]
    assert [run["id"] for run in listed] == ids[:0:-1]
    assert listed[0] == web.get(f"/test/runs/{ids[2]}/").json
    assert len(web.get("/test/runs/").json["runs"]) >= 3


def test_cancelling(web: Web) -> None:
    """A run can be cancelled, again too, but not once it has ended; what is no run is a 404."""
    run_id = web.post("/test/100000/", prefer="respond-async").json["id"]
    assert web.ask("DELETE", f"/test/runs/{run_id}/").status == 202
    run = web.ended(run_id)
    assert run["status"] == "cancelled"
    assert run["sent"] < 100_000
    assert web.ask("DELETE", f"/test/runs/{run_id}/").status == 202
    finished = web.post("/test/1/", prefer="wait=60").json["id"]
    assert web.ask("DELETE", f"/test/runs/{finished}/").status == 409
    assert web.ask("DELETE", f"/test/runs/{'0' * 26}/").status == 404
    assert web.get("/test/runs/x/").status == 404
    assert web.get("/test/20/").status == 405


def test_a_waiting_request_is_told_of_a_cancelled_run(web: Web) -> None:
    """Whoever waits for a run that somebody cancels is answered as soon as it ends."""
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(web.post, "/test/99999/", prefer="wait=60")
        listed = wait_until(
            lambda: [run for run in web.get("/test/runs/?limit=1").json["runs"] if run["requested"] == 99_999]
        )
        assert web.ask("DELETE", f"/test/runs/{listed[0]['id']}/").status == 202
        answer = waiting.result()
    assert (answer.status, answer.json["id"], answer.json["status"]) == (200, listed[0]["id"], "cancelled")


def test_the_description(web: Web) -> None:
    """The API's description has the endpoints, their answers and the run's fields."""
    described = web.get("/openapi.json").json
    start = described["paths"]["/test/{n}/"]["post"]
    assert {"200", "202", "422", "503"} <= set(start["responses"])
    assert {(each["in"], each["name"]) for each in start["parameters"]} == {("path", "n"), ("header", "Prefer")}
    assert set(described["paths"]["/test/runs/{id}/"]) == {"get", "delete"}
    assert "requests_per_second" in described["components"]["schemas"]["TestRun"]["properties"]


@contextmanager
def client_of(settings: Settings) -> Iterator[FlaskClient]:
    """Give a client of an application in this process."""
    app = create_app(settings)
    yield app.test_client()
    app.extensions["hitledger"].counter.stop()


def test_without_a_worker(settings: Settings) -> None:
    """Where no worker is alive the answer is 503 at once, with when to try again, and no run is left."""
    with client_of(settings) as client:
        answer = client.post("/test/5/")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.json
        assert "No worker" in answer.json["detail"]
        assert client.get("/test/runs/").json == {"runs": []}


def test_without_a_ledger(settings: Settings, tmp_path: Path) -> None:
    """Where the ledger is away the answer is 503 with when to try again, and says nothing of where it is."""
    with client_of(replace(settings, redis_url=f"unix://{tmp_path}/none.sock")) as client:
        for answer in (client.post("/test/5/"), client.get("/test/runs/"), client.get(f"/test/runs/{'0' * 26}/")):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"]
            assert "none.sock" not in answer.text
