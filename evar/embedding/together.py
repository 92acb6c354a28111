"""One decoding for several encoders: clips of a task reach every model that is due on them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import filelock

from evar.embedding.allocator import reused_buffers
from evar.embedding.engine import Engine
from evar.precision import full_precision
from evar.progress import SILENT

Failed = Callable[[int, Exception], None]


@dataclass(frozen=True, eq=False)
class _Shard:
    """A shard that is being decoded, and the engines (by number) that hold its lock."""

    number: int
    locks: dict[int, filelock.FileLock]
    loading: list[Future]

    def release(self) -> None:
        for lock in self.locks.values():
            lock.release()


def fill_together(
    engines: Sequence[Engine],
    *,
    part: tuple[int, int] = (0, 1),
    at: Callable[[int], None] = lambda number: None,
    failed: Failed,
) -> None:
    """Has the shards of several engines in their stores, each clip decoded once for all of them.

    engines: of one sample rate, with equal plans and lengths, so that their shards are the same
    clips; each writes what it would write alone. part: (I, N) stands for shards I, I + N, ...
    at: called with an engine's number before it embeds a shard. failed: called with an engine's
    number and its error; that engine is left out from then on, unless the call itself raises.
    """
    first = engines[0]
    if any(e.plan != first.plan or e.starts != first.starts for e in engines):
        raise ValueError("these engines do not embed the same clips in the same shards")
    live = dict(enumerate(engines))

    def attempt(number: int, work: Callable[[], object]) -> None:
        at(number)
        try:
            work()
        except Exception as error:  # of one encoder: the others go on
            del live[number]
            failed(number, error)

    for number, engine in enumerate(engines):
        attempt(number, engine.prepare)
    with full_precision(), reused_buffers():
        _embed(live, first, range(part[0], first.shards, part[1]), attempt)
        for number, engine in list(live.items()):  # shards that other processes were at
            if any(not engine.store.path(n).exists() for n in _mine(first, part)):
                attempt(number, functools.partial(engine.fill, part))


def _mine(engine: Engine, part: tuple[int, int]) -> range:
    return range(part[0], engine.shards, part[1])


def _embed(live: dict[int, Engine], first: Engine, mine: range, attempt: Callable) -> None:
    """Embeds what is missing of shards `mine`, the next shard decoding while one is embedded."""
    missing = {i: set(e.store.missing(e.shards)) & set(mine) for i, e in live.items()}
    wanted = [n for n in mine if any(n in numbers for numbers in missing.values())]
    total = sum(len(first.views_of(n)) for n in wanted)
    pool = ThreadPoolExecutor(first.workers)
    ahead: list[_Shard] = []  # one being embedded, one being decoded

    def embed() -> None:
        shard = ahead[0]
        for number in [n for n in shard.locks if n in live]:
            loading = list(shard.loading)  # which `write` empties
            write = functools.partial(_timed, live[number], shard.number, loading)
            attempt(number, write)
        ahead.pop(0).release()
        bar.update(len(shard.loading))

    engines = list(live.values())
    with first.runtime.progress.bar("decode and embed", "clip", total=total) as bar:
        try:
            for shard in _decoding(live, first, wanted, missing, pool):
                ahead.append(shard)
                if len(ahead) == 2:
                    embed()
            while ahead:
                embed()
        finally:
            pool.shutdown(cancel_futures=True)
            for shard in ahead:
                shard.release()
    _keep_speeds(engines)


def _timed(engine: Engine, number: int, loading: list[Future]) -> None:
    started = perf_counter()
    engine.write(number, loading, SILENT.bar("", ""))
    engine.seconds += perf_counter() - started


def _keep_speeds(engines: Sequence[Engine]) -> None:
    """Keeps the rate of each engine that embedded everything: its own time, and all decoding.

    Whichever engine comes first waits for the clips, for all; so each is counted with that time,
    as if it were alone.
    """
    waited = sum(engine.waited for engine in engines)
    for engine in engines:
        if engine.computed == len(engine.plan) > 0:
            engine.seconds += waited - engine.waited
            engine.store.keep_speed(engine.runtime.device, engine.clips_per_second or 0.0)


def _decoding(
    live: dict[int, Engine],
    first: Engine,
    wanted: list[int],
    missing: dict[int, set[int]],
    pool: ThreadPoolExecutor,
) -> Iterator[_Shard]:
    """Yields shards whose clips are being decoded, with the engines that could claim them."""
    for number in wanted:
        claims = {i: e.store.claim(number) for i, e in live.items() if number in missing[i]}
        locks = {i: lock for i, lock in claims.items() if lock is not None}
        if locks:
            views = [first.plan[v] for v in first.views_of(number)]
            yield _Shard(number, locks, [pool.submit(first.load, view) for view in views])
