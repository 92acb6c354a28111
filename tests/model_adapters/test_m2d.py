"""M2D, MSM-MAE and M2D-CLAP against what the originals compute with stand-in weights."""

import argparse
import shutil

import numpy as np
import pytest
import torch

from evar import models
from evar.errors import UserError
from evar.model_adapters._vit import sincos_positions
from evar.model_adapters.m2d import M2D, M2DCLAP, M2DCLAP2025, Published
from helpers.golden_cases import Blank, save
from helpers.standin import GOLDEN, audio, relative_error, state_dict

CLAP = "m2d_clap_vit_base-80x608p16x16"
MSM = "msm_mae_80x608"
FIRST_MSM = "msm_mae_80x512"
TINY_CLAP = M2DCLAP.TINY


def write(folder, name, state, **beside):
    path = folder / name
    path.mkdir()
    save({"model": state, **beside}, path / "checkpoint-300.pth")
    return path


def tensors(case):
    seed = int(np.load(GOLDEN / f"{case}.npz")["seed"])
    return {k: torch.from_numpy(np.asarray(v)) for k, v in state_dict(case, seed).items()}


def some_audio(seconds, *, longer):
    """Both waveforms; of longer ones, which take a second each, the first."""
    return torch.from_numpy(audio(float(seconds), 16000))[: 1 if longer else 2]


@pytest.fixture(scope="module")
def golden_clap():
    return np.load(GOLDEN / f"{CLAP}.npz")


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """Loaded from a full training checkpoint: predictor, target network and arguments beside."""
    state = tensors(CLAP)
    state |= {"mask_token": torch.zeros(1, 1, 768), "logit_scale": torch.tensor(2.6)}
    state |= {"decoder_embed.weight": torch.zeros(2, 2), "target_norm.weight": torch.zeros(2)}
    folder = tmp_path_factory.mktemp("weights")
    path = write(folder, f"{CLAP}-240128", state, args=argparse.Namespace(lr=1), epoch=300)
    with Blank():
        loaded = models.load("m2d_clap", weights=path)
    adapter, config = loaded.adapter, loaded.config
    shutil.rmtree(path)  # several hundred megabytes
    assert config.lr == 3e-5
    return adapter


@pytest.mark.parametrize("seconds", ["1", "2.5", "6.08", "10", "14.3"])
def test_clap_embeddings_are_the_originals(clap, golden_clap, seconds):
    x = some_audio(seconds, longer=seconds != "1")
    golden = {k: v[: len(x)] for k, v in golden_clap.items() if k.endswith(f"_{seconds}s")}
    with torch.inference_mode():
        tokens = clap.tokens(clap.features(x))
        stack = tokens.transpose(1, 2).flatten(2)
        joint = clap.audio_proj(tokens.mean((1, 2)))
    shape = golden_clap[f"frames_shape_stack_{seconds}s"].tolist()
    assert list(stack.shape) == [len(x), *shape[1:]]
    assert relative_error(stack.mean(1), golden[f"clip_stack_{seconds}s"]) < 1e-4
    assert relative_error(tokens.mean((1, 2)), golden[f"clip_flat_{seconds}s"]) < 1e-4
    assert relative_error(joint, golden[f"clap_audio_{seconds}s"]) < 1e-4


def test_embed_is_the_stack_and_the_front_end_the_originals(clap, golden_clap):
    x = torch.from_numpy(audio(1, 16000))
    with torch.inference_mode():
        assert relative_error(clap.logmel(x)[:, None], golden_clap["logmel_1s"]) < 1e-4
        assert relative_error(clap.embed(x), golden_clap["clip_stack_1s"]) < 1e-4
        assert relative_error(clap.embed_joint(x), golden_clap["clap_audio_1s"]) < 1e-4
    assert (clap.embed_dim, clap.joint_dim) == (3840, 768)


def test_msm_mae_embeddings_are_the_originals(tmp_path):
    golden = np.load(GOLDEN / f"{MSM}.npz")
    state = tensors(MSM)
    path = write(tmp_path, "msm_mae_vit_base-80x608p16x16-220924-mr75", state)
    with Blank():
        adapter = models.load("msm_mae", weights=path).adapter
    shutil.rmtree(path)
    with torch.inference_mode():
        for seconds in ("1", "5", "11"):
            x = some_audio(seconds, longer=seconds != "1")
            frames, count = adapter.frames(x), len(x)
            assert list(frames.shape[1:]) == golden[f"frames_shape_{seconds}s"][1:].tolist()
            assert relative_error(frames.mean(1), golden[f"clip_{seconds}s"][:count]) < 1e-4
            assert relative_error(frames[:, :2], golden[f"frames_head_{seconds}s"][:count]) < 1e-4
        ours = adapter.logmel(torch.from_numpy(audio(1, 16000)))[:, None, :, :40]
    assert relative_error(ours, golden["logmel_1s"]) < 1e-4


def test_first_msm_mae_is_the_original(tmp_path):
    """Another layout (no key bias) and another runtime (chunks padded to their full length)."""
    golden = np.load(GOLDEN / f"{FIRST_MSM}.npz")
    path = write(tmp_path, "80x512p16x16_x", tensors(FIRST_MSM))
    stats = golden["norm_stats"].tolist()
    with Blank():
        adapter = models.load("msm_mae", weights=path, norm_stats=stats).adapter
    shutil.rmtree(path)
    last = int(golden["clip_512frames_samples"]) / 16000
    with torch.inference_mode():
        for key, seconds in (("1s", 1), ("5s", 5), ("11s", 11), ("512frames", last)):
            x = some_audio(seconds, longer=key != "1s")
            frames, count = adapter.frames(x), len(x)
            assert relative_error(frames.mean(1), golden[f"clip_{key}"][:count]) < 1e-4
            if key != "512frames":
                assert list(frames.shape[1:]) == golden[f"frames_shape_{key}"][1:].tolist()
                assert relative_error(frames[:, :2], golden[f"frames_head_{key}"][:count]) < 1e-4
        ours = adapter.logmel(torch.from_numpy(audio(1, 16000)))[:, None, :, :40]
    assert relative_error(ours, golden["logmel_1s"]) < 1e-4


def test_positions_are_the_originals():
    golden = np.load(GOLDEN / f"{MSM}.npz")["pos_embed_sincos_head"]  # of a width of 24
    np.testing.assert_allclose(sincos_positions(24, 5, 38)[0, :40], golden, atol=1e-6)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return M2DCLAP(**TINY_CLAP).eval()


def tiny_state(adapter):
    projector = adapter.audio_proj.state_dict()
    return {
        **adapter.backbone.state_dict(),
        **{f"audio_proj.{name}": value for name, value in projector.items()},
    }


def test_statistics_of_the_checkpoint_count(tiny, tmp_path):
    state = tiny_state(tiny) | {"norm_stats": torch.tensor([-5.0, 2.0])}
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    loaded = M2DCLAP(path, **TINY_CLAP)
    x = torch.from_numpy(audio(1, 16000))
    torch.testing.assert_close(loaded.features(x), (tiny.logmel(x) + 5) / 2)


def test_fine_tuned_and_encoder_only_layouts_load(tiny, tmp_path):
    encoder = tiny.backbone.state_dict()
    tuned = {f"module.ar.runtime.backbone.{k}": v for k, v in encoder.items()}
    tuned["module.head.norm.running_mean"] = torch.zeros(3)
    x = torch.from_numpy(audio(1, 16000))
    expected = tiny.embed(x)
    for name, state in (("tuned", tuned), ("enconly", encoder)):
        path = write(tmp_path, f"m2d_vit_x-80x608p16x16-{name}", state)
        torch.testing.assert_close(M2D(path, **M2D.TINY).eval().embed(x), expected)


def test_the_last_epoch_of_a_folder_is_taken(tiny, tmp_path):
    path = write(tmp_path, "m2d_vit_x-80x608p16x16-1", {"wrong": torch.zeros(1)})
    (path / "checkpoint-300.pth").rename(path / "checkpoint-99.pth")
    torch.save({"model": tiny.backbone.state_dict()}, path / "checkpoint-300.pth")
    M2D(path, **M2D.TINY)


def test_another_models_checkpoint_is_named(tiny, tmp_path):
    state = tiny_state(tiny)
    del state["blocks.0.norm1.weight"]
    state["blocks.9.norm1.weight"] = torch.zeros(24)
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    with pytest.raises(UserError, match=r"1 missing \(blocks.0.norm1.weight\).*blocks.9"):
        M2DCLAP(path, **TINY_CLAP)


def test_the_wrong_projector_is_told_by_name(tiny, tmp_path):
    state = tiny_state(tiny) | {"audio_proj.sem_token": torch.zeros(1, 1, 24)}
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    with pytest.raises(UserError, match="m2d_clap_2025"):
        M2DCLAP(path, **TINY_CLAP)
    plain = write(tmp_path, "m2d_vit_x-80x608p16x16-1", tiny.backbone.state_dict())
    with pytest.raises(UserError, match=r"no audio projector \(audio_proj"):
        M2DCLAP(plain, **TINY_CLAP)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("chunk_frames", 0, "a whole number of 1 or more"),
        ("norm_stats", [-7.1], "MEAN,DEVIATION"),
        ("norm_stats", [-7.1, 0], "MEAN,DEVIATION"),
        ("norm_stats", 4, "MEAN,DEVIATION"),
        ("flat", "no", "True or False"),
        ("depth", "deep", "a whole number"),
    ],
)
def test_an_option_of_another_kind_is_named(option, value, expected):
    with pytest.raises(UserError, match=f"{option}=.*: must be {expected}"):
        models.load("m2d", weights="random", **{option: value})


def test_a_model_of_32_khz_takes_no_weights_of_16(tiny, tmp_path):
    path = write(tmp_path, "m2d_vit_x-80x608p16x16-1", tiny.backbone.state_dict())
    with pytest.raises(UserError, match="a checkpoint for 16000 Hz, but this model is for 32000"):
        models.load("m2d_32k", weights=path)


def test_an_empty_checkpoint_is_refused(tmp_path):
    path = write(tmp_path, "m2d_vit_x-80x608p16x16-1", {})
    with pytest.raises(UserError, match="missing"):
        M2D(path, **M2D.TINY)


NAME_2025 = "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025"


def tiny_2025(folder, sizes, **changed):
    """A file as the 2025 models may be laid out, and the parts that it was made from."""
    source = M2DCLAP2025(name=NAME_2025, **TINY_CLAP).eval()
    bert = bert_of(**sizes)
    state = {f"audio_proj.{k}": v for k, v in source.audio_proj.state_dict().items()}
    state |= source.backbone.state_dict()
    state |= {f"text_encoder.model.{k}": v for k, v in bert.state_dict().items()}
    state |= {"text_proj.weight": torch.randn(24, 16), "text_proj.bias": torch.zeros(24)}
    return write(folder, NAME_2025, state | changed), source, bert, state


@pytest.mark.filterwarnings("ignore:the joint space of the 2025")
def test_model_of_2025_loads_and_says_what_is_not_verified(tmp_path):
    from helpers.golden_cases import write_tokenizer

    path, source, bert, state = tiny_2025(tmp_path, {"hidden_size": 16})
    folder = str(write_tokenizer(tmp_path / "words", "bert"))
    adapter = M2DCLAP2025(path, tokenizer=folder, **TINY_CLAP).eval()
    x = torch.from_numpy(audio(1, 16000))
    with torch.inference_mode():
        torch.testing.assert_close(adapter.embed(x), source.embed(x))
        with pytest.warns(UserWarning, match="not verified"):
            joint = adapter.embed_joint(x)
        torch.testing.assert_close(joint, source.embed_joint(x))
        ids, mask = adapter.tokenizer(["a dog"])
        mean = bert(input_ids=ids, attention_mask=mask).last_hidden_state.mean(1)
        expected = mean @ state["text_proj.weight"].T
        captions = adapter.embed_text(["a dog", "the rain can be heard"])
    torch.testing.assert_close(captions[:1], expected, atol=1e-5, rtol=1e-4)
    assert adapter.embed_dim == 5 * 24


def test_model_of_2025_with_other_tensors_still_gives_linear_evaluation(tmp_path):
    more = {"audio_proj.sem_norm.weight": torch.zeros(24)}
    path, source, _, _ = tiny_2025(tmp_path, {"hidden_size": 16}, **more)
    adapter = M2DCLAP2025(path, **TINY_CLAP).eval()
    x = torch.from_numpy(audio(1, 16000))
    torch.testing.assert_close(adapter.embed(x), source.embed(x))
    for call in (lambda: adapter.embed_joint(x), lambda: adapter.embed_text(["a dog"])):
        with pytest.raises(UserError, match="sem_norm"):
            call()


def test_text_encoder_inside_the_checkpoint_needs_its_vocabulary_only(tiny, tmp_path):
    from helpers.golden_cases import write_tokenizer

    bert = bert_of(hidden_size=24)
    inside = {f"text_encoder.{name}": value for name, value in bert.state_dict().items()}
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16pApTI-1", tiny_state(tiny) | inside)
    bert.save_pretrained(tmp_path / "gte")
    folder = str(write_tokenizer(tmp_path / "gte", "bert"))
    with torch.inference_mode():
        inside = M2DCLAP(path, tokenizer=folder, **TINY_CLAP).eval().embed_text(["a dog"])
        beside = M2DCLAP(path, text_encoder=folder, **TINY_CLAP).eval().embed_text(["a dog"])
    torch.testing.assert_close(inside, beside)
    M2D(path, **M2D.TINY)  # which leaves all of that aside


def test_positions_for_63_patches_of_a_1001_frame_input_are_taken_as_they_are(tmp_path):
    wide = M2D(name="m2d_vit_x-80x1008p16x16-1", **M2D.TINY)
    for name, source, chunk in (
        ("m2d_vit_x-80x1001p16x16-1", wide, 1008),
        ("m2d_vit_x-80x1001p16x16-2", M2D(name="m2d_vit_x-80x992p16x16-1", **M2D.TINY), 992),
    ):
        path = write(tmp_path, name, source.backbone.state_dict())
        assert M2D(path, **M2D.TINY).chunk == chunk
    path = write(tmp_path, "m2d_vit_x-80x608p16x16-1", wide.backbone.state_dict())
    with pytest.raises(UserError, match="pos_embed is"):
        M2D(path, **M2D.TINY)


def test_longer_chunks_are_encoded_at_once_where_asked():
    torch.manual_seed(0)
    adapter = M2D(chunk_frames=1001, **M2D.TINY).eval()
    x = torch.from_numpy(audio(10, 16000))
    assert adapter.chunk == 992
    spectrogram = adapter.features(x)
    assert spectrogram.shape[2] == 1001
    at_once = adapter.backbone(spectrogram[..., :992])  # what fills no patch is dropped
    torch.testing.assert_close(adapter.tokens(spectrogram), at_once)


@pytest.mark.parametrize(
    ("frames", "seconds", "columns"),
    [(1001, 10.0, 62), (501, 5.0, 31), (821, 8.2, 51), (1001, 0.1, 1), (1001, 20.0, 125)],
)
def test_patches_of_the_original_s_durations(frames, seconds, columns):
    adapter = M2D(chunk_frames=frames, flat=True, **M2D.TINY).eval()
    spectrogram = adapter.features(torch.zeros(1, int(seconds * 16000)))
    assert adapter.patch_grid(spectrogram) == (5, columns)
    assert adapter.encode(spectrogram).shape[1] == 5 * columns


def test_a_short_clip_of_stored_log_mels_is_silent_and_then_zero():
    adapter = M2D(**M2D.TINY).eval()
    x = torch.from_numpy(audio(10, 16000)).repeat(3, 1)
    for i, seconds in enumerate((3, 8, 10)):
        x[i, seconds * 16000 :] = 0
    plain = adapter.features(x)
    adapter.lengths = torch.tensor([3, 8, 10]) * 16000
    found, nothing = adapter.features(x), torch.tensor(7.1 / 4.2)
    torch.testing.assert_close(found[2], plain[2])
    for i, seconds in ((0, 6.1), (1, 8)):
        frames = int(seconds * 100) + 1
        own = adapter.logmel(x[i : i + 1, : int(seconds * 16000)])[0]
        torch.testing.assert_close(found[i, :, :frames], (own + 7.1) / 4.2)
        assert torch.isclose(found[i, :, frames:], nothing).all()
    silence = plain[0, 0, 500]
    assert torch.isclose(found[0, :, 400:600], silence).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m2d_vit_base-80x608p16x16-221006-mr7", ((80, 608), (16, 16), 16000)),
        ("m2d_vit_base-80x608p16x16p32k-240413-mr7", ((80, 608), (16, 16), 32000)),
        ("m2d_clap_vit_base-80x1001p16x16p16kpA-x", ((80, 1001), (16, 16), 16000)),
        ("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-x", ((80, 1001), (16, 16), 16000)),
        ("m2d_vit_base-80x200p16x4-221006", ((80, 200), (16, 4), 16000)),
    ],
)
def test_folder_names_tell_the_size(name, expected):
    got = Published.parse(name)
    assert (got.input_size, got.patch_size, got.sample_rate) == expected


@pytest.mark.parametrize(
    ("name", "encoder", "included"),
    [
        ("m2d_clap_vit_base-80x608p16x16-240128", "thenlper/gte-base", False),
        ("m2d_clap_vit_base-80x1001p16x16-240128_AS-FT_enconly", "thenlper/gte-base", False),
        ("m2d_clap_vit_base-80x1001p16x16p16kpN-x", "nvidia/NV-Embed-v2", False),
        (NAME_2025, "google-bert/bert-base-uncased", True),
    ],
)
def test_folder_names_tell_the_text_encoder(name, encoder, included):
    got = Published.parse(name)
    assert (got.text_encoder, got.text_included) == (encoder, included)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "m2d_vit_base-80x608",
        "m2d_vit_base-80x608p16x16p48k-x",
        "m2d_vit_base-80x608p16x16pApB-x",
        "m2d_vit_base-80x608p16x16p32k32k-x",
        "m2d_vit_base-80x608p32x16-x",
        "m2d_vit_base-80x8p16x16-x",
    ],
)
def test_other_folder_names_are_refused(name):
    with pytest.raises(UserError, match=name):
        Published.parse(name)


def test_32_khz_has_the_same_frames_a_second():
    adapter = M2D(name="m2d_vit_base-80x608p16x16p32k", **M2D.TINY)
    assert adapter.sample_rate == 32000
    assert adapter.features(torch.zeros(1, 32000)).shape == (1, 80, 101)


def test_longer_input_interpolates_positions_in_time(tiny):
    longer = tiny.backbone.positions(76)
    assert longer.shape == (1, 5 * 76, 24)
    # At -0.25, where the first column is repeated: the cubic kernel's weights 0.87890625,
    # 0.26171875 and -0.03515625 of the first one, -0.10546875 of the second.
    first, second = tiny.backbone.pos_embed[0, 1:3]
    torch.testing.assert_close(longer[0, 0], 1.10546875 * first - 0.10546875 * second)
    torch.testing.assert_close(tiny.backbone.positions(7)[0, 7], tiny.backbone.pos_embed[0, 1 + 38])


def bert_of(hidden_size, **more):
    from transformers import BertConfig, BertModel

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    return BertModel(BertConfig(hidden_size=hidden_size, **sizes, **more)).eval()


def test_captions_are_averaged_over_their_tokens(tmp_path):
    from helpers.golden_cases import write_tokenizer

    write_tokenizer(tmp_path, "bert")
    bert = bert_of(hidden_size=16)
    bert.save_pretrained(tmp_path)
    adapter = M2DCLAP(text_encoder=str(tmp_path), **TINY_CLAP)
    with torch.inference_mode():
        together = adapter.embed_text(["a dog", "the rain can be heard"])
        alone = adapter.embed_text(["a dog"])
        tokenizer = adapter.sentences._parts[1]
        by_hand = bert(**tokenizer(["a dog"], return_tensors="pt")).last_hidden_state.mean(1)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, by_hand, atol=1e-5, rtol=1e-4)


def test_no_sentence_encoder_is_said(tmp_path):
    adapter = M2DCLAP(text_encoder=str(tmp_path / "none"), **TINY_CLAP)
    with pytest.raises(UserError, match="--text_encoder"):
        adapter.embed_text(["a dog"])


def test_an_empty_tokenizer_is_said(tmp_path):
    from transformers import BertTokenizer

    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}).save_pretrained(tmp_path)
    bert_of(hidden_size=16).save_pretrained(tmp_path)
    adapter = M2DCLAP(text_encoder=str(tmp_path), **TINY_CLAP)
    with pytest.raises(UserError, match="no vocabulary"):
        adapter.embed_text(["a dog"])


@pytest.mark.parametrize("cls", [M2D, M2DCLAP, M2DCLAP2025])
def test_a_clip_alone_is_what_it_is_in_a_batch(cls):
    from helpers.golden_cases import assert_steady, tiny

    assert_steady(tiny(cls))
