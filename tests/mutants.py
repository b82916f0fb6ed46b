"""Deliberate breaks of the rules that exactness rests on, and the tests that catch each.

    python -m tests.mutants              all of them, on all cores
    python -m tests.mutants NAME...      those whose names contain a word

Each mutant is the source with one piece of text put in place of another, in a folder of its
own, in front of which the chosen tests are run. One that lives means that a rule is not
tested, or not needed. Exit status 1 where any lives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_SECONDS = 180.0


@dataclass(frozen=True)
class Mutant:
    """One break: in `file`, `old` becomes `new`; `caught_by` are tests, or a number of simulated seeds."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str | int


MUTANTS = (
    Mutant("a file goes before its losses are told again", "housekeeping.py",
           "follower.confirmed_at is None or follower.has_untold_losses", "follower.confirmed_at is None",
           "tests/test_housekeeping.py::test_losses_that_a_ledger_forgot_are_told_again_before_a_file_goes"),

    Mutant("servers are checked once", "posting.py",
           "if now - self._checked_at >= CHECK_SECONDS:", "if self._checked_at < 0:",
           "tests/test_bookkeeper.py::test_a_server_that_begins_to_evict_is_posted_to_no_more"),
    Mutant("a server that hangs holds every reader up", "clients.py",
           "if not self._hang.known:", "if True:",
           "tests/test_clients.py::test_one_reader_at_a_time_waits_for_a_server_that_hangs"),

    # Readers who do not wait for posting
    Mutant("others' posting unseen", "pending.py",
           "max(progress.clean, mark.offset if mark else 0) - self.start", "progress.clean - self.start",
           "tests/test_report_pending.py::test_a_hit_is_there_once_while_others_post"),
    Mutant("a ledger that fell back unseen", "pending.py",
           "            return None  # the ledger fell back", "            pass",
           "tests/test_report_pending.py::test_a_ledger_that_fell_back_is_posted_first"),
    Mutant("a closed file is read", "pending.py",
           "if data is not None and len(data) < MOST_BYTES", "if len(data or b'') < MOST_BYTES",
           "tests/test_report_pending.py::test_a_file_that_was_closed_is_not_read"),

    # Pages found at the ranks that a cursor remembers
    Mutant("ranks believed without the row before", "report/source.py",
           "begins = before > 0 or first == 0", "begins = True",
           "tests/test_report_pages.py::test_what_a_cursor_remembers_of_ranks_changes_no_row"),
    Mutant("too few rows at a rank taken for all", "report/source.py",
           "len(answer) - 2 * before >= 2 * piece.rows or len(answer) < 2 * rows", "True",
           "tests/test_report_pages.py::test_what_a_cursor_remembers_of_ranks_changes_no_row"),
    Mutant("one transaction over a cluster's slots", "ledger.py",
           "if len(clients) != 1 or (self.kind == CLUSTER and len(shards) > 1):", "if len(clients) != 1:",
           "tests/test_cluster.py::test_a_cluster_of_one_master_is_read_as_any_other"),

    # Reports by route
    Mutant("routes read apart from their total", "report/routes.py",
           "self._store.read_at_one_moment(calls)", "[self._store.read([call])[0] for call in calls]",
           "tests/test_report_routes.py::test_hits_that_come_meanwhile_do_not_lose_their_route"),
    Mutant("a period's routes not compared with its hits", "routeaudit.py",
           "if in_routes == routed <= requests:", "if in_routes == routed:",
           "tests/test_audit.py::test_routes_of_a_period_that_were_changed_are_named"),

    # The script
    Mutant("no compare-and-set", "lua/post.lua",
           "if current ~= expected then", "if false then",
           "tests/test_ledger.py::test_a_batch_from_elsewhere_changes_nothing"),
    Mutant("watermark not moved", "lua/post.lua",
           "redis.call('HSET', watermarks, journal, wanted)\nreturn {'posted', wanted}", "return {'posted', wanted}",
           "tests/test_simulation.py::test_the_model_ledger_is_like_the_real_one"),
    Mutant("watermark moved first", "lua/post.lua",
           "-- Read the groups", "redis.call('HSET', watermarks, journal, wanted)\n-- Read the groups",
           "tests/test_ledger.py::test_a_shard_counts_exactly_to_the_last_number_it_can"),
    Mutant("duplicate writes nothing", "lua/post.lua",
           "  redis.call('HSET', watermarks, journal, wanted)\n  return {'duplicate', current}",
           "  return {'duplicate', current}",
           "tests/test_ledger.py::test_what_is_not_on_the_disk_is_not_confirmed"),
    Mutant("types not checked first", "lua/post.lua",
           "if found ~= kind and found ~= 'none' then", "if false then",
           "tests/test_ledger.py::test_a_key_of_the_wrong_type_stops_all_of_it"),
    Mutant("total not booked", "lua/post.lua",
           "redis.call('HINCRBY', name, 'requests', string.format('%.0f', group.sum))", "",
           "tests/test_simulation.py::test_the_model_ledger_is_like_the_real_one"),
    Mutant("cap on URLs off by one", "lua/post.lua",
           "tonumber(most_urls) - redis.call('ZCARD', all)", "tonumber(most_urls) + 1 - redis.call('ZCARD', all)",
           "tests/test_simulation.py::test_the_model_ledger_is_like_the_real_one"),
    Mutant("cap on routes off by one", "lua/post.lua",
           "tonumber(most_routes) - redis.call('ZCARD', KEYS[4])", "tonumber(most_routes) + 1",
           "tests/test_simulation.py::test_the_model_ledger_is_like_the_real_one"),
    Mutant("routed total not booked", "lua/post.lua",
           "redis.call('HINCRBY', name, 'routed', string.format('%.0f', group.routed))", "",
           "tests/test_simulation.py::test_the_model_ledger_is_like_the_real_one"),
    Mutant("sections not compared", "lua/post.lua",
           "if generation ~= string.match(sections, '^%d*') then", "if false then",
           "tests/test_tree.py::test_a_reset_begins_them_anew"),
    Mutant("a new URL not counted in its sections", "lua/post.lua",
           "      if new[name] then\n        fresh", "      if false then\n        fresh",
           "tests/test_tree.py::test_what_is_kept_equals_what_is_counted"),
    Mutant("URLs that are not in yet are posted to their sections", "lua/post.lua",
           "local is_in = not is_filling or", "local is_in = true or",
           "tests/test_tree.py::test_posting_goes_on_while_a_ledger_is_brought_to_have_them"),
    Mutant("a URL is put into its sections twice", "lua/fill.lua",
           "if hits[i] and is_in[i] == 0 and", "if hits[i] and",
           "tests/test_tree.py::test_posting_goes_on_while_a_ledger_is_brought_to_have_them"),
    Mutant("sections said to be kept too early", "lua/sections.lua",
           "redis.call('SCARD', KEYS[3]) == redis.call('ZCARD', KEYS[2])", "true",
           "tests/test_tree.py::test_they_are_not_said_to_be_kept_before_all_are_in"),
    Mutant("any ledger will do", "lua/post.lua",
           "if known[1] ~= ARGV[1] then", "if false then",
           "tests/test_ledger.py::test_a_stranger_changes_nothing"),
    Mutant("forgotten journals are new", "lua/post.lua",
           "if current == '' and known[2] and journal < known[2] then", "if false then",
           "tests/test_housekeeping.py::test_old_watermarks_are_retired_and_their_files_refused"),
    # The ledger
    Mutant("WAITAOF on another connection", "dispatch.py",
           "answers = send_together(client, [*commands, *waits])",
           "pool = client.connection_pool\n"
           "    other = redis.Redis(connection_pool=redis.ConnectionPool("
           "connection_class=pool.connection_class, **pool.connection_kwargs))\n"
           "    answers = [*send_together(client, commands), *send_together(other, waits)]",
           "tests/test_ledger.py::test_what_is_not_on_the_disk_is_not_confirmed"),
    Mutant("replicas not waited for", "dispatch.py",
           "durable[0] >= 1 and durable[1] >= replicas", "durable[0] >= 1",
           "tests/test_ledger.py::test_confirmed_means_on_the_disk"),
    Mutant("posting is tried again blindly", "clients.py",
           "retry=Retry(NoBackoff(), 0)", "retry=Retry(NoBackoff(), 10)",
           "tests/test_ledger.py::test_a_lost_reply_is_not_asked_for_again"),
    Mutant("a stranger is never looked at", "ledger.py",
           'if any(outcome.word == "stranger" for outcome in outcomes):', "if False:",
           "tests/test_housekeeping.py::test_an_idle_host_notices_that_the_ledger_was_emptied"),
    # The journal
    Mutant("no checksum", "journal.py",
           'and record[:8] == b"%08x" % crc32(record[8:], salt)', "",
           "tests/test_posting.py::test_every_flipped_byte_costs_one_record_at_most"),
    Mutant("header not looked at", "follower.py",
           "if name != self.name and not any_name:", "if False:",
           "tests/test_golden.py"),
    Mutant("version not looked at", "journal.py",
           "if int(version) not in (PLAIN_VERSION, EXTENDED_VERSION):", "if False:",
           "tests/test_golden.py"),
    Mutant("directory not synced", "journal.py",
           "                host.sync_directory(self._directory)", "                pass", 300),
    Mutant("new file not synced before its name", "journal.py",
           "                host.fsync(fds[1])", "                pass", 100),
    Mutant("ids by process number", "journal.py",
           "{int(max(0.0, self._now()) * 1_000_000):016x}-{host.random_hex(16)}", "{1:016x}-{os.getpid():032x}", 20),
    Mutant("short write taken for a whole one", "journal.py",
           "if self._write(self._fd, record) == len(record):\n                    self._size += len(record)\n"
           "                    self._dirty = True\n                    if self._size",
           "if self._write(self._fd, record):\n                    self._size += len(record)\n"
           "                    self._dirty = True\n                    if self._size", 100),
    Mutant("short write not sealed", "journal.py",
           '                self._seal("a write was cut short")\n            except OSError as error:\n'
           "                self._seal(str(error))\n            return self._append_to_new_file(body, hits)",
           "                return self._write(self._fd, record[1:]) == len(record) - 1\n"
           "            except OSError as error:\n"
           "                self._seal(str(error))\n            return self._append_to_new_file(body, hits)", 300),
    Mutant("losses not tallied", "journal.py",
           "if self._host.pwrite(self._tally_fd, make_tally(told), TALLY_OFFSET) == TALLY_BYTES:",
           "if True:", 100),
    Mutant("losses told again by each file", "journal.py",
           "self._file_lost, self._untold = told, 0", "self._file_lost = told", 100),
    Mutant("line feed not encoded", "journal.py",
           'if b"\\n" in path:', "if False:",
           "tests/test_journal.py::test_a_line_feed_in_a_path_forges_no_record"),
    Mutant("fork keeps the file", "journal.py",
           "        tell_of_forks(self)\n", "",
           "tests/test_journal.py::test_a_forked_process_has_a_file_of_its_own"),
    Mutant("each: record not synced", "journal.py",
           "                self._host.fdatasync(self._fd)\n", "", 300),
    Mutant("interval: left files not synced", "journal.py",
           "self._sync_and_close(fd, sync=self._interval)", "self._sync_and_close(fd, sync=False)", 600),
    Mutant("full file lets its tally go", "journal.py",
           "            self._end_file()\n        return True", "            self._move_on()\n        return True",
           "tests/test_journal.py::test_a_full_file_tells_of_losses_until_the_next_is_open"),
    Mutant("sealed file kept at the cap", "journal.py",
           "if over and self._tally_fd >= 0 and self._size > HEADER_BYTES:",
           "if over and not self._over_cap and self._fd >= 0:",
           "tests/test_journal.py::test_the_cap_lets_a_sealed_file_go"),
    # Following and posting
    Mutant("unfinished record taken", "follower.py",
           "                pieces.pop()  # still", "                pass  # still",
           "tests/test_posting.py::test_an_unfinished_record_waits"),
    Mutant("torn end stops posting", "follower.py",
           "torn_bytes = len(pieces.pop()) + bool(pieces)", "pieces.pop()", 100),
    Mutant("remains spoil the record before them", "follower.py",
           "else whole_part(record, self._salt)", 'else b""', 300),
    Mutant("another file's records taken", "journal.py",
           "    return crc32(name.encode())", "    return len(name)", "tests/test_golden.py"),
    Mutant("extended records in a file of version 1", "journal.py",
           "                self._version = EXTENDED_VERSION\n", "                pass\n",
           "tests/test_journal.py"),
    Mutant("many hits booked as one", "follower.py",
           "            count *= times", "            pass", "tests/test_golden.py"),
    Mutant("many lost hits tallied as one", "journal.py",
           "        self._untold += hits", "        self._untold += 1", 100),
    Mutant("damaged records not counted", "follower.py",
           "if meaning is None or whole is not record:", "if False:", "tests/test_golden.py"),
    Mutant("another file under the name", "follower.py",
           "if crc != mark.crc:", "if False:",
           "tests/test_posting.py::test_a_cloned_file_is_not_merged"),
    Mutant("records of a failed shard skipped", "follower.py",
           "                    settled = False\n                    continue", "                    pass", 100),
    Mutant("hits booked in this hour", "follower.py",
           "hour = int(whole[8:16], 16) // 3600", "hour = 500_000 + 0 * int(whole[8:16], 16)",
           "tests/test_posting.py::test_hits_are_booked_in_the_hour_they_were_received"),
    Mutant("one bad file holds up all", "posting.py",
           "                if follower.shards and self._follows(follower):\n"
           "                    self._post_file(follower)\n"
           "                    self._troubled.discard(name)\n            except OSError as error:",
           "                if follower.shards and self._follows(follower):\n"
           "                    self._post_file(follower)\n"
           "                    self._troubled.discard(name)\n            except ZeroDivisionError as error:",
           "tests/test_posting.py::test_a_file_that_cannot_be_read_holds_no_other_up"),
    Mutant("watermarks read once", "posting.py",
           "look = self._follow_new_files() or look or not undisturbed", "look = self._follow_new_files()", 100),
    Mutant("one shard away holds up all", "posting.py",
           "self._store.look([follower.name for follower in self._followers.values()])",
           "(self._store.watermarks([follower.name for follower in self._followers.values()]), {})", 200),
    Mutant("any round will do for a reader", "posting.py",
           "        if look:  # a reader", "        if True:  # a reader",
           "tests/test_posting.py::test_a_reader_is_not_content_with_a_round_that_did_not_look"),
    Mutant("readers do not wait", "posting.py",
           "            if self._ended > waiting_since:\n", "            if self._started:\n", 100),
    # Housekeeping
    Mutant("no hold", "housekeeping.py",
           "if now - follower.confirmed_at < self._settings.journal_hold_seconds and not crowded:", "if False:",
           "tests/test_housekeeping.py::test_a_file_is_deleted_only_when_posted_confirmed_and_held"),
    Mutant("deleted without confirmation", "housekeeping.py",
           "        marks = [shard.mark or Watermark() for shard in follower.shards]\n"
           "        return self._store.confirm(follower.name, marks, self._settings.ledger_replicas)",
           "        return True", 300),
    Mutant("deleted without a second look", "housekeeping.py",
           "if marks_now == [shard.mark for shard in follower.shards]:", "return True\n        if marks_now:", 600),
    Mutant("an old confirmation counts", "housekeeping.py",
           "if self._host.monotonic() > until:", "if False:",
           "tests/test_housekeeping.py::test_a_confirmation_that_is_old_deletes_nothing"),
    Mutant("a live writer's file deleted", "housekeeping.py",
           "over = gone and follower.posted", "over = follower.posted", 300),
    Mutant("deleted before its stub is there", "housekeeping.py",
           "            write_durably(self._host, stub, text.encode())\n        except OSError",
           "            pass\n        except OSError",
           "tests/test_housekeeping.py::test_what_the_ledger_forgot_of_deleted_files_is_booked_as_lost"),
    Mutant("what is there is booked as lost", "housekeeping.py",
           "for path in closed if path.stem not in present", "for path in closed",
           "tests/test_housekeeping.py::test_what_is_still_there_is_not_booked_as_lost"),
    Mutant("floor by one clock", "housekeeping.py",
           "min(self._host.now(), self._store.now())", "self._host.now()",
           "tests/test_housekeeping.py::test_a_clock_that_runs_ahead_retires_nothing"),
    # Counting
    Mutant("counted before the application answers", "middleware.py",
           "        try:\n            body = self._app(environ, hit.start_response)",
           '        hit.note("200")\n        try:\n            body = self._app(environ, hit.start_response)',
           "tests/test_middleware.py"),
    Mutant("counted after the answer has left", "middleware.py",
           "        self.note(status)\n        if self.refused:\n"
           '            return self._start_response("503',
           '        if self.refused:\n            return self._start_response("503',
           "tests/test_middleware.py"),
)  # fmt: skip


def places(mutant: Mutant) -> int:
    """Return how often the text that a mutant breaks is in its file: it must be once."""
    return (ROOT / "src" / "hitledger" / mutant.file).read_text("utf-8").count(mutant.old)


def make(mutant: Mutant, folder: Path) -> None:
    """Copy the source to a folder and break it there."""
    shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "hitledger" / mutant.file
    path.write_text(path.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")


def command_of(caught_by: str | int) -> list[str]:
    """Return the command that runs a mutant's tests."""
    if isinstance(caught_by, int):
        return ["-m", "tests.simulation", "--seeds", str(caught_by), "--jobs", "1", "--first"]
    return ["-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", "-n", "0", *caught_by.split()]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    word: str
    seconds: float


def judge(mutant: Mutant) -> Verdict:
    """Run a mutant's tests on it: "caught" where they fail as tests do."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hitledger-mutant-") as folder:
        make(mutant, Path(folder) / "src")
        word = run(mutant.caught_by, Path(folder) / "src")
    return Verdict(mutant, word, time.monotonic() - start)


def run(caught_by: str | int, source: Path) -> str:
    """Run tests on a source folder: "caught", "alive", or what else came of it."""
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *command_of(caught_by)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "caught: it hangs"
    if done.returncode == 0:
        return "ALIVE"
    if done.returncode == 1:
        return "caught"
    return f"broken: {done.stderr.decode()[-300:] or done.stdout.decode()[-300:]}"


def main() -> int:
    """Judge the mutants that are asked for, and print a table."""
    chosen = [each for each in MUTANTS if not sys.argv[1:] or any(word in each.name for word in sys.argv[1:])]
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(judge, chosen))
    for verdict in verdicts:
        where = (
            f"{verdict.mutant.caught_by} seeds"
            if isinstance(verdict.mutant.caught_by, int)
            else verdict.mutant.caught_by
        )
        print(f"{verdict.mutant.name:40} {verdict.word:8} {verdict.seconds:5.1f} s  {where.removeprefix('tests/')}")  # noqa: T201
    alive = [verdict for verdict in verdicts if not verdict.word.startswith("caught")]
    print(f"{len(verdicts)} mutants, {len(alive)} not caught; {time.monotonic() - start:.0f} s")  # noqa: T201
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
