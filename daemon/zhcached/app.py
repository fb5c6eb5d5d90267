"""The daemon, joined: the only place where its parts meet.

Start: lock the store, open it, bind the socket, take up unfinished jobs, say ready. Stop: refuse
new calls, put running jobs back into the queue, close the store. Everything between is events.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from zhcache import __version__
from zhcache.errors import ZhcacheError
from zhcache.paths import handover_path
from zhcache.protocol.placement import WeightsList
from zhcached import log as logfile
from zhcached import notify
from zhcached.api import accept, listen, server
from zhcached.api.handover import Handover
from zhcached.api.quota import Quota
from zhcached.api.services import Services
from zhcached.clock import SystemClock
from zhcached.config import Config, ResidencyConfig
from zhcached.config.swarming import with_swarm
from zhcached.convert.pickled import Pickles
from zhcached.convert.single import Checkpoints
from zhcached.convert.variants import Variants
from zhcached.convert.weighed import weighed
from zhcached.gateway.gateway import Gateway
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.probe import Prober
from zhcached.jobs.asking.revive import Revival
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.following.follow import Follows
from zhcached.jobs.following.ledger import Ledger
from zhcached.jobs.following.wishes import Following
from zhcached.jobs.giving import Giving
from zhcached.jobs.importing.imports import derived_commit
from zhcached.jobs.perform import Performer
from zhcached.jobs.planner import Planner
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.pulling.pull import Pulls
from zhcached.jobs.queue import Jobs
from zhcached.jobs.scrub import Scrub
from zhcached.jobs.seeding import Seeding
from zhcached.jobs.upkeep import Upkeep
from zhcached.residency.arena.arenas import Arenas
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.door import Residency
from zhcached.residency.launch.launch import Launcher, chosen
from zhcached.residency.pages.pages import Pages
from zhcached.residency.resident.planned import Placements
from zhcached.residency.resident.residents import Residents
from zhcached.residency.topology import machine
from zhcached.sources.base import Source, Tier
from zhcached.sources.registry import build as build_sources
from zhcached.sources.registry import configured_folders, configured_origins, tiers
from zhcached.store.listing import newest_from
from zhcached.store.store import Store
from zhcached.swarm.tier import take_part
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport
from zhcached.transport.local import LocalFiles
from zhcached.transport.quota import Quotas
from zhcached.watch.watching import Watching

USER_AGENT = f"zhcache/{__version__}"
STOP_GRACE_S = 10.0
WATCH_S = 2.0

log = structlog.get_logger()


async def serve(home: Path, socket_path: Path, config: Config) -> None:
    """Runs the daemon until it is told to stop.

    Raises:
        AlreadyRunning: The store or the socket is another daemon's.
        ZhcacheError: The store cannot be used; the message says why.
    """
    inherited = notify.inherited()
    descriptors = accept.raise_descriptor_limit()
    clock = SystemClock()
    store = Store.open(home, config.store, clock)
    try:
        logs = logfile.configure(store.layout.logs)
        services = await _join(store, config, clock, logs, home)
        # Before anybody can ask for what would otherwise be filled anew.
        services.arenas.take_over(inherited.kept)
        _obey_signals(services.stopping)
        connections = accept.quota(descriptors)
        async with _listening(services, socket_path, inherited.sockets, connections) as again:
            # A folder on a disk that hangs must not keep everybody waiting: until it was looked at
            # it is told as starting.
            await services.watching.start()
            scrub = Scrub(store, config.store.scrub, clock)
            upkeep = Upkeep(services.residency)
            follows = services.following.follows
            revival = Revival(services.prober, services.prefetcher.health, clock)
            giving, seeding = services.giving, services.seeding
            lasting = (scrub.run(), upkeep.run(), follows.run(), revival.run())
            lasting = (*lasting, giving.run(), seeding.run())
            tasks = [asyncio.create_task(task) for task in (*lasting, services.gateway.run())]
            log.info("daemon.ready", version=__version__, home=str(home), jobs_resumed=again)
            notify.notify(f"READY=1\nSTATUS=serving {home}")
            await _until_stopped(services)
            notify.notify("STOPPING=1")
            await asyncio.to_thread(services.gateway.close)
            await services.watching.stop()
            scrub.stop()
            services.prober.stop()
            await asyncio.to_thread(giving.stop)
            await asyncio.to_thread(seeding.stop)
            for task in tasks:
                task.cancel()
        ended = await services.jobs.stop(STOP_GRACE_S)
        ended &= await asyncio.to_thread(services.gateway.pulls.stop)
        services.prefetcher.health.save()
        # Their attendants may be about to hand over what the arenas would close.
        await asyncio.to_thread(services.residents.close)
        services.arenas.close()
        await asyncio.to_thread(services.residency.close)
        services.launcher.close()
        log.info("daemon.stopped", in_time=ended)
        looked = follows.stop()
        if not ended or not services.planner.stop() or not looked:
            # Threads that would not end still use the store, and the interpreter would wait for
            # them. The store bears a kill at any point; its lock must not be free before they are
            # gone, and only the process's end frees it then.
            os._exit(0)
    finally:
        store.close()


async def _join(
    store: Store, config: Config, clock: SystemClock, logs: Path, home: Path
) -> Services:
    sources, prober, fetcher = _line(store, config, clock)
    launcher = chosen(home)
    variants = Variants(
        store,
        config.convert,
        config.recipe,
        clock=clock,
        launcher=launcher,
        hold=fetcher.claims.hold,
        make_room=fetcher.make_room,
    )
    variants.sweep()
    pickles = Pickles(store, launcher, variants.places, make_room=fetcher.make_room)
    prefetcher = Prefetcher(fetcher, sources, config.alias, clock, variants, pickles)
    residency, arenas, residents = _resident(store, config, clock, launcher)
    checkpoints = _checkpoints(fetcher, variants, launcher, clock)
    ledger = Ledger(store.layout.root, clock)
    performer = Performer(store, prefetcher, residency, checkpoints, ledger.claim)
    jobs = Jobs(store.catalog, clock, performer.perform)
    follows = Follows(
        ledger, config.follow, clock=clock, jobs=jobs, store=store, prefetcher=prefetcher
    )
    pulls = Pulls(fetcher, sources, config.alias, clock, config.serve)
    giving, seeding = _onward(fetcher, pulls, clock)
    return Services(
        config=config,
        clock=clock,
        store=store,
        jobs=jobs,
        prefetcher=prefetcher,
        prober=prober,
        planner=Planner(prefetcher),
        log_file=logs,
        home=home,
        started=clock.wall(),
        residency=residency,
        arenas=arenas,
        host=_host(store, config.residency),
        residents=residents,
        gateway=Gateway(pulls, store, config.serve, clock, torrents=fetcher.torrents),
        launcher=launcher,
        following=Following(follows, store, clock),
        giving=giving,
        seeding=seeding,
        watching=Watching(store, jobs, config.watch, clock),
    )


def _resident(
    store: Store, config: Config, clock: SystemClock, launcher: Launcher
) -> tuple[Residency, Arenas, Residents]:
    limits, devices = config.residency, Devices()
    arenas = Arenas(store, limits, clock, launcher, devices)

    def weigh(repo: str, commit: str, variant: str | None) -> WeightsList:
        return residents.seen.told(weighed(store, repo, commit, variant))

    residents = Residents(
        store,
        limits,
        clock,
        launcher,
        devices,
        arenas,
        Placements(weigh, partial(machine, None, devices, share=limits.vram)),
        chinese=config.chinese,
    )
    arenas.elsewhere = lambda device: _beside_arenas(residents, device)
    arenas.make_room = residents.make_room
    arenas.holder = residents.holder

    def room_for_pages() -> int:
        # What workers map on the CPU are the same pages; what arenas have is memory of its own.
        return devices.capacity(CPU, limits.ram) - arenas.bytes_on(CPU)

    residency = Residency(
        store=store,
        config=limits,
        clock=clock,
        devices=devices,
        pages=Pages(store, clock, room_for_pages, limits.keep_alive),
        host=_host(store, limits),
        arenas=arenas,
        residents=residents,
    )
    return residency, arenas, residents


def _line(store: Store, config: Config, clock: SystemClock) -> tuple[list[Source], Prober, Fetcher]:
    """Returns who is asked for models, who looks after them, and what brings their bytes."""
    quotas = Quotas(clock)
    transport = Transport(
        AddressPolicy(configured_origins(config.sources)),
        connect_timeout_s=config.download.connect_timeout,
        user_agent=USER_AGENT,
        quotas=quotas,
        files=LocalFiles(configured_folders(config.sources)),
    )
    sources = build_sources(config.sources, transport)
    health = Health(store.catalog, with_swarm(config), clock, quotas)
    torrents, swarm = take_part(config.swarm, store, sources, clock)
    stores: list[Tier] = [*tiers(config.sources, transport), *([swarm] if swarm else [])]
    known_at = partial(newest_from, store.catalog)
    prober = Prober(sources, transport, quotas, health, known_at, stores)
    fetcher = Fetcher(store, transport, config.download, health, stores)
    fetcher.torrents, fetcher.swarm = torrents, swarm
    return sources, prober, fetcher


def _onward(fetcher: Fetcher, pulls: Pulls, clock: SystemClock) -> tuple[Giving, Seeding]:
    """Returns what gives on to others of the site what is public here."""
    giving = Giving(fetcher.store, fetcher.tiers, pulls.is_public, fetcher.health, clock)
    fetcher.disproved = giving.replace
    seeding = Seeding(fetcher.store, fetcher.torrents, pulls.is_public, clock)
    fetcher.came_by_swarm = seeding.came
    return giving, seeding


def _checkpoints(
    fetcher: Fetcher, variants: Variants, launcher: Launcher, clock: SystemClock
) -> Checkpoints:
    return Checkpoints(
        fetcher.store,
        launcher,
        variants.places,
        clock=clock,
        make_room=fetcher.make_room,
        name_commit=derived_commit,
    )


def _beside_arenas(residents: Residents, device: str) -> int:
    """Returns the bytes that resident pipelines have besides arenas, which hold GPU weights."""
    if device == CPU:
        return residents.bytes_on(CPU)
    return residents.beside_on(device)


def _host(store: Store, limits: ResidencyConfig) -> Literal["files", "arenas"]:
    """Returns how weights reach the CPU: a network disk is slow to map, and mapped by each anew."""
    if limits.host != "auto":
        return limits.host
    return "arenas" if store.layout.lies_on_network() else "files"


@contextlib.asynccontextmanager
async def _listening(
    services: Services, path: Path, inherited: list[socket.socket], connections: Quota
) -> AsyncIterator[int]:
    """Serves the API and the handover socket; our own sockets vanish at the end.

    Yields how many jobs of an earlier daemon run again.
    """
    beside = handover_path(path)
    listeners = inherited or [listen.bind(path)]
    ours = [] if inherited else [(path, path.lstat())]
    handover = Handover(services, listen.bind(beside))
    ours.append((beside, beside.lstat()))
    runner = server.runner(server.build(services))
    await runner.setup()
    assert runner.server is not None
    protocols = runner.server
    acceptors: list[accept.Acceptor] = []

    def serve_at(listener: socket.socket) -> None:
        acceptors.append(accept.Acceptor(listener, protocols, connections))
        acceptors[-1].start()

    watching: asyncio.Task[None] | None = None
    try:
        # The names are ours, and whoever calls waits: what was there before a restart must not be
        # answered as if it had never been.
        again = await _restore(services)
        for listener in listeners:
            serve_at(listener)
        await handover.start()
        watching = asyncio.create_task(_watch_names(services, serve_at, path, ours))
        yield again
    finally:
        if watching is not None:
            watching.cancel()
        for place, identity in ours:
            listen.remove(place, identity)
        for acceptor in acceptors:
            acceptor.stop()
        await handover.stop()
        await runner.cleanup()


async def _restore(services: Services) -> int:
    """Takes up what an earlier daemon had: jobs, and the gateway that was left on."""
    again = await services.jobs.restore()
    await asyncio.to_thread(services.gateway.restore)
    return again


async def _watch_names(
    services: Services,
    serve_at: Callable[[socket.socket], None],
    path: Path,
    ours: list[tuple[Path, os.stat_result]],
) -> None:
    """Notices when the names that lead to this daemon are taken from it.

    A deleted socket is bound again. A store whose lock file is gone may be another daemon's at any
    moment, so this one ends.
    """
    while not services.stopping.is_set():
        await asyncio.sleep(WATCH_S)
        if not services.store.is_ours():
            log.error("daemon.store_taken", home=str(services.home))
            services.stopping.set()
        elif ours[0][0] == path and not path.exists():
            try:
                serve_at(listen.bind(path))
                ours[0] = (path, path.lstat())
            except (OSError, ZhcacheError) as error:
                log.warning("daemon.socket_lost", error=str(error))


def _obey_signals(stopping: asyncio.Event) -> None:
    # Before anybody is told that we are ready: whoever was told may stop us in the same moment.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # Sent to whoever holds a file lease when somebody opens the file; its default action is death.
    signal.signal(signal.SIGIO, signal.SIG_IGN)


async def _until_stopped(services: Services) -> None:
    interval = notify.watchdog_interval_s()
    while not services.stopping.is_set():
        # A beat from the loop itself: a loop that hangs sends none and is restarted.
        try:
            await asyncio.wait_for(services.stopping.wait(), interval)
        except TimeoutError:
            notify.notify("WATCHDOG=1")
