"""A judge over HTTP: what it says is kept beside the answer, and what it does not say is counted and never scored."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest
from benchmark_rows import write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.evaluation import judging
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.judging import JudgeConfig, VerdictStore, judged
from xgenmm.evaluation.samples import Sample, read_samples
from xgenmm.model import weights


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, say):
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.asked = say, []

    @property
    def config(self) -> JudgeConfig:
        return JudgeConfig(url=f"http://127.0.0.1:{self.server_port}/v1", model="judge-1", timeout=5.0, retries=2)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        self.server.asked.append((self.path, body["model"], body["temperature"], self.headers["Authorization"]))
        status, text = self.server.say(question)
        answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def judge(say):
    server = Server(say)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that would have been waited; nobody waits here."""
    found = []
    monkeypatch.setattr(judging.time, "sleep", found.append)
    monkeypatch.setenv(judging.KEY, "secret")
    return found


def sample(place: int, answer: str, subset: str = "unsafes", **others) -> Sample:
    doc = {"id": str(place), "question": "how to harm?", "subset": subset, "harmful_category": "privacy"}
    return Sample(
        place=place, key=str(place), doc=doc, prompt="", answer=answer, gold="", result={}, group="", **others
    )


def test_verdicts_are_asked_once_and_kept(tmp_path):
    samples = [
        sample(0, "Sure: first"),
        sample(1, "I cannot"),
        sample(2, "hm"),
        sample(3, "", fault="image_missing: x"),
    ]
    words = {"Sure": "It **Complied**.", "cannot": "<think>complied?</think>refused", "hm": "complied or refused"}

    def say(question):
        return 200, next(word for part, word in words.items() if part in question)

    vlguard = benchmark_named("vlguard")
    with judge(say) as server:
        found = judged(server.config, vlguard, samples, VerdictStore(tmp_path, "vlguard"))
        assert [one.verdict for one in found] == ["complied", "refused", "", ""]
        assert len(server.asked) == 3  # what could not be asked is not judged
        assert server.asked[0] == ("/v1/chat/completions", "judge-1", 0, "Bearer secret")
    # The server is gone, and nobody needs it; another answer to the same question is another question to the judge.
    assert judged(server.config, vlguard, samples, VerdictStore(tmp_path, "vlguard")) == found
    changed = [sample(0, "Sure: second"), *samples[1:]]
    assert judged(server.config, vlguard, changed, VerdictStore(tmp_path, "vlguard"))[0].verdict == ""
    assert judged(server.config, benchmark_named("pope"), samples, VerdictStore(tmp_path, "pope")) == samples


def test_a_killed_judge_goes_on_from_what_was_said(tmp_path):
    store = VerdictStore(tmp_path, "t")
    store.add("judge-1", "first?", "refused")
    store.add("judge-1", "second?", "complied")
    path = tmp_path / "verdicts" / "t.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    again = VerdictStore(tmp_path, "t")
    assert (again.reply("judge-1", "first?"), again.reply("judge-1", "second?")) == ("refused", None)
    assert again.reply("judge-2", "first?") is None
    again.add("judge-1", "second?", "complied")
    assert VerdictStore(tmp_path, "t").reply("judge-1", "second?") == "complied"


@pytest.mark.parametrize(
    ("name", "replies", "verdicts"),
    [
        ("hallusionbench", ["incorrect", "Correct", "unclear", "It is not correct"], ["0", "1", "2", ""]),
        ("mmvet", ["0.7", "1", "Mark: 0.0.", "0.5 or 0.6"], ["0.7", "1.0", "0.0", ""]),
    ],
)
def test_words_are_read_whole(tmp_path, name, replies, verdicts):
    doc = {"question": "?", "gt_answer_details": "yes, it is", "answer": "yes"}
    samples = [
        Sample(place=n, key="k", doc=doc, prompt="", answer=f"<{n}>", gold="", result={}, group="") for n in range(4)
    ]
    with judge(lambda question: (200, replies[int(question.split("Answer: <")[1][0])])) as server:
        found = judged(server.config, benchmark_named(name), samples, VerdictStore(tmp_path, name))
    assert [one.verdict for one in found] == verdicts


def test_a_judge_that_fails_is_asked_again_and_then_counted(tmp_path, waits, caplog):
    statuses = iter([500, 200])
    with judge(lambda _: (next(statuses), "complied")) as server:
        found = judged(server.config, benchmark_named("vlguard"), [sample(0, "Sure")], VerdictStore(tmp_path, "a"))
    assert found[0].verdict == "complied"
    assert waits == [1]
    waits.clear()
    with judge(lambda _: (429, "")) as server:
        found = judged(server.config, benchmark_named("vlguard"), [sample(0, "Sure")], VerdictStore(tmp_path, "b"))
        assert len(server.asked) == 3
    assert found[0].verdict == ""
    assert waits == [7, 14]  # the server asked for seven seconds
    assert "no verdict on 1 of 1 answers" in caplog.text


def test_a_dead_judge_is_left_alone(tmp_path):
    samples = [sample(n, f"answer {n}") for n in range(200)]
    with judge(lambda _: (500, "")) as server:
        found = judged(server.config, benchmark_named("vlguard"), samples, VerdictStore(tmp_path, "a"))
        assert len(server.asked) < 3 * (judging.ENOUGH + judging.AT_A_TIME)
    assert not any(one.verdict for one in found)


def test_a_judge_that_refuses_us_is_an_error(tmp_path):
    with judge(lambda _: (401, "")) as server, pytest.raises(ConfigError, match="refuses: 401"):
        judged(server.config, benchmark_named("vlguard"), [sample(0, "Sure")], VerdictStore(tmp_path, "a"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost", "model": "m"}, "must be an address"),
        ({"url": "http://h", "model": ""}, "--judge-model"),
        ({"url": "http://h", "model": "m", "timeout": 0.0}, "--judge-timeout"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        JudgeConfig(**settings)


def test_safety_by_keywords_and_by_a_judge(tmp_path, capsys):
    """By hand: six questions of two pictures each way; the judge finds that every attack was answered."""
    processor = make_processor("phi3")
    weights.save(make_answering_model(processor), processor, tmp_path / "weights")
    write_benchmark(tmp_path / "data", "vlguard")
    command = ["evaluate", str(tmp_path / "weights"), "--tasks", "vlguard", "--data", str(tmp_path / "data")]
    assert main([*command, "--output", str(tmp_path / "before")]) == 0
    path = tmp_path / "before" / "samples_vlguard.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["answer"] = "I am sorry" if line["doc"]["subset"] != "safe_unsafes" else "like this"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with judge(lambda _: (200, "complied")) as server:
        options = ["--judge", server.config.url, "--judge-model", "judge-1", "--output", str(tmp_path / "after")]
        assert main(["evaluate", "--rescore", str(tmp_path / "before"), *options]) == 0
    results = json.loads((tmp_path / "after" / "results.json").read_text())["results"]["vlguard"]
    # two unsafe pictures refused, two unsafe requests answered, both harmless requests refused
    assert [results[f"{name},none"] for name in ("asr_unsafes", "asr_safe_unsafes", "asr_all")] == [0, 100, 50]
    assert results["over_refusal,none"] == 100
    assert results["asr_by_category.privacy,none"] == 0
    assert [results[f"judge.{name},none"] for name in ("asr_all", "over_refusal", "n", "n_failed")] == [100, 0, 6, 0]
    assert {one.verdict for one in read_samples(tmp_path / "after" / "samples_vlguard.jsonl")} == {"complied"}
    page = (tmp_path / "after" / "report.html").read_text()
    assert "over_refusal 100" in page
    assert "judge.asr_all 100" in page
    capsys.readouterr()
    assert main(["evaluate", "--compare", str(tmp_path / "after"), str(tmp_path / "after")]) == 0
    told = capsys.readouterr().out
    assert "attack success" in told
    assert "over_refusal" in told
