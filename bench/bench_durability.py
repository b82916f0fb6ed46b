"""What durability costs: each way of syncing a request, each number of replicas a file, each hour that is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.support import Valkey, wait_until

from bench.common import Result, Spread, interleaved, scratch, seconds_of
from hitledger.entries import Batch, Watermark
from hitledger.journal import HEADER_BYTES, PATH, JournalWriter
from hitledger.ledger import LedgerStore
from hitledger.settings import Settings

RECORDS = 50
SYNCS = ("none", "interval", "each")
JOURNAL = f"{1:016x}-{1:032x}"
REQUESTS_A_SECOND = 1000


def appending(folder: Path, sync: str) -> Callable[[], float]:
    """Return what appends some records, syncs beside them as the background does, and tells µs a record."""
    writer = JournalWriter(folder / sync, sync=sync)

    def append() -> None:
        for number in range(RECORDS):
            writer.append(PATH, b"/api/product/%d/" % number)

    def timed() -> float:
        seconds = seconds_of(append)
        writer.maintain()
        return seconds / RECORDS * 1e6

    return timed


@contextmanager
def replicated(folder: Path, replicas: int) -> Iterator[LedgerStore]:
    """Run a Valkey with so many replicas, all with their AOF synced at each write, and a ledger on it."""
    with ExitStack() as stack:
        servers: list[Valkey] = []
        for number in range(replicas + 1):
            directory = folder / f"{number}"
            directory.mkdir()
            following = ("--replicaof", f"127.0.0.1 {servers[0].port}") if servers else ()
            servers.append(Valkey(directory, *following, port=free_port()))
            stack.callback(servers[-1].stop)
        for server in servers[1:]:
            wait_until(lambda server=server: server.client.info("replication")["master_link_status"] == "up")  # type: ignore[misc]
        settings = Settings(redis_url=servers[0].url, data_dir=folder, ledger_replicas=replicas)
        store = LedgerStore(settings)
        store.open()
        yield store
        store.close()


def confirming(store: LedgerStore, replicas: int) -> Callable[[], float]:
    """Return what confirms a journal file as before its deletion, and tells how many ms that took."""
    mark = Watermark(HEADER_BYTES)
    (outcome,) = store.post([Batch(0, JOURNAL, None, mark, {})])
    assert outcome.done

    def confirm() -> None:
        wait_until(lambda: store.confirm(JOURNAL, [mark], replicas))

    return lambda: seconds_of(confirm) * 1e3


def held_bytes_an_hour(folder: Path) -> float:
    """Return how many MB an hour of requests leaves in the journal, by what records of the length above take."""
    writer = JournalWriter(folder / "held")
    for number in range(RECORDS):
        writer.append(PATH, b"/api/product/%d/" % number)
    (path,) = (folder / "held").iterdir()
    return (path.stat().st_size - HEADER_BYTES) / RECORDS * REQUESTS_A_SECOND * 3600 / 1e6


def run(*, quick: bool) -> Result:
    """Measure."""
    result = Result("Durability: what each setting costs", ["setting", "cost", "middle half"])
    with scratch() as folder:
        found = interleaved({sync: appending(folder, sync) for sync in SYNCS}, 40 if quick else 400)
        for sync, figures in found.items():
            spread = Spread.of(figures)
            result.rows.append([f"JOURNAL_SYNC={sync}, µs a request", spread.middle, str(spread)])
        with ExitStack() as stack:
            works = {}
            for replicas in range(3):
                (folder / f"replicas-{replicas}").mkdir()
                store = stack.enter_context(replicated(folder / f"replicas-{replicas}", replicas))
                works[str(replicas)] = confirming(store, replicas)
            for count, figures in interleaved(works, 10 if quick else 100).items():
                spread = Spread.of(figures)
                result.rows.append([f"LEDGER_REPLICAS={count}, ms a deleted file", spread.middle, str(spread)])
        held = held_bytes_an_hour(folder)
        result.rows.append([f"JOURNAL_HOLD, MB an hour at {REQUESTS_A_SECOND:,} requests/s", held, ""])
    result.notes.append("interval: the sync itself runs beside the requests, every 100 ms, and is not in its figure.")
    return result
