"""report: whatever a client writes into a query, it is read, or refused by the name of a parameter."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hitledger.errors import NotKeptError, QueryError
from hitledger.periods import Retention
from hitledger.report import Query
from hitledger.report.cursor import CHECK_BYTES, decode_cursor, encode_cursor
from hitledger.report.query import PAGE, ROWS
from hitledger.settings import Settings

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
KEPT = Retention.of(Settings())
ANYTHING = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.sampled_from(
        ["", "\0", "9" * 40, "-1", "1e9", "2026-11-24", "9999-12-31T23", "0001-01-01", "../", "UTC", "/etc"]
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*ROWS, *PAGE, "x"]), ANYTHING, max_size=5))
@example({"period": "day", "at": "0001-01-01", "tz": "Asia/Tokyo"})
@example({"from": "9999-12-31T23", "to": "9999-12-31T23:59:59+14:00"})
@example({"from": "0001-01-01", "tz": "Pacific/Kiritimati"})
@example({"period": "month", "at": "9999-12", "tz": "Etc/GMT+12"})
@example({"period": "day", "tz": "../../etc/passwd"})
def test_any_query_is_read_or_refused(texts: dict[str, str]) -> None:
    """Nothing but a QueryError comes of it, and that names one of the parameters that were given, in one line."""
    refusal = None
    try:
        query = Query.read(texts)
        with suppress(NotKeptError):
            query.window(KEPT, NOW)
    except QueryError as error:
        refusal = error
    assert refusal is None or refusal.parameter in {*texts, "at", "from", "to", "tz"}
    assert refusal is None or "\n" not in refusal.message


@given(st.one_of(st.text(), st.text("ABCxyz019-_=", max_size=60)), st.text())
def test_any_cursor_is_refused_unless_it_was_given_out(cursor: str, subject: str) -> None:
    """A text that nobody gave out is a QueryError, whatever it decodes to."""
    with pytest.raises(QueryError):
        decode_cursor(cursor, subject)


@given(st.binary(max_size=40), st.text())
def test_no_forged_place_is_taken(place: bytes, subject: str) -> None:
    """A place of any bytes behind a check that somebody guessed is refused."""
    forged = base64.urlsafe_b64encode(bytes(CHECK_BYTES) + place).rstrip(b"=").decode()
    with pytest.raises(QueryError):
        decode_cursor(forged, subject)


@given(st.data())
def test_a_cursor_with_a_changed_letter_is_another_one(data: st.DataObject) -> None:
    """Whatever letter is changed: refused, or, where base64 has spare bits, the same place."""
    cursor = encode_cursor((17, "/api/x/"), "all")
    at = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    changed = cursor[:at] + letter + cursor[at + 1 :]
    with suppress(QueryError):
        assert decode_cursor(changed, "all")[0] == (17, "/api/x/")
