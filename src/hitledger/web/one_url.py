"""One URL's page: its total, its rank, its share, and its history as a chart and a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hitledger.errors import QueryError
from hitledger.periods import KINDS, Period
from hitledger.report import Query
from hitledger.report.query import refuse_unknown
from hitledger.report.single import UrlReport
from hitledger.web.addresses import live_link, url_crumbs, url_link
from hitledger.web.chart import Chart, chart_of
from hitledger.web.desk import Desk
from hitledger.web.now import KINDS_SHOWN
from hitledger.web.rows import percent
from hitledger.web.shown import Shown
from hitledger.web.trend import Trend, trend_of


def url_context(desk: Desk, texts: dict[str, str]) -> dict[str, Any]:
    """Return what a URL's page shows."""
    look = desk.look()
    texts = {name: text for name, text in texts.items() if text}
    by = texts.get("by", "hour")
    shown: Shown[UrlReport]
    try:
        refuse_unknown(texts, ("url", "by", "from", "to"))
        if by not in KINDS:
            raise QueryError("by", f"takes one of {', '.join(KINDS)}.")
        times = Query.read({name: text for name, text in texts.items() if name in ("from", "to")})
        url = texts.get("url", "")
        if not url:
            raise QueryError("url", "is missing.")
        shown = look.read(("url", url, by, times), lambda: desk.services.reports.url(url, by, times))
    except QueryError as error:
        shown = Shown.refusal(error)
    report = shown.report
    frame = look.frame(None)
    total = frame["figures"].requests if frame["figures"] else 0
    chart = chart_of(by, report.series) if report else None
    return {
        **frame,
        "status": shown.status,
        "parts": ("url-figures.html", "url-history.html"),
        "live": live_link("/live/url", texts),
        "shown": shown,
        "report": report,
        "by": by,
        "kinds": KINDS_SHOWN,
        "chart": chart,
        "hours": look.hours_of([report.url], datetime.now(UTC)).get(report.url, []) if report else [],
        "trend_of": _trend,
        "share": percent(report.requests, total) if report else 0.0,
        "mean": _mean(chart),
        "crumbs": url_crumbs(report.url) if report else [],
        "url_link": url_link,
    }


def _trend(hours: Sequence[int]) -> Trend:
    now = datetime.now(UTC)
    return trend_of(hours[-1], hours[-2], (now - Period.containing("hour", now).start) / timedelta(hours=1))


def _mean(chart: Chart | None) -> float:
    return chart.total / len(chart.bars) if chart else 0.0
