"""The simulation: the production journal, poster and housekeeping in worlds where everything goes wrong, by seed.

    python -m tests.simulation --seeds 5000 --events 1000
    python -m tests.simulation --start 4711 --seeds 1 --trace

    filesystem  a disk that loses what was not synced and tears what it keeps
    machine     the `Host` that production code runs on: every call may fail, kill or interrupt
    ledger      shards, replicas, crashes, fail-overs, lost replies
    truth       what was really journalled, kept apart from the code under test
    world       processes, their interleaving, and the invariants
    schedule    what happens, and how a world comes to rest
    profile     what a seed's world is like

What holds at every step: a batch that a shard books is what its range of the file holds, no
more and no less, and begins where the shard's watermark stands; so nothing is booked twice
and nothing that was not journalled. `append` tells the truth about every hit. A power cut
takes nothing that was promised to be on disk. A file that is deleted is on the disk of every
server that can come to be in charge. A reader sees what its machine has journalled before.
At rest: every hit that a file still holds, or held when it was deleted, is booked, or told as
lost to the last one; sums, totals and watermarks agree; nothing is kept for ever.
"""
