"""Work spread over processes, with results in the order of the items.

Worker processes come from Python's fork server, a clean process of its own, and are never forks of the caller: a
process that trains has threads, locks and a CUDA context, and a fork of it may hang or crash. The server imports once
what the caller has imported, so each worker starts in milliseconds. Functions and items are pickled, and a script that
calls these functions needs the usual `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import TypeVar

from cslib.config import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 32  # items that a worker takes at a time
# Workers are as many as the cores already. Without threads the fork server itself is safe to fork.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], nj: int, chunk: int = CHUNK
) -> Iterator[Result]:
    """`map` over `nj` processes that reads only a little ahead and yields the results in order.

    function  picklable, as are its results
    nj        number of processes; up to 1, the calling process does the work itself
    chunk     items that a process takes at a time
    Raises what `function` raises, and UserError when a worker process was killed.
    """
    if nj <= 1:
        yield from map(function, items)
        return
    items = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    with ProcessPoolExecutor(nj, mp_context=clean_processes(), initializer=_end_with_parent) as pool:
        try:
            while some := list(islice(items, chunk)):
                pending.append(pool.submit(_all, function, some))
                if len(pending) > 4 * nj:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; use fewer processes (--nj) and run the same "
                "command again, which continues the work"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def in_fresh_processes(function: Callable[[Item], Result], items: Iterable[Item], nj: int) -> Iterator[Result]:
    """`map` over `nj` processes at a time, a new process for every item, with the results in order.

    For functions whose result depends on what the process has done before. Raises what `function` raises.
    """
    with clean_processes().Pool(nj, maxtasksperchild=1) as pool:
        yield from pool.imap(function, items, chunksize=1)


def clean_processes() -> BaseContext:
    """The multiprocessing context of the fork server, or of spawn where there is none; the server runs when it returns.

    The first call fixes what the server has imported: all modules of cslib that the caller has imported by then.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # A script cannot be preloaded itself (the server forgets its path), but all that it imports can.
    context.set_forkserver_preload(sorted(name for name in sys.modules if name.partition(".")[0] == "cslib"))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _end_with_parent() -> None:
    """Make a worker end when its parent was killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not in a worker process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _all(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]
