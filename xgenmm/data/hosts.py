"""Who is asked next: jobs as they come, but no server more than a few at once, and none that wants rest.

Knows nothing of what a job is.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from typing import Generic, TypeVar

Job = TypeVar("Job")


class HostQueue(Generic[Job]):
    """Jobs of many hosts, for many threads: `put` from one, `take` and then `done` or `again` from the others."""

    def __init__(self, per_host: int, capacity: int) -> None:
        """Make an empty queue.

        Args:
            per_host: Jobs of one host that may be under way at once.
            capacity: Jobs, waiting or under way, from which on `put` waits.
        """
        self._per_host = per_host
        self._capacity = capacity
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Job]] = {}
        self._active: dict[str, int] = {}
        self._rest: dict[str, float] = {}
        """Hosts that want to be left alone, and until when."""
        self._ready: deque[str] = deque()
        """Hosts that can be asked; each as often as it may be."""
        self._later: list[tuple[float, int, str, Job | None]] = []
        """Heap of jobs that come again, and of hosts that have rested (then without a job)."""
        self._numbers = itertools.count()
        self._open = 0
        self._closed = False

    def put(self, host: str, job: Job) -> None:
        """Add a job; waits while there are too many. Does nothing once the queue was stopped."""
        with self._changed:
            while self._open >= self._capacity and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._open += 1
                self._add(host, job)

    def take(self) -> tuple[str, Job] | None:
        """The next job, or None when there is none left and none will come."""
        with self._changed:
            while True:
                self._wake()
                if self._ready:
                    host = self._ready.popleft()
                    job = self._waiting[host].popleft()
                    self._active[host] = self._active.get(host, 0) + 1
                    return host, job
                if self._closed and not self._open:
                    return None
                self._changed.wait(max(0.0, self._later[0][0] - time.monotonic()) if self._later else None)

    def done(self, host: str) -> None:
        """A job is finished, for good or ill."""
        with self._changed:
            self._leave(host)
            self._open = max(0, self._open - 1)  # 0 already if the queue was stopped
            self._changed.notify_all()

    def again(self, host: str, job: Job, seconds: float, *, rest: float = 0.0) -> None:
        """A job is to come again after some seconds, and its host not to be asked for `rest` seconds."""
        now = time.monotonic()
        with self._changed:
            if self._closed and not self._open:
                return  # the queue was stopped
            if rest:
                self._rest[host] = max(self._rest.get(host, 0.0), now + rest)
                self._ready = deque(one for one in self._ready if one != host)
            heapq.heappush(self._later, (now + max(seconds, rest), next(self._numbers), host, job))
            self._leave(host)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no further job will be put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Forget all jobs that wait: `take` gives nothing any more."""
        with self._changed:
            self._closed, self._open = True, 0
            self._waiting.clear()
            self._ready.clear()
            self._later.clear()
            self._changed.notify_all()

    def _add(self, host: str, job: Job) -> None:
        self._waiting.setdefault(host, deque()).append(job)
        self._offer(host)
        self._changed.notify()

    def _offer(self, host: str) -> None:
        """Let a host be asked as often as it has jobs and free places."""
        until = self._rest.get(host, 0.0)
        if until > time.monotonic():
            heapq.heappush(self._later, (until, next(self._numbers), host, None))
            return
        self._rest.pop(host, None)
        offered = self._ready.count(host)
        free = self._per_host - self._active.get(host, 0) - offered
        for _ in range(min(free, len(self._waiting.get(host, ())) - offered)):
            self._ready.append(host)

    def _leave(self, host: str) -> None:
        left = self._active.get(host, 1) - 1
        if left:
            self._active[host] = left
        else:
            self._active.pop(host, None)
        if self._waiting.get(host):
            self._offer(host)
        else:
            self._waiting.pop(host, None)

    def _wake(self) -> None:
        """Bring back what has waited long enough."""
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, host, job = heapq.heappop(self._later)
            if job is None:
                self._offer(host)
            else:
                self._add(host, job)
