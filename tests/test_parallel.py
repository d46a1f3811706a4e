"""Work spread over processes: in order, a little ahead, and never in a fork of the caller."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cslib.config import UserError
from cslib.parallel import ONE_THREAD, in_fresh_processes, in_order

ROOT = Path(__file__).parents[1]


def test_processes_give_results_in_order_and_read_only_a_little_ahead():
    given = []

    def items():
        for item in range(400):
            given.append(item)
            yield item

    results = in_order(abs, items(), nj=2, chunk=4)
    assert next(results) == 0 and len(given) < 60
    assert list(results) == list(range(1, 400))


def parent(_):
    """Of the process that this runs in: its parent, how many threads that has, and the thread variables here."""
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    threads = int(status.partition("Threads:")[2].split()[0])
    return os.getppid(), threads, {name: os.environ.get(name) for name in ONE_THREAD}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of processes")
@pytest.mark.parametrize("spread", [in_order, in_fresh_processes])
def test_workers_are_no_forks_of_the_caller_but_of_a_process_without_threads(spread):
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    before = dict(os.environ)
    try:
        found = list(spread(parent, range(4), 2))
    finally:
        end.set()
        thread.join()
    assert all(above != os.getpid() and threads == 1 for above, threads, _ in found)
    assert all(variables == ONE_THREAD for *_, variables in found)
    assert os.environ == before


def pid(_):
    return os.getpid()


def test_every_item_has_a_fresh_process():
    assert len(set(in_fresh_processes(pid, range(5), 2))) == 5


def refuse(item):
    if item == 3:
        raise UserError(f"{item} is refused")
    return item


def test_an_error_of_a_worker_is_raised_in_its_place():
    results = in_order(refuse, range(8), nj=2, chunk=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="3 is refused"):
        next(results)


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(UserError, match="worker process was killed, .* use fewer processes") as error:
        list(in_order(die, range(4), nj=2, chunk=1))
    assert "\n" not in str(error.value)


SCRIPT = """
import os, sys, time
from cslib.parallel import in_order

def work(item):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(in_order(work, range(2), 2, 1))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, env=environment) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{worker}") for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)
