"""Failovers without end: `python -m tests.failover --failovers 30 --moves 100 --seed 1`.

A cluster of three masters and three replicas keeps the ledger while hits come in. Masters are
killed with SIGKILL one after the other and come back as replicas; slots move, key by key, to
another master in between. Prints what was done, and what was lost and doubled: 0 and 0.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from redis.crc import key_slot

from hitledger.settings import Settings
from tests.books import counts_of
from tests.servers import Cluster
from tests.support import wait_until
from tests.traffic import Traffic

SHARDS = 64


def main() -> int:
    """Run it; exit status 1 where a count is wrong."""
    parser = argparse.ArgumentParser("python -m tests.failover", description="Kill masters and move slots under load.")
    parser.add_argument("--failovers", type=int, default=30, help="masters to kill")
    parser.add_argument("--moves", type=int, default=100, help="slots to move")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of it all")
    chosen = parser.parse_args()
    faults = ["kill"] * chosen.failovers + ["move"] * chosen.moves
    dice = random.Random(chosen.seed)
    dice.shuffle(faults)
    logging.getLogger("hitledger").setLevel(logging.ERROR)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hitledger-") as folder, Cluster(Path(folder)) as cluster:
        settings = Settings(
            redis_url=cluster.url, data_dir=Path(folder) / "data", posting_interval_ms=20, ledger_replicas=1
        )
        with Traffic(settings, seed=chosen.seed) as traffic:
            for fault in faults:
                (kill if fault == "kill" else move)(cluster, traffic, dice)
            traffic.end()
            exact = traffic.is_exact()
            lost, doubled = differences(counts_of(traffic.counter.store), traffic.tally)
        traffic.close()
    print(  # noqa: T201 - a program prints
        f"seed {chosen.seed}: {chosen.failovers} failovers and {chosen.moves} slots moved in "
        f"{time.monotonic() - began:.0f} s, {traffic.tally.total():,} hits on {len(traffic.tally):,} URLs: "
        f"{lost} lost, {doubled} doubled"
    )
    return 0 if exact else 1


def kill(cluster: Cluster, traffic: Traffic, dice: random.Random) -> None:
    """Kill the primary of some shard; see hits posted by the next one; bring the killed one back."""
    shard = dice.randrange(SHARDS)
    master = cluster.primary_of(shard)
    replica = cluster.replica_of(master)
    wait_until(lambda: replica.info("master_link_status") == "up")
    master.kill()
    wait_until(lambda: replica.info("role") == "master")
    traffic.wait_posted(50)
    master.start()
    cluster.wait_well()


def move(cluster: Cluster, traffic: Traffic, dice: random.Random) -> None:
    """Move some shard's slot to another master, and see hits posted."""
    shard = dice.randrange(SHARDS)
    slot = key_slot(f"{shard}".encode())
    source = cluster.primary_of(shard)
    target = dice.choice([each for each in cluster.servers if each is not source and each.info("role") == "master"])
    cluster.begin_move(slot, source, target)
    cluster.move_keys(slot, source, target, most=dice.randrange(6))
    cluster.end_move(slot, source, target)
    traffic.wait_posted(10)


def differences(found: dict[str, int], tally: Counter[str]) -> tuple[int, int]:
    """Return the hits that are missing, and those that are too many."""
    apart = [found.get(url, 0) - tally[url] for url in found.keys() | tally.keys()]
    return -sum(each for each in apart if each < 0), sum(each for each in apart if each > 0)


if __name__ == "__main__":
    sys.exit(main())
