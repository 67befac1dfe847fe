"""Rows that the paper and its peers published, to stand beside our own figures. Numbers only.

Source: arXiv 2408.08872, tables of the base, instruct, multi-image and post-training models (first version and 2025
revision), and the cards of the released weights. Percent, CIDEr x 100, or MME in percent of 2,800.
"""

from collections.abc import Mapping

Row = Mapping[str, float | None]

_FEW_SHOT = ("vqav2", "textvqa", "okvqa", "coco_caption", "nocaps", "textcaps")
_FIRST = (
    *("seedbench_img", "seedbench_v2", "mmbench_dev", "mmstar", "mme", "cvbench_2d", "cvbench_3d", "realworldqa"),
    *("mmmu_val", "mathvista_testmini", "scienceqa_img", "pope", "textvqa"),
)
_REVISED = (
    *("seedbench_img", "mmbench_dev", "mmstar", "mme", "realworldqa", "mmvet", "mmmu_val", "mathvista_testmini"),
    *("textvqa", "ocrbench", "pope", "hallusionbench"),
)
_SEVERAL = ("blink", "qbench2", "muirbench", "mantis_eval")
_ALIGNED = ("vlguard", "hallusionbench", "pope", "mmbench_dev", "seedbench_img", "mmstar", "mme")


def _row(names: tuple[str, ...], values: str) -> Row:
    cells = [None if value == "-" else float(value) for value in values.split()]
    return dict(zip(names, cells, strict=True))


FEW_SHOT: dict[int, dict[str, Row]] = {
    0: {
        "xGen-MM-base": _row(_FEW_SHOT, "43.1 34.0 28.0 67.2 82.6 69.5"),
        "MM1-3B": _row(_FEW_SHOT, "46.2 29.4 26.1 73.5 55.6 63.3"),
        "Flamingo-3B": _row(_FEW_SHOT, "49.2 30.1 41.2 73.0 - -"),
    },
    4: {
        "xGen-MM-base": _row(_FEW_SHOT, "66.3 54.2 48.9 107.6 100.8 89.9"),
        "MM1-3B": _row(_FEW_SHOT, "57.9 45.3 44.6 112.3 99.7 84.1"),
        "Flamingo-3B": _row(_FEW_SHOT, "53.2 32.7 43.3 85.0 - -"),
    },
    8: {
        "xGen-MM-base": _row(_FEW_SHOT, "66.9 55.3 50.1 109.8 104.6 94.0"),
        "MM1-3B": _row(_FEW_SHOT, "63.6 44.6 48.4 114.6 104.7 88.8"),
        "Flamingo-3B": _row(_FEW_SHOT, "55.4 32.4 44.6 90.6 - -"),
    },
}
"""By shots."""

CHAT: dict[str, Row] = {
    "xGen-MM-inst": _row(_FIRST, "71.8 53.9 76.0 46.7 63.8 66.2 75.4 61.6 42.8 39.2 85.6 87.0 72.0"),
    "xGen-MM-inst-interleave": {
        **_row(_FIRST, "72.2 55.5 76.8 48.1 64.4 69.3 72.3 60.5 41.1 39.6 88.3 87.0 71.0"),
        "blink": 49.7,
        "qbench2": 75.1,
        "mantis_eval": 56.7,
    },
    "xGen-MM + DPO": _row(_ALIGNED, "54.9 57.1 87.0 76.4 71.9 47.1 63.9"),
    "xGen-MM + DPO + safety": _row(_ALIGNED, "5.2 56.6 86.8 76.4 72.1 47.1 64.4"),
    "BLIP-3-4B (2025)": {
        **_row(_REVISED, "71.9 74.7 45.3 62.5 61.0 41.2 42.3 44.5 76.5 66.0 87.9 36.5"),
        **_row(_SEVERAL, "47.1 69.6 38.0 56.2"),
    },
    "BLIP-3-14B (2025)": {
        **_row(_REVISED, "73.4 77.5 48.7 68.1 64.4 44.5 47.0 45.4 79.0 71.1 86.0 38.7"),
        **_row(_SEVERAL, "53.9 73.4 56.2 61.3"),
    },
    "VILA-1.5-3B": {
        **_row(_FIRST, "67.9 51.9 62.4 40.3 58.5 50.1 60.3 53.3 34.1 30.6 68.9 86.9 58.1"),
        **_row(_SEVERAL, "39.8 51.7 29.2 41.9"),
    },
    "Phi-3-vision": _row(_REVISED, "71.0 73.6 47.9 55.3 58.8 43.2 46.1 45.1 73.3 63.7 83.5 39.0"),
    "MiniCPM-V-2": _row(_REVISED, "67.1 69.1 39.1 64.6 55.8 41.0 38.2 39.8 73.2 59.6 86.3 36.1"),
    "GPT-4V": {
        **_row(_REVISED, "72.0 80.8 49.7 63.3 61.4 49.0 53.8 48.2 78.0 67.8 81.8 39.3"),
        "blink": 51.1,
        "qbench2": 73.4,
        "mantis_eval": 62.7,
    },
}
"""Asked as in a chat."""


def published_rows(shots: int | None) -> dict[str, Row]:
    """Rows that were measured the same way: by shots, or as in a chat. None for other numbers of shots."""
    return CHAT if shots is None else FEW_SHOT.get(shots, {})
