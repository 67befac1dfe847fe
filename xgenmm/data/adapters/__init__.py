"""Raw rows -> samples: one function for each way in which data sets write down pictures and text.

Adapters do no I/O (pictures stay unopened) and know no tokens. What an adapter lets people choose are its keyword-only
arguments, which a recipe sets under `options`.
"""

from collections.abc import Callable

from xgenmm.data.adapters.captions import caption_pairs, caption_rows, visual_genome
from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.conversations import cauldron, instructions, llava, messages
from xgenmm.data.adapters.interleaved import interleaved_rows, mint
from xgenmm.data.adapters.preferences import preference, vlfeedback, vlguard
from xgenmm.data.adapters.synthetic import grounding, kale, ocr
from xgenmm.data.readers import Row
from xgenmm.types import Sample

Adapter = Callable[[Row, Choose], Sample | tuple[Sample, ...]]

ADAPTERS: dict[str, Callable[..., Sample | tuple[Sample, ...]]] = {
    "caption_pairs": caption_pairs,
    "caption_rows": caption_rows,
    "kale": kale,
    "ocr": ocr,
    "grounding": grounding,
    "visual_genome": visual_genome,
    "mint": mint,
    "interleaved_rows": interleaved_rows,
    "llava": llava,
    "messages": messages,
    "cauldron": cauldron,
    "instructions": instructions,
    "preference": preference,
    "vlfeedback": vlfeedback,
    "vlguard": vlguard,
}
