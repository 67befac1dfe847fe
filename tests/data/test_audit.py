"""`xgenmm data check`: figures against counts by hand, and the pages that show them."""

import re

import pytest

from xgenmm.data.audit import Stock, audit, longest_sample
from xgenmm.data.audit_report import aligned, audit_text, write_data_report
from xgenmm.data.lengths import source_lengths
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig, MixtureSource, Planner

TOKENS_PER_TILE = 4
NASTY = "<script>document.title='XSS'</script>"


def stage(steps: int = 10, unit: str = "samples", names: tuple[str, str] = ("short", "long")):
    """Two sources: samples of 10 tokens (1 tile, 3 supervised), and of 20 + 20 (no tile, 15 + 20 supervised)."""
    rows = {
        names[0]: [[[(10, 1, 3)]]] * 30,
        names[1]: [[[(20, 0, 15), (20, 0, 20)]]] * 30,
    }
    stocks = [
        Stock(
            name=name,
            records=32,
            quarantined={"text_empty": 2},
            lengths=source_lengths(name, listed, digest=name),
        )
        for name, listed in rows.items()
    ]
    planner = Planner(
        [MixtureSource(lengths=stock.lengths, weight=0.5) for stock in stocks],
        MixtureConfig(unit=unit, at_end="repeat"),
        BatchConfig(rows=2, tokens=40),
        seed=0,
        max_tokens=40,
        tokens_per_tile=TOKENS_PER_TILE,
    )
    return audit(
        "pretrain",
        stocks,
        planner,
        steps=steps,
        of_steps=100,
        unit=unit,
        capacity=40,
        tokens_per_tile=TOKENS_PER_TILE,
        name_of=lambda slot: f"{stocks[slot.source].name}/file:{slot.row}",
    )


def test_figures_by_hand():
    found = stage(steps=20, unit="tokens")
    short, long = found.sources
    assert (short.records, short.usable, dict(short.quarantined)) == (32, 30, {"text_empty": 2})
    assert short.supervised_share == pytest.approx(3 / 10)
    assert long.supervised_share == pytest.approx(35 / 40)
    assert (short.longest, long.longest) == (10, 40)  # both pieces together
    assert short.text_tokens == 6 * short.samples
    assert short.vision_tokens == 4 * short.samples
    assert long.loss_tokens == 35 * long.samples
    assert (short.cut, long.cut) == (0, long.samples)
    assert short.lengths[4] == short.samples  # 8 to 15 tokens
    assert long.lengths[6] == long.samples  # 32 to 63
    # half of the tokens each: four short samples for each long one
    assert short.shares["tokens"] == pytest.approx(0.5, abs=0.03)
    assert short.shares["samples"] == pytest.approx(0.8, abs=0.03)
    assert short.shares["loss_tokens"] == pytest.approx(4 * 3 / (4 * 3 + 35), abs=0.03)
    assert short.target == pytest.approx(0.5)
    assert found.rows.rows == 40
    assert found.fill == 1.0  # 10 and 20 fill 40
    assert found.steps == 20
    assert found.seen_at == tuple(range(1, 21))
    assert found.shares["short"]["tokens"][-1] == short.shares["tokens"]


def test_the_first_rows_are_the_plans():
    found = stage(steps=1)
    assert len(found.examples) == 2
    for row in found.examples:
        assert sum(segment.tokens for segment in row) == 40
        for segment in row:
            assert (segment.vision_tokens, segment.cut) == ((4, False) if segment.source == "short" else (0, True))
            assert segment.id.startswith(f"{segment.source}/file:")


def test_the_longest_sample_among_variants_and_pieces():
    rows = [[[(5, 0, 1)], [(9, 0, 1)]], [[(6, 0, 1), (7, 0, 1)], [(12, 0, 1)]], [[(8, 0, 1)], [(1, 0, 1)]]]
    assert longest_sample(source_lengths("a", rows, digest="")) == (13, 1, 0)
    assert longest_sample(source_lengths("a", rows[::2], digest="")) == (9, 0, 1)
    plain = [[[(5, 0, 1)]], [[(7, 0, 1)]]]
    assert longest_sample(source_lengths("a", plain, digest="")) == (7, 1, 0)


def test_a_source_without_supervision_is_told():
    lengths = source_lengths("mute", [[[(10, 0, 0)]]], digest="")
    found = audit(
        "sft",
        [
            Stock(name="mute", records=1, quarantined={}, lengths=lengths),
            Stock(name="gone", quarantined={}, fault="empty"),
        ],
        None,
        steps=5,
        of_steps=5,
        unit="samples",
        capacity=40,
        tokens_per_tile=TOKENS_PER_TILE,
        name_of=str,
    )
    assert found.faults == ['data set "mute": no token of it is supervised', 'data set "gone": empty']
    text = audit_text(found)
    assert "NOT USABLE" in text


def test_the_table_has_every_figure():
    text = audit_text(stage(steps=20, unit="tokens"))
    for word in ("20 steps of 100 planned", "the mixture in tokens", "dropped 2 text_empty", "30.0 %", "50.00 %"):
        assert word in text
    assert "100.00 % full" in text
    assert "longest sample of long: 40 tokens, long/file:" in text
    lines = aligned([["a", "1"], ["bcd", "100"]])
    assert lines == ["a      1", "bcd  100"]


def test_the_page_is_one_file_that_runs_nothing(tmp_path):
    path = tmp_path / "sub" / "data_report.html"
    write_data_report(path, NASTY, [stage(names=(NASTY, "long"))])
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count('<svg class="row"') == 2
    assert page.count('<svg class="chart"') == 5  # two of shares, two of lengths, one of fill
    assert "&lt;script&gt;" in page


def test_a_source_has_one_colour_in_tables_and_rows_of_all_stages(tmp_path):
    path = tmp_path / "data_report.html"
    write_data_report(path, "two", [stage(names=("short", "long")), stage(names=("long", "other"))])
    page = path.read_text(encoding="utf-8")
    in_rows = set(re.findall(r'<g class="(c\d+)"><title>(\w+) ', page))
    in_tables = set(re.findall(r'<i class="(c\d+)"></i>(\w+)</th>', page))
    assert in_rows == in_tables == {("c0", "short"), ("c1", "long"), ("c2", "other")}
