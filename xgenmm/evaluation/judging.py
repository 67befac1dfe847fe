"""A judge model's verdicts on answers, over the OpenAI-compatible interface. Optional, and no reference's default.

Every verdict is kept beside the samples as soon as it is known, so a killed run goes on from it and scoring again asks
nobody. A judge that says nothing, or nothing that is asked for, gives none: that is counted, and never scored.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from xgenmm.config import ConfigError
from xgenmm.data.quarantine import read_lines
from xgenmm.evaluation.answers import drop_cut_line, to_line
from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.samples import Sample
from xgenmm.evaluation.scorers.profiles import strip_reasoning
from xgenmm.progress import progress

log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
"""Environment variable with the key, where the server wants one."""
FOLDER = "verdicts"
AT_A_TIME = 8
MAX_TOKENS = 512
"""Of a verdict: one word, and room for those that think first."""
ENOUGH = 16
"""Failures in a row after which the judge is not asked any more."""
LONGEST_WAIT = 60.0
"""Seconds that a server may want to be left alone."""
FINAL = (400, 401, 403, 404, 405, 422)
"""Statuses that asking again does not change."""
NEGATIONS = frozenset(["not", "never", "neither", "nor"])


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges."""

    url: str
    """Up to and with the version, as http://localhost:8000/v1."""
    model: str
    timeout: float = 60.0
    """Seconds for one verdict."""
    retries: int = 4
    """Times that a failed question is asked again, after 1, 2, 4, ... seconds."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: The address or the name is none, or a number is out of its range.
        """
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"--judge must be an address such as http://localhost:8000/v1, not {self.url}")
        if not self.model:
            raise ConfigError("--judge needs --judge-model: the name that the server knows the judge by")
        if self.timeout <= 0 or self.retries < 0:
            raise ConfigError("--judge-timeout must be above 0, and --judge-retries at least 0")


class VerdictStore:
    """What judges said of the answers of one task, in a file: a line per question to a judge."""

    def __init__(self, folder: Path, label: str) -> None:
        """Read what is there.

        Args:
            folder: Of the evaluation.
            label: Names the task, shots and trial.
        """
        self.path = folder / FOLDER / f"{label}.jsonl"
        drop_cut_line(self.path)
        lines = read_lines(self.path) if self.path.is_file() else []
        self._replies = {(line["judge"], line["question"]): str(line["reply"]) for line in lines}
        self._lock = threading.Lock()

    def reply(self, judge: str, question: str) -> str | None:
        """What a judge replied to a question, if it was asked."""
        return self._replies.get((judge, _digest(question)))

    def add(self, judge: str, question: str, reply: str) -> None:
        """Keep a reply; it is on disk when this returns."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_line({"judge": judge, "question": _digest(question), "reply": reply}))
            self._replies[judge, _digest(question)] = reply


def judged(config: JudgeConfig, benchmark: Benchmark, samples: Sequence[Sample], store: VerdictStore) -> list[Sample]:
    """The samples with verdicts; those of a benchmark without questions for a judge stay as they are.

    Args:
        config: Whom to ask.
        benchmark: Knows what to ask.
        samples: Answers to judge.
        store: Has what was said before, and gets what is said now.

    Raises:
        ConfigError: The server refuses us, which asking again does not change.
    """
    wanted = benchmark.judge
    if wanted is None:
        return list(samples)
    judge = _Judge(config)

    def verdict(sample: Sample) -> str:
        if sample.fault:
            return ""
        question = wanted.ask(sample.doc, sample.answer)
        reply = store.reply(config.model, question)
        if reply is None and (reply := judge.reply(question)) is not None:
            store.add(config.model, question, reply)
        return "" if reply is None else said(reply, wanted.words)

    found = []
    with (
        ThreadPoolExecutor(AT_A_TIME) as workers,
        progress(f"judge of {benchmark.name}", len(samples), "answers") as advance,
    ):
        for sample, told in zip(samples, workers.map(verdict, samples), strict=True):
            found.append(replace(sample, verdict=told, judge=config.model))
            advance(1)
    failed = sum(not sample.verdict and not sample.fault for sample in found)
    if failed:
        log.warning("the judge gave no verdict on %d of %d answers of %s", failed, len(found), benchmark.name)
    return found


def said(reply: str, words: Mapping[str, str]) -> str:
    """What the one of the words means that a reply has; empty if it has none, several, or a denial.

    >>> said("**Correct.**", {"correct": "1", "incorrect": "0"}), said("not correct", {"correct": "1"})
    ('1', '')
    >>> said("0.5", {"0.5": "half", "0": "none"})
    'half'
    """
    spoken = set(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", strip_reasoning(reply).lower()))
    meant = {words[word] for word in spoken & words.keys()}
    return meant.pop() if len(meant) == 1 and not spoken & NEGATIONS else ""


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


class _Judge:
    """Asks one server, from several threads."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._failed = 0
        """Questions in a row that it failed to answer."""

    def reply(self, question: str) -> str | None:
        """The judge's words; None if it failed."""
        wait = 1.0
        for attempt in range(self.config.retries + 1):
            if self._failed >= ENOUGH:
                return None
            try:
                reply = self._ask(question)
            except urllib.error.HTTPError as error:
                if error.code in FINAL:
                    raise ConfigError(f"the judge at {self.config.url} refuses: {error.code} {error.reason}") from error
                asked = error.headers.get("Retry-After", "")
                wait = max(wait, min(float(asked), LONGEST_WAIT)) if asked.isdigit() else wait
                log.info("judge: %s", error)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                log.info("judge: %s: %s", type(error).__name__, error)
            else:
                self._failed = 0
                return reply
            if attempt < self.config.retries:
                time.sleep(wait)
                wait *= 2
        self._failed += 1
        if self._failed == ENOUGH:
            log.error("the judge at %s failed %d times in a row and is not asked any more", self.config.url, ENOUGH)
        return None

    def _ask(self, question: str) -> str:
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.config.url.rstrip('/')}/chat/completions", data=json.dumps(body).encode(), headers=headers
        )
        with urllib.request.urlopen(request, timeout=self.config.timeout) as response:
            content = json.load(response)["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise ValueError("a reply without text")
        return content
