"""The feature cache: equal to live features within float16, asked once per tile, and read again by the next run."""

import pytest
import torch
from safetensors.torch import load_file
from toy import make_batch, make_toy_model

from xgenmm.model import feature_cache
from xgenmm.model.feature_cache import FeatureCache, fingerprint
from xgenmm.model.vision import encode


@pytest.fixture
def encoder():
    return make_toy_model().vision_encoder.requires_grad_(False)


@pytest.fixture
def calls(monkeypatch):
    """How many tiles the encoder was asked for, call by call."""
    counts = []

    def counting(encoder, tiles):
        counts.append(len(tiles))
        return encode(encoder, tiles)

    monkeypatch.setattr(feature_cache, "encode", counting)
    return counts


TILES = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(3))


def test_equal_to_live_features_within_the_storage_type(encoder, tmp_path):
    live, cached = encode(encoder, TILES), FeatureCache(tmp_path, encoder).features(TILES)
    assert cached.dtype == live.dtype
    assert torch.equal(cached, live.half().float())
    torch.testing.assert_close(cached, live, rtol=2**-11, atol=1e-6)


def test_each_tile_is_encoded_once(encoder, tmp_path, calls):
    cache = FeatureCache(tmp_path, encoder)
    first = cache.features(TILES[[0, 1, 0]])
    assert torch.equal(first[0], first[2])
    again = cache.features(TILES[[1, 2, 0]])
    assert calls == [2, 1]
    assert torch.equal(again[[0, 2]], first[[1, 0]])
    assert (cache.hits, cache.misses) == (3, 3)


def test_the_next_run_does_not_encode(encoder, tmp_path, calls):
    cache = FeatureCache(tmp_path, encoder)
    before = cache.features(TILES)
    cache.flush()
    assert torch.equal(cache.features(TILES), before)
    assert torch.equal(FeatureCache(tmp_path, encoder).features(TILES), before)
    assert calls == [4]


def test_full_files_are_written_on_the_way(encoder, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(feature_cache, "TILES_PER_FILE", 2)
    cache = FeatureCache(tmp_path, encoder)
    for i in range(4):
        cache.features(TILES[i : i + 1])
    files = sorted((tmp_path / fingerprint(encoder)).iterdir())
    assert [len(load_file(file)) for file in files] == [2, 2]
    FeatureCache(tmp_path, encoder).features(TILES)
    assert calls == [1, 1, 1, 1]


def test_one_pixel_makes_another_tile(encoder, tmp_path, calls):
    changed = TILES[:1].clone()
    changed[0, 2, 27, 27] += 0.01
    features = FeatureCache(tmp_path, encoder).features(torch.cat([TILES[:1], changed]))
    assert calls == [2]
    assert not torch.equal(features[0], features[1])


def test_another_encoder_has_other_features(encoder, tmp_path, calls):
    cache = FeatureCache(tmp_path, encoder)
    cache.features(TILES)
    cache.flush()
    with torch.no_grad():
        encoder.post_layernorm.bias[0] += 1e-3
    changed = FeatureCache(tmp_path, encoder)
    assert torch.equal(changed.features(TILES), encode(encoder, TILES).half().float())
    assert calls == [4, 4]


def test_a_flipped_bit_costs_one_tile(encoder, tmp_path, calls, caplog):
    cache = FeatureCache(tmp_path, encoder)
    expected = cache.features(TILES)
    cache.flush()
    (path,) = (tmp_path / fingerprint(encoder)).iterdir()
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    again = FeatureCache(tmp_path, encoder)
    assert torch.equal(again.features(TILES), expected)
    assert calls == [4, 1]
    assert "are damaged and are computed anew" in caplog.text
    assert torch.equal(again.features(TILES), expected)
    assert (calls, again.hits, again.misses) == ([4, 1], 7, 1)


def test_a_write_that_fails_leaves_nothing(encoder, tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, encoder)
    cache.features(TILES)

    def disk_full(_tensors, path, **_):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        cache.flush()
    assert list((tmp_path / fingerprint(encoder)).iterdir()) == []
    monkeypatch.undo()
    cache.flush()  # what was new is still there
    assert FeatureCache(tmp_path, encoder).files.keys() == cache.files.keys()
    assert len(cache.files) == 4


def test_features_beyond_the_storage_type_are_refused(encoder, tmp_path):
    with torch.no_grad():
        encoder.post_layernorm.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"features too large for torch.float16"):
        FeatureCache(tmp_path, encoder).features(TILES)


def test_autocast_does_not_reach_the_cache(encoder, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = FeatureCache(tmp_path, encoder).features(TILES)
    assert torch.equal(under_autocast, encode(encoder, TILES).half().float())


def test_the_model_trains_on_cached_features(toy_model, tmp_path, calls):
    toy_model.set_trainable(vision=False, resampler=True, language=False)
    batch = make_batch([[(1, 2, 30, 40)], [(0, 0, 9, 9)]])
    inputs = {**batch.inputs(), "targets": batch.labels[None]}
    live = toy_model(**inputs).logps
    toy_model.use_feature_cache(tmp_path)
    for _ in range(2):
        torch.testing.assert_close(toy_model(**inputs).logps, live, rtol=0, atol=0.02)
    assert calls == [4]
    toy_model(**inputs).loss.backward()
    assert toy_model.vision_tokenizer.latents.grad is not None
    reference = toy_model.frozen_reference()  # shares the cache
    assert torch.equal(reference(**inputs).logps, toy_model(**inputs).logps)
    assert calls == [4]
    toy_model.use_feature_cache(None)
    assert torch.equal(toy_model(**inputs).logps, live)


def test_a_training_encoder_has_no_cache(toy_model, tmp_path):
    toy_model.set_trainable(vision=True, resampler=True, language=False)
    with pytest.raises(ValueError, match="needs a frozen vision encoder"):
        toy_model.use_feature_cache(tmp_path)


def test_a_file_that_a_crash_cut_off_is_computed_anew(encoder, tmp_path, calls, caplog):
    cache = FeatureCache(tmp_path, encoder)
    before = cache.features(TILES)
    cache.flush()
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = FeatureCache(tmp_path, encoder)
    assert torch.equal(again.features(TILES), before)
    assert calls == [4, 4]
    assert f"{path} is damaged" in caplog.text
    again.flush()
    assert load_file(path)
