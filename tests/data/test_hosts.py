"""The queue of `xgenmm data fetch`: nobody is asked too often, nothing is lost, and nobody waits for the slow."""

import threading
import time
from collections import Counter

from xgenmm.data.hosts import HostQueue


def drain(queue: HostQueue, work, threads: int = 8) -> None:
    def run():
        while (taken := queue.take()) is not None:
            work(*taken)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


def test_every_job_once_and_no_host_more_than_allowed():
    queue: HostQueue[int] = HostQueue(per_host=2, capacity=1000)
    now, most, seen, lock = Counter(), Counter(), [], threading.Lock()

    def work(host, job):
        with lock:
            now[host] += 1
            most[host] = max(most[host], now[host])
        time.sleep(0.002)
        with lock:
            now[host] -= 1
            seen.append(job)
        queue.done(host)

    for job in range(200):
        queue.put(f"host {job % 3}", job)
    queue.close()
    drain(queue, work)
    assert sorted(seen) == list(range(200))
    assert set(most.values()) == {2}


def test_a_slow_host_keeps_nobody_waiting():
    queue: HostQueue[str] = HostQueue(per_host=1, capacity=100)
    finished = []

    def work(host, job):
        time.sleep(0.2 if host == "slow" else 0.0)
        finished.append(job)
        queue.done(host)

    for number in range(3):
        queue.put("slow", f"slow {number}")
    for number in range(30):
        queue.put(f"quick {number}", f"quick {number}")
    queue.close()
    drain(queue, work, threads=2)
    assert finished[-3:] != finished[:3]
    assert all(job.startswith("quick") for job in finished[:25])


def test_a_job_comes_again_and_its_host_rests():
    queue: HostQueue[str] = HostQueue(per_host=4, capacity=100)
    tried: list[tuple[str, float]] = []
    began = time.monotonic()

    def work(host, job):
        tried.append((job, time.monotonic() - began))
        if job == "first" and len([one for one, _ in tried if one == "first"]) == 1:
            queue.again(host, job, 0.05, rest=0.3)
        else:
            queue.done(host)

    queue.put("busy", "first")
    drain_thread = threading.Thread(target=drain, args=(queue, work, 1))
    drain_thread.start()
    time.sleep(0.1)
    queue.put("busy", "second")
    queue.put("other", "third")
    queue.close()
    drain_thread.join(10)
    when = {}
    for job, second in tried:
        when.setdefault(job, []).append(second)
    assert len(when["first"]) == 2
    assert min(when["first"][1], when["second"][0]) >= 0.3
    assert when["third"][0] < 0.3


def test_put_waits_while_there_is_too_much():
    queue: HostQueue[int] = HostQueue(per_host=1, capacity=3)
    put = []

    def fill():
        for job in range(10):
            queue.put(str(job), job)
            put.append(job)
        queue.close()

    filler = threading.Thread(target=fill)
    filler.start()
    time.sleep(0.1)
    assert len(put) == 3
    drain(queue, lambda host, _job: queue.done(host), threads=2)
    filler.join(5)
    assert len(put) == 10


def test_a_stopped_queue_lets_everybody_go():
    queue: HostQueue[int] = HostQueue(per_host=1, capacity=2)
    queue.put("a", 1)
    queue.put("b", 2)
    host, _ = queue.take()
    blocked = threading.Thread(target=queue.put, args=("c", 3))
    blocked.start()
    queue.stop()
    blocked.join(5)
    assert not blocked.is_alive()
    queue.done(host)
    queue.again(host, 1, 0.0)
    assert queue.take() is None
