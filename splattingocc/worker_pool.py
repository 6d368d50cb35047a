"""Work shared out to processes: one job a scene, its result handed over when it is finished."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Mapping[str, Job], *, num_workers: int, if_killed: str
) -> Iterator[tuple[str, Result]]:
    """Yield each job's name and what `function` makes of it as it is finished, in any order.

    With `num_workers` of 0, or one job, the work is done in this process; workers are spawned, so a script must guard its entry point. A
    worker that is killed ends it all with a `ValueError` that says `if_killed`; Ctrl-C ends the workers at any moment, so a job must put
    its files in place whole.
    """
    if num_workers == 0 or len(jobs) < 2:
        for name, job in jobs.items():
            yield name, function(job)
        return
    # Spawned, not forked: the parent may hold threads or a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context, initializer=end_with_parent)
    try:
        # Workers inherit what is blocked: Ctrl-C is for this process, which ends them
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            name_of = {pool.submit(function, job): name for name, job in jobs.items()}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for future in as_completed(name_of):
            yield name_of[future], future.result()
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    except BrokenProcessPool:
        raise ValueError(if_killed) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone: a pool's workers would wait for its next job for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent.sentinel,), daemon=True).start()


def _leave_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
