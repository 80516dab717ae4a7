"""Messages in a folder, with readers that look at every moment."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from hub_site.celery import app

MANY = 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "broker"


@pytest.fixture
def connect(folder: Path) -> Callable[[], Connection]:
    def connect() -> Connection:
        options = {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
        }
        return Connection("folder://localhost", transport_options=options)

    return connect


def test_it_is_what_the_site_uses_without_a_broker_url() -> None:
    with app.connection_for_write() as connection:
        assert type(connection.transport).__module__ == "hub_site.jobs.folder_broker"


def test_nobody_reads_half_a_message_or_one_twice(connect: Callable[[], Connection]) -> None:
    """Long ones: a write of many pages takes the time in which others look."""
    got: list[int] = []
    ends = threading.Event()

    def read(_: int) -> None:
        channel = connect().default_channel
        while not (ends.is_set() and channel._size("bell") == 0):
            try:
                payload = channel._get("bell")
            except Empty:
                continue
            assert len(payload["body"]) == 200_000
            got.append(payload["number"])

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read, n) for n in range(3)]
        channel = connect().default_channel
        for number in range(MANY):
            channel._put("bell", {"number": number, "body": "x" * 200_000})
        ends.set()
        for reader in readers:
            reader.result()
    assert sorted(got) == list(range(MANY))


def test_what_another_program_left_half_written_is_dropped(
    connect: Callable[[], Connection], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channel = connect().default_channel
    (folder / "queue").mkdir(parents=True)
    for name, text in {"000": "", "001": '{"body": "ha'}.items():
        (folder / "queue" / f"{name}.bell.msg").write_text(text)
    channel._put("bell", {"body": "whole"})
    assert channel._get("bell") == {"body": "whole"}
    assert caplog.text.count("no message can be read") == 2
    assert not list((folder / "queue").iterdir())


@pytest.mark.parametrize("text", ["[]", "null", pytest.param("[" * 100_000, id="deep")])
def test_what_is_no_message_is_dropped(
    connect: Callable[[], Connection], folder: Path, text: str
) -> None:
    channel = connect().default_channel
    (folder / "queue" / "000.bell.msg").mkdir(parents=True)  # nor does this stand in the way
    (folder / "queue" / "001.bell.msg").write_text(text)
    channel._put("bell", {"number": 1})
    assert channel._get("bell") == {"number": 1}
    assert not (folder / "queue" / "001.bell.msg").exists()


def test_messages_come_in_the_order_of_their_sending(connect: Callable[[], Connection]) -> None:
    channel = connect().default_channel
    for number in range(20):
        channel._put("bell", {"number": number})
        channel._put("another", {"number": -1})
    assert [channel._get("bell")["number"] for _ in range(20)] == list(range(20))
    assert channel._size("another") == 20 and channel._purge("another") == 20
    with pytest.raises(Empty):
        channel._get("bell")


def test_a_folder_that_was_cleared_away_is_made_again(
    connect: Callable[[], Connection], folder: Path
) -> None:
    channel = connect().default_channel
    assert channel._size("bell") == 0
    channel._put("bell", {"number": 1})
    (message,) = (folder / "queue").iterdir()
    assert folder.joinpath("queue").stat().st_mode & 0o777 == 0o700
    message.unlink()
    (folder / "queue").rmdir()
    with pytest.raises(Empty):
        channel._get("bell")
    channel._put("bell", {"number": 2})
    assert channel._get("bell") == {"number": 2}


def test_queues_bound_at_the_same_time_are_all_there(
    connect: Callable[[], Connection], folder: Path
) -> None:
    (folder / "control").mkdir(parents=True)
    (folder / "control" / "bells.exchange").write_text("")  # by somebody who has just begun
    exchange = Exchange("bells")

    def bind(number: int) -> None:
        name = f"bell-{number}"
        Queue(name, exchange, routing_key=name)(connect().default_channel).declare()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(bind, range(16)))
    table = json.loads((folder / "control" / "bells.exchange").read_text())
    assert {row[2] for row in table} == {f"bell-{n}" for n in range(16)}


def test_a_message_goes_all_the_way(connect: Callable[[], Connection]) -> None:
    queue = Queue("bell", Exchange("bell"), routing_key="bell")
    heard: list[Any] = []
    with connect() as there, there.Consumer(queue, callbacks=[lambda b, m: heard.append(b)]):
        with connect() as here:
            here.Producer().publish({"n": 1}, exchange="", routing_key="bell")
        until = time.monotonic() + 30
        while not heard and time.monotonic() < until:
            there.drain_events(timeout=5)
    assert heard == [{"n": 1}]
