"""Kills a training run again and again (kill -9), half of the time while it saves: `python benchmarks/kill.py`.

After every death the newest checkpoint must be sound (every file has the SHA-256 that its manifest says, and the next
process goes on from it) and no more than one interval of steps may be lost. A run that reaches its end must have the
weights and the records of one that nobody killed, bit for bit; then the next begins. Exit code 1 if any of it fails.
200 kills take about twenty minutes on two cores; `--kills 20` takes two.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file

from xgenmm.config import RECIPES, decode, override, read_yaml

STEPS, EVERY = 60, 5
SECONDS = 1.5
"""A kill comes within so many seconds after the first step; or, one in ten, after the start."""
SECONDS_OF_A_SAVE = 0.03
PATIENCE = 300.0


@dataclass(kw_only=True)
class Summary:
    """What a campaign found."""

    kills: int = 0
    while_saving: int = 0
    """Of these, deaths that left a checkpoint without its manifest."""
    while_starting: int = 0
    """Deaths before the first step."""
    unsound: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Steps that were done and not in the newest checkpoint, by death."""
    runs: int = 0
    """That reached their end, over all kills."""
    different: list[str] = field(default_factory=list)
    """Of these, those that ended otherwise than one without kills."""

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return not self.unsound and not self.different and max(self.lost, default=0) <= EVERY

    def text(self) -> str:
        """For people."""
        if not self.lost:
            return "no kills"
        lines = [
            f"{self.kills} kills: {self.while_saving} while saving, {self.while_starting} before the first step",
            f"newest checkpoints that were not sound: {len(self.unsound)} {self.unsound[:3] or ''}",
            f"steps lost: at most {max(self.lost)}, {sum(self.lost) / len(self.lost):.1f} on average; interval {EVERY}",
            f"runs that reached their end: {self.runs}, of which otherwise than without kills: {len(self.different)}",
        ]
        return "\n".join(lines)


def campaign(summary: Summary, kills: int, folder: Path, toy: Path, seed: int = 0) -> None:
    """Kill so many times.

    Args:
        summary: Gets what is found, kill by kill.
        kills: How often.
        folder: Gets the runs.
        toy: Weights and data as `write_toy` makes them.
        seed: Of the moments.
    """
    draw = random.Random(seed)
    end(start(folder, toy, "straight"))
    name = "run-0"
    while summary.kills < kills:
        process = start(folder, toy, name)
        began, before = time.time(), steps_done(folder / name)
        died = kill(process, folder / name, draw, saving=summary.kills % 2 == 0)
        if not died:
            compare(folder, name, summary)
            name = f"run-{summary.runs}"
            continue
        summary.kills += 1
        look(folder / name / "pretrain", summary, began, before)
        print(f"\r{summary.kills} of {kills}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    end(start(folder, toy, name))
    compare(folder, name, summary)


def train(folder: Path, toy: Path, name: str) -> None:
    """What a process does: the command `xgenmm train` without its parser."""
    from xgenmm.recipe.run import run
    from xgenmm.recipe.settings import Recipe

    logging.disable(logging.WARNING)
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    del settings["toy"]
    settings["stages"] = settings["stages"][:1]
    stage = {"steps": STEPS, "batch.size": 4, "batch.micro": 4, "checkpoint.every": EVERY}
    changes = [f"stages.pretrain.{key}={value}" for key, value in stage.items()]
    run(decode(Recipe, override(settings, [f"output={folder}", f"name={name}", *changes])))


def start(folder: Path, toy: Path, name: str) -> multiprocessing.process.BaseProcess:
    """Begin a run or go on with it, in a process forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xgenmm.recipe.run"])
    process = context.Process(target=train, args=(folder, toy, name))
    process.start()
    return process


def end(process: multiprocessing.process.BaseProcess) -> None:
    """Let a run come to its end."""
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise SystemExit(f"a run that nobody killed ended with {process.exitcode}")


def kill(process: multiprocessing.process.BaseProcess, run: Path, draw: random.Random, *, saving: bool) -> bool:
    """Kill a process at a random moment; while it saves, or at any. Gives whether it still lived."""
    stage = run / "pretrain"
    known, deadline = unfinished(stage), time.monotonic() + PATIENCE
    if draw.random() > 0.1:  # else: anywhere from the start on
        began = steps_done(run)
        while process.is_alive() and steps_done(run) <= began and time.monotonic() < deadline:
            time.sleep(0.002)
    time.sleep(draw.uniform(0, SECONDS))
    if saving:
        while process.is_alive() and not unfinished(stage) - known and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, SECONDS_OF_A_SAVE))
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run ended with {process.exitcode}")
    return process.exitcode != 0


def unfinished(stage: Path) -> set[tuple[str, int]]:
    """Checkpoints without a manifest, each with its inode: one that is begun anew counts as another."""
    found = set()
    for path in stage.glob("checkpoints/step-*"):
        try:
            if not (path / "manifest.json").exists():
                found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:
            pass
    return found


def steps_done(run: Path) -> int:
    """Steps that are written down as done."""
    path = run / "pretrain/metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] + 1 if lines else 0


def look(stage: Path, summary: Summary, began: float, before: int) -> None:
    """What a death has left."""
    done, newest = steps_done(stage.parent), 0
    for path in stage.glob("checkpoints/step-*"):
        manifest = path / "manifest.json"
        if not manifest.exists():
            summary.while_saving += path.stat().st_mtime > began
            continue
        newest = max(newest, int(path.name.removeprefix("step-")))
        for name, file in json.loads(manifest.read_text())["files"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != file["sha256"]:
                summary.unsound.append(f"{path / name}")
    summary.unsound += [str(path) for path in stage.glob("checkpoints/*.damaged")]  # set aside by the one that died
    summary.while_starting += done <= before
    summary.lost.append(done - newest)


def compare(folder: Path, name: str, summary: Summary) -> None:
    """Whether a run ended as the one that nobody killed."""
    summary.runs += 1
    ends = []
    for one in ("straight", name):
        stage = folder / one / "pretrain"
        lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        records = [{key: value for key, value in line.items() if key != "speed"} for line in lines]
        ends.append((records, load_file(stage / "weights/model.safetensors")))
    (records, weights), (other_records, other_weights) = ends
    same = weights.keys() == other_weights.keys() and all(weights[key].equal(other_weights[key]) for key in weights)
    if records != other_records or not same:
        summary.different.append(name)


def main() -> int:
    """Run it as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from xgenmm.starter.toy import write_toy

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    summary, whole = Summary(), False
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            write_toy(Path(folder) / "toy")
            campaign(summary, options.kills, Path(folder) / "runs", Path(folder) / "toy", options.seed)
            whole = True
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
        finally:
            for process in multiprocessing.active_children():
                process.kill()
            print(summary.text())
    return 0 if whole and summary.good else 1


if __name__ == "__main__":
    sys.exit(main())
