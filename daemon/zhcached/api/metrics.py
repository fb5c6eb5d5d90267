"""Figures for Prometheus, counted when asked.

The library is imported at the first scrape: most daemons are never scraped, and all of them start.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web

from zhcached.api.route import Call, Route
from zhcached.api.services import Services

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class _Collector:
    """Reads the daemon's parts at each scrape; nothing is counted twice or kept."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        """Yields every family."""
        from prometheus_client.core import GaugeMetricFamily

        space = self._services.store.space_report()
        yield from _gauges(
            zhcache_blob_bytes=("Bytes of verified blobs", space.bytes_blobs),
            zhcache_partial_bytes=("Bytes of unfinished downloads", space.bytes_partial),
            zhcache_reserved_bytes=("Bytes reserved for running downloads", space.bytes_reserved),
            zhcache_free_bytes=("Free bytes of the store's file system", space.bytes_free),
            zhcache_repositories=("Repositories held", len(space.repos)),
        )
        jobs = GaugeMetricFamily("zhcache_jobs", "Jobs by kind and state", labels=["kind", "state"])
        tally = Tally((job.kind, job.state) for job in self._services.jobs.all(ended=True))
        for labels, count in tally.items():
            jobs.add_metric(list(labels), count)
        yield jobs
        yield from self._sources()

    def _sources(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        received = CounterMetricFamily(
            "zhcache_source_bytes", "Bytes received from each source", labels=["source"]
        )
        up = GaugeMetricFamily(
            "zhcache_source_usable", "Whether the source is used", labels=["source", "state"]
        )
        for source in self._services.prefetcher.health.report():
            received.add_metric([source.name], source.bytes)
            up.add_metric([source.name, source.state], source.state not in ("down", "lying"))
        yield received
        yield up


def _gauges(**figures: tuple[str, float]) -> Iterable[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for name, (text, value) in figures.items():
        yield GaugeMetricFamily(name, text, value=value)


async def show(call: Call) -> web.Response:
    """Gives the figures in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(call.services))  # pyright: ignore[reportArgumentType]
    text = await asyncio.to_thread(generate_latest, registry)
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})


ROUTES = (Route("GET", "/metrics", show, "Figures for Prometheus"),)
