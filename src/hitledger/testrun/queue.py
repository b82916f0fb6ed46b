"""The queue that carries the parts of test runs to the workers: Celery over Redis or Valkey.

A task's message holds a run's id and a part's number and nothing else; what is to be done
stands in the run's record, and so does who does it. A message that comes twice, late, or
for a run that is gone therefore does no harm, and one that is lost is sent again.

All of Celery's keys begin with `<prefix>:celery:`, so that services with different
prefixes share a server and still keep apart.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import KombuError

from hitledger.errors import RunUnavailableError, SettingsError
from hitledger.settings import Settings

TASK = "hitledger.run_part"
QUEUE = "hitledger"
FIRST, LATER = 0, 9
"""A run's first part goes before the later parts of all runs: a short run need not wait for the end of a long one."""
CONNECT_SECONDS = 1.0
COMMAND_SECONDS = 2.0
RECONNECT_SECONDS = 2
ACQUIRE_SECONDS = 2.0
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class PartQueue:
    """Where parts of runs wait for a worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def app(self) -> Celery:
        """The Celery application. Raises SettingsError where no server can be the broker."""
        return make_app(self._settings)

    def send(self, run_id: str, parts: Iterable[int]) -> None:
        """Queue parts of a run.

        Raises:
            RunUnavailableError: the broker cannot be reached; some parts may be queued.
        """
        with _broker_errors(), self.app.producer_pool.acquire(block=True, timeout=ACQUIRE_SECONDS) as producer:
            for part in parts:
                self.app.send_task(
                    TASK,
                    (run_id, part),
                    priority=LATER if part else FIRST,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                )

    def is_empty(self) -> bool:
        """Tell whether no message waits. Raises RunUnavailableError."""
        with _broker_errors(), self.app.connection_for_write() as connection:
            queue = self.app.amqp.queues[QUEUE].bind(connection.default_channel)
            return int(queue.queue_declare().message_count) == 0

    def know_task(self) -> None:
        """Let this process know the task by name, which it only sends."""
        if TASK not in self.app.tasks:
            self.carry_out_with(_elsewhere)

    def carry_out_with(self, function: Callable[[str, int], None]) -> None:
        """Have a function called for each part that this process takes from the queue."""
        self.app.task(function, name=TASK, ignore_result=True)
        self.app.finalize()


def _elsewhere(run_id: str, part: int) -> None:
    raise AssertionError(f"part {part} of {run_id} is carried out by a worker")


@contextmanager
def _broker_errors() -> Iterator[None]:
    """Turn the broker's errors into ours, without its address."""
    try:
        yield
    except (KombuError, redis.RedisError, OSError) as error:
        raise RunUnavailableError(
            "The queue of test runs cannot be reached.", "Is the server up that HITLEDGER_BROKER_URL names?"
        ) from error
    except SettingsError as error:
        raise RunUnavailableError(error.message, error.hint) from error


class _Connection(Connection):
    def ensure_connection(self, errback: Any = None, max_retries: Any = None, **options: Any) -> Any:
        """Try more often than every 30 seconds, so that a broker's restart is not felt for longer."""
        options |= {"interval_start": 0.5, "interval_step": 0.5, "interval_max": RECONNECT_SECONDS}
        return super().ensure_connection(errback, max_retries, **options)  # type: ignore[no-untyped-call] # kombu's


class _App(Celery):  # type: ignore[misc] # Celery carries no types
    """Connects where our settings say, whatever CELERY_BROKER_URL is meant for."""

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_read(url or self.conf.broker_url_of_settings, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_write(url or self.conf.broker_url_of_settings, **options)


def make_app(settings: Settings) -> Celery:
    """Return a Celery application of its own: nothing of it is global, nothing is sent yet."""
    url = settings.celery_broker_url or ""
    app = _App("hitledger", set_as_current=False, fixups=[])
    app.conf.update(
        broker_url_of_settings=kombu_url(url),
        broker_use_ssl=tls_options(url),
        broker_transport_options={
            "global_keyprefix": f"{settings.key_prefix}:celery:",
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": COMMAND_SECONDS,
            # What a worker takes is gone from the queue, and comes again if its part is not claimed. Kombu's own
            # acknowledgement would come after the part, and one that failed would keep the worker from taking more.
            "ack_emulation": False,
            # Who sends learns at once that the broker is away; the worker connects by `ensure_connection`.
            "max_retries": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
    )
    app.amqp.Connection = _Connection
    return app


def tls_options(url: str) -> dict[str, Any] | None:
    """Return what kombu must know of TLS: certificates are checked, against those that the address names."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return None
    given = {name: text for name, text in parse_qsl(parts.query) if name in TLS_FILES}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **given}


def kombu_url(url: str) -> str:
    """Return a ledger's or broker's address in kombu's words.

    They differ for a Unix socket: `unix:///path?db=1` is `redis+socket:///path?virtual_host=1`.
    """
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = dict(parse_qsl(parts.query))
    options = {"virtual_host": query.get("db", "0")}
    return f"redis+socket://{parts.netloc}{parts.path}?{urlencode(options)}"
