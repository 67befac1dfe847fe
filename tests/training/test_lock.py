"""The lock of a run's folder: one at a time, and the dead hold nothing."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from xgenmm.training import lock
from xgenmm.training.lock import LockError, hold

HOLD = (
    "import sys, time, pathlib; from xgenmm.training.lock import hold\n"
    "with hold(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def no_flock(monkeypatch):
    """As on a file system that is mounted without locks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "SECONDS_FOR_A_TIE", 0.0)


def from_elsewhere(folder, seconds_ago):
    """A lock that a process on another machine touched last so many seconds ago."""
    path = folder / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "process_start": "1", "since": "yesterday"}))
    os.utime(path, (path.stat().st_mtime - seconds_ago,) * 2)


def test_the_second_is_told_who_is_there(tmp_path, other):
    who = rf"in use by process {other.pid} on {socket.gethostname()}, since \d{{4}}-"
    with pytest.raises(LockError, match=who), hold(tmp_path):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_dead_hold_nothing(tmp_path, other, number, caplog):
    other.send_signal(number)
    other.wait()
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert f"process {other.pid} on {socket.gethostname()} is gone; taking over" in caplog.text


def test_it_is_free_when_its_holder_leaves(tmp_path, caplog):
    with hold(tmp_path), pytest.raises(LockError, match=str(os.getpid())), hold(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == ""
    with pytest.raises(RuntimeError, match="inside"), hold(tmp_path):
        raise RuntimeError("inside")
    with hold(tmp_path):
        assert not caplog.records


def test_another_machine_is_believed_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    """Where `flock` does not reach over the network, the file's age must do."""
    from_elsewhere(tmp_path, seconds_ago=60)
    with pytest.raises(LockError, match="process 7 on elsewhere, since yesterday"), hold(tmp_path):
        pass
    from_elsewhere(tmp_path, seconds_ago=130)
    with hold(tmp_path):
        pass
    # and ours gives signs of life
    monkeypatch.setattr(lock, "SECONDS_BETWEEN_BEATS", 0.05)
    with hold(tmp_path):
        path = tmp_path / "lock"
        os.utime(path, (0, 0))
        for _ in range(100):
            if path.stat().st_mtime > 0:
                break
            signal.sigtimedwait([], 0.05)
        assert path.stat().st_mtime > 0


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_text_decides(tmp_path, other):
    with pytest.raises(LockError, match=str(other.pid)), hold(tmp_path):
        pass
    other.kill()
    other.wait()
    with hold(tmp_path), pytest.raises(LockError, match=str(os.getpid())), hold(tmp_path):
        pass
    # a process that has the number of a dead one is another one
    text = json.dumps({**lock._ourselves(), "process_start": "1"})
    (tmp_path / "lock").write_text(text)
    with hold(tmp_path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_of_two_that_came_at_once_one_stays(tmp_path, monkeypatch):
    def sleep(_):
        from_elsewhere(tmp_path, seconds_ago=0)  # wrote after us

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(LockError, match="process 7 on elsewhere"), hold(tmp_path):
        pass


def test_a_text_that_a_crash_cut_off_is_nobodys(tmp_path):
    (tmp_path / "lock").write_text('{"host": "else')
    with hold(tmp_path):
        pass
