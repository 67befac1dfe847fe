"""A piece of work that hangs is told with its samples and with what the process was doing; nothing else happens."""

import os
import subprocess
import sys
import time

import pytest

from xgenmm.training.watchdog import EXIT_HANG, Watchdog


def a_function_that_hangs(seconds):
    time.sleep(seconds)


def test_it_tells_where_the_time_goes(tmp_path, caplog):
    with Watchdog(tmp_path, 0.2) as watchdog:
        watchdog.begin("step 7", ("a/1", "b/2"))
        a_function_that_hangs(1.0)
        watchdog.begin("step 8", ("c/3",))
    (record,) = [record for record in caplog.records if record.levelname == "ERROR" and "step" in record.message][:1]
    assert "step 7 takes more than 0.2 s. Its samples: a/1, b/2" in record.message
    assert "a_function_that_hangs" in record.message
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert stacks.startswith("step 7, after 0.2")
    assert "test_it_tells_where_the_time_goes" in stacks
    # again after twice the time: 0.2, 0.4 and 0.8 s
    assert stacks.count("step 7, after") == 3
    assert "step 8" not in stacks


def test_work_that_is_done_in_time_is_no_hang(tmp_path, caplog):
    with Watchdog(tmp_path, 0.5) as watchdog:
        for number in range(8):
            watchdog.begin(f"step {number}")
            time.sleep(0.1)
        watchdog.rest()
        time.sleep(0.8)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


def test_never_is_possible(tmp_path):
    with Watchdog(tmp_path, float("inf")) as watchdog:
        watchdog.begin("step 0")
        time.sleep(0.1)


@pytest.mark.parametrize("where", ["full", "gone", "silent"])
def test_it_ends_the_process_only_if_asked(tmp_path, where):
    """Whatever becomes of the file: a disk that is full or gone, or does not answer, is no reason to stay."""
    if where == "full":
        (tmp_path / "stacks-0.txt").symlink_to("/dev/full")
    if where == "silent":
        os.mkfifo(tmp_path / "stacks-0.txt")  # whoever opens it to write waits for a reader
    folder = tmp_path / "gone" if where == "gone" else tmp_path
    code = (
        "import sys, time, pathlib; from xgenmm.training import watchdog\n"
        "watchdog.SECONDS_TO_WRITE = 0.5\n"
        "with watchdog.Watchdog(pathlib.Path(sys.argv[1]), 0.2, leave=True) as dog:\n"
        "    dog.begin('step 3', ('a/1',))\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_HANG == 124
    assert "step 3 takes more than 0.2 s. Its samples: a/1" in done.stderr
