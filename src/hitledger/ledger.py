"""The ledger: the counts and the watermarks, in Redis or Valkey.

Keys; `{s}` is a shard's number in braces, so that all keys of a shard share a hash slot:

    <prefix>:meta                       hash        id, format, shards, made: the ledger itself
    <prefix>:{s}:all                    sorted set  URL -> hits, since the ledger began
    <prefix>:{s}:hour:2026-11-23T22     sorted set  the same for one period, UTC; also
    <prefix>:{s}:day:2026-11-23                     by day and
    <prefix>:{s}:month:2026-11                      by month; each expires by its retention
    <prefix>:{s}:totals                 hash        ledger, shards: whose it is; requests: hits posted
                                                    to this shard; (unmatched) ...: hits on each line;
                                                    routed: those of requests whose route is known;
                                                    floor, retired ...: see lua/retire.lua
    <prefix>:{s}:totals:hour:...        hash        requests, lines and routed of one period
    <prefix>:{s}:routes                 sorted set  route -> hits, since the ledger began
    <prefix>:{s}:routes:hour:...        sorted set  the same for one period; also by day and month
    <prefix>:{s}:watermarks             hash        journal name -> `Watermark`
    <prefix>:{s}:sections:<generation>  hash        where sections are kept: section -> URLs below it;
    ...:under:/api/                     sorted set  a section's children -> hits; and, while a ledger is
    ...:filled                          set         brought to have sections, the URLs that are in them.
                                                    `sections` of the totals names the generation

Guarantee: `LedgerStore.post` books a batch once, however often it is called and by however
many, because the script compares the watermark with the batch's beginning and moves it to
the batch's end in the same step as the counts (`lua/post.lua`).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import redis

from hitledger.addresses import CLUSTER
from hitledger.checks import demand_sound
from hitledger.connections import Connections, Server, connect, server_errors
from hitledger.dispatch import Command, confirm_on, error_in, script, send, send_at_once, send_scripts, send_together
from hitledger.entries import (
    MOST_ROUTES,
    MOST_SECTIONS,
    Batch,
    LedgerIdentity,
    Outcome,
    ShardBooks,
    Totals,
    Watermark,
    most_urls_of,
    path_of,
)
from hitledger.errors import LedgerError, LedgerMismatchError
from hitledger.forks import tell_of_forks
from hitledger.periods import Period, Retention
from hitledger.settings import Settings

FORMAT = "1"
READING_SCRIPTS = ("page", "frame")
"""The scripts that reading may need."""
SWEPT_TOGETHER = 500
"""Keys deleted by one command."""
LONG_OVER_SECONDS = 86_400
"""A period that has expired for so long is over by every clock."""


class LedgerStore:
    """The ledger at one address. Nothing is sent before the first call that needs it."""

    def __init__(self, settings: Settings, connections: Connections | None = None) -> None:
        if connections is None:
            if settings.redis_url is None:
                raise LedgerError("No ledger is set.", "Set HITLEDGER_REDIS_URL.")
            connections = connect(settings.redis_url)
        self._settings = settings
        self._retention = Retention.of(settings)
        self._connections = connections
        self._identity: LedgerIdentity | None = None
        self._opening = threading.Lock()
        self._generations: dict[int, str] = {}
        """Shards that keep sections, and which; as the posting script said last."""
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and begin anew."""
        # A thread of the parent's may have held it, and is not here to give it back.
        self._opening = threading.Lock()

    # Which ledger it is

    @property
    def identity(self) -> LedgerIdentity:
        """Which ledger this is, as last seen; opened at the first use. Raises like `open`."""
        with self._opening:
            return self._identity or self._open()

    def open(self) -> LedgerIdentity:
        """Look at the ledger anew, and make it where the server is empty.

        Raises:
            LedgerUnavailableError: the server cannot be reached or is not ready.
            LedgerMismatchError: its format, shards or eviction policy do not fit.
        """
        with self._opening:
            return self._open()

    def _open(self) -> LedgerIdentity:
        self._identity = None
        self._generations.clear()
        self.check()
        with server_errors():
            identity = self._check_meta(self._find_or_make_meta())
            for shard in range(identity.shards):
                self._adopt(shard, identity)
        self._identity = identity
        return identity

    def check(self) -> None:
        """See that no server loses or doubles counts in silence. Raises LedgerMismatchError, LedgerUnavailableError."""
        with server_errors():
            primaries = [server.client for server in self._connections.servers() if server.primary]
            demand_sound(primaries, self._connections.kind)

    def _find_or_make_meta(self) -> dict[str, str]:
        meta = self.key("meta")
        # Who finds a ledger need not be allowed to make one: a reader's user may only read.
        (found,) = send_together(self._connections.keeper(meta), [("HGETALL", meta)])
        if error := error_in(found):
            raise error
        table = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
        if table:
            return table
        # Where only the meta hash is gone, the shards still know which ledger they are of, and how
        # many they are: with another number, URLs would move to shards that know nothing of them.
        known, shards = self._connections.reader(0).hmget(self.totals_key(0), "ledger", "shards")
        fresh = {
            "id": str(known or secrets.token_hex(16)),
            "format": FORMAT,
            "shards": str(shards or self._settings.shards or self._connections.default_shards),
            "made": str(int(time.time())),
        }
        arguments: list[str | int] = [word for pair in fresh.items() for word in pair]
        flat = script("make")(self._connections.keeper(meta), [meta], arguments)
        assert isinstance(flat, list)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _check_meta(self, meta: Mapping[str, str]) -> LedgerIdentity:
        if meta.get("format") != FORMAT:
            raise LedgerMismatchError(
                f"The ledger has format {meta.get('format')!r}; this version of hitledger knows format {FORMAT}.",
                "Use the version that made it, or another HITLEDGER_KEY_PREFIX.",
            )
        identity = LedgerIdentity(meta["id"], int(meta["shards"]), int(meta["made"]))
        if self._settings.shards not in (None, identity.shards):
            raise LedgerMismatchError(
                f"The ledger has {identity.shards} shards and HITLEDGER_SHARDS asks for {self._settings.shards}.",
                f"Unset HITLEDGER_SHARDS or set it to {identity.shards}; shards are fixed when a ledger is made.",
            )
        return identity

    def _adopt(self, shard: int, identity: LedgerIdentity) -> None:
        keys = [self.totals_key(shard), self.watermarks_key(shard), self.set_key(shard)]
        known, shards, sections = self._connections.reader(shard).hmget(keys[0], "ledger", "shards", "sections")
        if [known, shards] == [identity.id, str(identity.shards)]:
            if sections:
                self._generations[shard] = str(sections).partition(" ")[0]
            return
        generation = new_generation() if self._settings.keep_sections else ""
        found = script("adopt")(self.poster(shard), keys, [identity.id, identity.shards, generation])
        if found != identity.id:
            raise LedgerMismatchError(
                f"Shard {shard} holds counts of another ledger.",
                "Was another backup restored beside it? Use another HITLEDGER_KEY_PREFIX, or `hitledger reset`.",
            )

    # Keys

    def key(self, *words: str) -> str:
        """Return the name of a key: the prefix and the words."""
        return ":".join((self._settings.key_prefix, *words))

    def set_key(self, shard: int, period: Period | None = None) -> str:
        """Return the key of a shard's sorted set, for all time or for one period."""
        return self.key(f"{{{shard}}}", period.key if period else "all")

    def totals_key(self, shard: int, period: Period | None = None) -> str:
        """Return the key of a shard's totals, for all time or for one period."""
        return self.key(f"{{{shard}}}", "totals", *([period.key] if period else []))

    def routes_key(self, shard: int, period: Period | None = None) -> str:
        """Return the key of a shard's sorted set of routes, for all time or for one period."""
        return self.key(f"{{{shard}}}", "routes", *([period.key] if period else []))

    def watermarks_key(self, shard: int) -> str:
        """Return the key of a shard's watermarks."""
        return self.key(f"{{{shard}}}", "watermarks")

    def sections_key(self, shard: int, *words: str) -> str:
        """Return the key of what a shard keeps of sections; the first word is the generation."""
        return self.key(f"{{{shard}}}", "sections", *words)

    def section_keys(self, shard: int, generation: str, urls: Collection[str]) -> list[str]:
        """Return the keys that the scripts need for putting URLs into their sections."""
        found = {section for url in urls for section in path_of(url)[:MOST_SECTIONS]} - {""}
        words = [(), ("filled",), ("under", ""), *(("under", section) for section in sorted(found))]
        return [self.sections_key(shard, generation, *each) for each in words]

    def reader(self, shard: int) -> redis.Redis:
        """Return the client that reads a shard."""
        return self._connections.reader(shard)

    def poster(self, shard: int) -> redis.Redis:
        """Return the client that posts to a shard."""
        return self._connections.poster(shard)

    def servers(self) -> list[Server]:
        """Return all servers that hold the ledger, primaries first. Raises LedgerUnavailableError."""
        return self._connections.servers()

    @property
    def keeps_sections(self) -> bool:
        """Whether shards keep sections, as far as is known: then a call takes fewer URLs."""
        return bool(self._generations) or self._settings.keep_sections

    @property
    def kind(self) -> str:
        """What the ledger is on: one server, a cluster, or what Sentinel watches."""
        return self._connections.kind

    # Posting

    def watermarks(self, journals: Sequence[str]) -> dict[str, list[Watermark | None]]:
        """Read the watermarks of journal files, one a shard; None where a shard has not seen the file.

        Raises LedgerError where a shard does not answer.
        """
        found, away = self.look(journals)
        for error in away.values():
            raise error
        return found

    def look(self, journals: Sequence[str]) -> tuple[dict[str, list[Watermark | None]], dict[int, LedgerError]]:
        """Read watermarks as `watermarks` does, of the shards that answer, and say which do not.

        Raises LedgerError where none does.
        """
        away: dict[int, LedgerError] = {}
        found: dict[str, list[Watermark | None]] = {journal: [] for journal in journals}
        if not journals:
            return found, away
        shards = range(self.identity.shards)
        answers = send(self.reader, [(shard, ("HMGET", self.watermarks_key(shard), *journals)) for shard in shards])
        for shard, texts in zip(shards, answers, strict=True):
            if error := error_in(texts):
                away[shard] = error
            for journal, text in zip(journals, [None] * len(journals) if error else texts, strict=True):
                found[journal].append(Watermark.decode(text) if text else None)
        if len(away) == len(shards):
            raise away[0]
        return found, away

    def post(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Book batches, those of a shard in their order, together where a server holds several shards.

        Every batch has its own outcome; an error of one shard does not stop the others.
        """
        outcomes = self._post(batches)
        unlike = [index for index, outcome in enumerate(outcomes) if outcome.word == "sections"]
        if unlike:  # they are told how, and nothing was written
            again = self._post([batches[index] for index in unlike])
            for index, outcome in zip(unlike, again, strict=True):
                outcomes[index] = outcome
        if any(outcome.word == "stranger" for outcome in outcomes):
            self._identity = None  # another ledger is there: whoever comes next opens it
        return outcomes

    def _post(self, batches: Sequence[Batch]) -> list[Outcome]:
        calls = [(batch.shard, self._post_command(batch)) for batch in batches]
        answers = send_scripts(self.poster, calls, ["post"])
        for batch, answer in zip(batches, answers, strict=True):
            if isinstance(answer, list) and answer[0] == "sections":
                self._generations[batch.shard] = str(answer[1]).partition(" ")[0]
        return [_outcome(answer) for answer in answers]

    def _post_command(self, batch: Batch) -> tuple[str | int, ...]:
        shard = batch.shard
        keys = [self.totals_key(shard), self.watermarks_key(shard), self.set_key(shard)]
        words: list[str | int] = []
        now = time.time()
        has_routes = any(group.routes for group in batch.hits.values())
        if has_routes:
            keys.append(self.routes_key(shard))
        for hour, group in batch.hits.items():
            # What the server would drop as soon as it is written, whatever the clocks say, is not worth the way.
            kept = [each for each in self._retention.periods_kept(hour) if each[1] > now - LONG_OVER_SECONDS]
            words.append(len(kept))
            for period, expiry in kept:
                keys += [self.set_key(shard, period), self.totals_key(shard, period)]
                if has_routes:
                    keys.append(self.routes_key(shard, period))
                words.append(expiry)
            for table in (group.lines, group.urls, group.routes)[: 3 if has_routes else 2]:
                words.append(len(table))
                # Sorted, as the server keeps URLs of equal counts: neighbours are found in its caches.
                for name, count in sorted(table.items()):
                    words += (name, count)
        limits = str(most_urls_of(shard, self.identity.shards, self._settings.max_urls))
        if has_routes:
            limits += f" {MOST_ROUTES}"
        if generation := self._generations.get(shard):
            urls = {url for group in batch.hits.values() for url in group.urls}
            section_keys = self.section_keys(shard, generation, urls)
            keys += section_keys
            limits += f" g{generation} {len(section_keys)}"
        head = (
            self.identity.id,
            batch.journal,
            batch.expected.encode() if batch.expected else "",
            batch.wanted.encode(),
            sum(group.total for group in batch.hits.values()),
            limits,
            len(batch.hits),
        )
        return ("EVALSHA", script("post").sha, len(keys), *keys, *head, *words)

    def confirm(self, journal: str, marks: Sequence[Watermark], replicas: int = 0) -> bool:
        """Tell whether all that is posted of a journal file is on the disk of its servers, and of so many replicas.

        The watermarks are written again and a WAITAOF sent behind them, on the posting
        connection. Raises `LedgerUnavailableError` where nobody is in charge of a shard.
        """
        by_client: dict[int, tuple[redis.Redis, list[Command]]] = {}
        for shard, mark in enumerate(marks):
            client = self.poster(shard)
            command = self._post_command(Batch(shard, journal, mark, mark, {}))
            by_client.setdefault(id(client), (client, []))[1].append(command)
        return all(confirm_on(client, commands, replicas) for client, commands in by_client.values())

    def now(self) -> float:
        """Return the time of the ledger's own clock, in seconds since 1970. Raises LedgerError."""
        seconds, microseconds = self.read([(0, ("TIME",))])[0]
        return int(seconds) + int(microseconds) / 1_000_000

    def retire(self, floor: str) -> int:
        """Forget the watermarks of journals born before a floor, keep their sums, and return how many went.

        `floor` is 16 hex digits, microseconds since 1970, as journal names begin.
        """
        identity = self.identity
        forgotten = 0
        with server_errors():
            for shard in range(identity.shards):
                client, key = self.reader(shard), self.watermarks_key(shard)
                names = [str(name) for name, _ in client.hscan_iter(key, count=500) if str(name) < floor]
                for start in range(0, max(1, len(names)), 500):
                    arguments = [identity.id, floor, *names[start : start + 500]]
                    found = script("retire")(self.poster(shard), [self.totals_key(shard), key], arguments)
                    assert isinstance(found, int)
                    forgotten += max(0, found)
        return forgotten

    def reset(self) -> int:
        """Start all counts anew and return the hits dropped; watermarks stay, so nothing comes back.

        Each shard changes in one step. What other hosts have journalled and not posted yet is
        counted afterwards.
        """
        identity = self.identity
        dropped = 0
        with server_errors():
            for shard in range(identity.shards):
                books = self._books(shard)
                names = self.reader(shard).scan_iter(self.key(f"{{{shard}}}", "*"), count=1000)
                kept = {self.set_key(shard), self.totals_key(shard), self.watermarks_key(shard)}
                sections = self.sections_key(shard)
                others = {str(name) for name in names if not str(name).startswith(sections)} - kept
                keys = [self.totals_key(shard), self.set_key(shard), *sorted(others)]
                lost, damaged = books.lost + books.before_lost, books.damaged + books.before_damaged
                found = script("reset")(self.poster(shard), keys, [identity.id, lost, damaged, new_generation()])
                dropped += max(0, int(str(found)))
                self.sweep_sections(shard)
        return dropped

    def change_sections(self, shard: int, action: str, generation: str, *swept: str) -> str:
        """Do what `lua/sections.lua` does, and return what the shard says of its sections then."""
        keys = [self.totals_key(shard), self.set_key(shard), self.sections_key(shard, generation, "filled"), *swept]
        answer = str(script("sections")(self.poster(shard), keys, [self.identity.id, action, generation]))
        if answer == "stranger":
            raise LedgerMismatchError(f"Shard {shard} holds counts of another ledger.")
        return answer

    def sweep_sections(self, shard: int) -> None:
        """Delete what is left of sections that a shard does not keep any more, a few keys at a time."""
        prefix = self.sections_key(shard, "")
        old: dict[str, list[str]] = {}
        for name in self.poster(shard).scan_iter(f"{prefix}*", count=1000):
            generation = str(name).removeprefix(prefix).partition(":")[0]
            old.setdefault(generation, []).append(str(name))
            if len(old[generation]) == SWEPT_TOGETHER:
                self.change_sections(shard, "sweep", generation, *old.pop(generation))
        for generation, names in old.items():
            self.change_sections(shard, "sweep", generation, *names)

    # Reading

    def books(self, shard: int) -> ShardBooks:
        """Read both sides of a shard's books at one moment. Raises LedgerError."""
        with server_errors():
            return self._books(shard)

    def _books(self, shard: int) -> ShardBooks:
        pipeline = self.reader(shard).pipeline(transaction=True)
        pipeline.hgetall(self.totals_key(shard))
        pipeline.hvals(self.watermarks_key(shard))
        table, texts = pipeline.execute()
        marks = [Watermark.decode(text) for text in texts]

        def of(name: str) -> int:
            return int(table.get(name, 0))

        return ShardBooks(
            requests=of("requests"),
            lines=sum(int(hits) for name, hits in table.items() if name.startswith("(")),
            routed=of("routed"),
            by_watermarks=sum(mark.hits for mark in marks) + of("retired") - of("before"),
            lost=sum(mark.lost for mark in marks) + of("retired_lost") - of("before_lost"),
            damaged=sum(mark.damaged for mark in marks) + of("retired_damaged") - of("before_damaged"),
            before_lost=of("before_lost"),
            before_damaged=of("before_damaged"),
        )

    def sum_of(self, shard: int, key: str, count: int) -> int:
        """Add up one of a shard's sorted sets, `count` entries at a time, while others go on. Raises LedgerError."""
        with server_errors():
            return sum(int(hits) for _, hits in self.reader(shard).zscan_iter(key, count=count))

    def read(self, calls: Sequence[tuple[int, Command]], *, raw: bool = False) -> list[Any]:
        """Send reading commands to shards together and return the answers in order; `raw` leaves bytes.

        Raises:
            LedgerUnavailableError: a shard cannot be reached. LedgerError: it refused.
        """
        answers = send_scripts(self.reader, calls, READING_SCRIPTS, raw=raw)
        for error in filter(None, map(error_in, answers)):
            raise error
        return answers

    def read_at_one_moment(self, calls: Sequence[tuple[int, Command]]) -> list[Any] | None:
        """Send reading commands to shards that one server can answer at one moment; None where none can.

        Raises:
            LedgerUnavailableError: the server cannot be reached. LedgerError: it refused.
        """
        shards = {shard for shard, _ in calls}
        clients = {id(client): client for client in map(self.reader, shards)}
        if len(clients) != 1 or (self.kind == CLUSTER and len(shards) > 1):
            return None
        (client,) = clients.values()
        answers = send_at_once(client, [command for _, command in calls], READING_SCRIPTS)
        for error in filter(None, map(error_in, answers)):
            raise error
        return answers

    def totals_calls(self, period: Period | None = None) -> list[tuple[int, Command]]:
        """Return the calls that `read` takes for what `Totals.of` adds up, two a shard."""
        calls: list[tuple[int, Command]] = []
        for shard in range(self.identity.shards):
            calls.append((shard, ("HGETALL", self.totals_key(shard, period))))
            calls.append((shard, ("ZCARD", self.set_key(shard, period))))
        return calls

    def totals(self, period: Period | None = None) -> Totals:
        """Return the totals of a period, or of all time, over every shard."""
        return Totals.of(self.read(self.totals_calls(period)))

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()


def new_generation() -> str:
    """Return a name for sections that are begun now: microseconds since 1970."""
    return str(time.time_ns() // 1000)


def _outcome(answer: object) -> Outcome:
    if error := error_in(answer):
        return Outcome("unknown", error=error)
    assert isinstance(answer, list)
    word, text = answer
    if word == "sections":
        return Outcome(word)
    return Outcome(word, Watermark.decode(text) if text else None)
