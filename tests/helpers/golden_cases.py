"""Golden cases for the adapters' tests: stand-in checkpoints on disk, inputs, expected outputs."""

import json
import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from helpers import standin

EXACT = 1e-4  # relative error that float32 allows

# The test runner starts a process for every core: more threads would only wait for each other.
torch.set_num_threads(1)


class Case:
    """One golden case: `outputs` of the original, and for how many `seconds` of audio."""

    def __init__(self, name: str):
        self.name = name
        self.outputs = dict(np.load(standin.GOLDEN / f"{name}.npz"))
        self.seed = int(self.outputs["seed"])
        found = (re.fullmatch(r"clip_(\d+)s", key) for key in self.outputs)
        self.seconds = sorted(int(match[1]) for match in found if match)

    def state(self) -> dict[str, Tensor]:
        """The stand-in weights, under the names of the published file."""
        return {k: torch.from_numpy(v) for k, v in standin.state_dict(self.name, self.seed).items()}

    def blank(self) -> dict[str, Tensor]:
        """Zeros of the published names and shapes, made at once: a file that must be refused."""
        spec = json.loads((standin.GOLDEN / f"{self.name}.json").read_text())
        spec = {k: v for k, v in spec.items() if v != "sincos"}
        shapes = {k: v if isinstance(v, list) else np.shape(v["const"]) for k, v in spec.items()}
        return {name: torch.zeros(()).expand(*shape) for name, shape in shapes.items()}

    def audio(self, seconds: float, sample_rate: int) -> Tensor:
        """(2, S): the waveforms that the original heard."""
        return torch.from_numpy(standin.audio(seconds, sample_rate, self.seed))

    def some_audio(self, seconds: float, sample_rate: int) -> Tensor:
        """(N, S): both waveforms of the shortest length; of others, which take long, the first."""
        count = 2 if seconds == self.seconds[0] else 1
        return self.audio(seconds, sample_rate)[:count]

    def error(self, ours: Tensor, key: str, clips: int | None = None) -> float:
        """Relative error against one stored output of the original, or its first `clips` rows."""
        return standin.relative_error(ours, self.outputs[key][:clips])

    def text_error(self, adapter) -> float:
        """Relative error of the text tower, fed with the token ids that the original read."""
        ids, mask = (torch.from_numpy(self.outputs[k]) for k in ("input_ids", "attention_mask"))
        return self.error(adapter.embed_tokens(ids, mask), "clap_text")


def build(cls, content: dict, folder: Path, **options):
    """The adapter, loaded by its own code from a file that holds `content`."""
    path = save(content, folder / "checkpoint.pth")
    with Blank():
        adapter = frozen(cls(path, **options))
    path.unlink()  # several hundred megabytes
    return adapter


def save(content: dict, path: Path) -> Path:
    """Calls `torch.save` without checksums: they take longer than the writing, and none is read."""
    checks = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(checks)
    return path


class Blank(TorchFunctionMode):
    """Networks made within start as NaN wherever they would start as random numbers.

    What their file then leaves as it was shows in every output. It is also quicker: a large
    network's random numbers, all to be overwritten, take seconds.
    """

    RANDOM = {"kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"}  # others call these

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.fill_(math.nan)
        return func(*args, **(kwargs or {}))


def tiny(cls, **options):
    """The adapter as the conformance tests build it: small and untrained, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return frozen(cls(**{**cls.TINY, **options}))


def frozen(adapter):
    """In evaluation mode, without gradients."""
    return adapter.eval().requires_grad_(False)


def embedded(adapter, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings, and the tokens that they were made of: one pass through a large network."""
    found, tokens = [], adapter.tokens

    def kept(*arguments):
        found.append(tokens(*arguments))
        return found[-1]

    with mock.patch.object(adapter, "tokens", kept):
        clips = adapter.embed(audio)
    (seen,) = found
    return clips, seen


def windows(audio: Tensor, starts, length: int) -> Tensor:
    """(B, S) -> (B, length): the windows that the original drew."""
    return torch.stack([row[s : s + length] for row, s in zip(audio, starts, strict=True)])


def noise(rows: int, samples: int, seed: int = 0) -> Tensor:
    """(rows, samples) of quiet noise, every row another."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(rows, samples, generator=generator)


def assert_steady(adapter) -> None:
    """Same clip, same embedding: twice to the byte, and alone as beside a louder one."""
    for seconds in (0.01, 2.5, 31):  # 31: longer than the input of any encoder
        audio = noise(2, int(seconds * adapter.sample_rate)) * torch.tensor([[1.0], [5.0]])
        features = adapter.features(audio)
        together = adapter.embed(audio)
        assert together.shape == (2, adapter.embed_dim)
        assert torch.isfinite(together).all()
        alone = adapter.embed(audio[:1])
        assert torch.equal(alone, adapter.embed(audio[:1]))
        assert standin.relative_error(alone, together[:1]) <= EXACT
        assert adapter.encode(features).shape[::2] == (2, adapter.embed_dim)


def published_htsat(prefix: str, mel) -> dict[str, Tensor]:
    """What a published file with an HTS-AT holds beside the encoder's own parameters."""
    layers = [(layer, block) for layer, depth in enumerate((2, 2, 6, 2)) for block in range(depth)]
    index = {f"layers.{i}.blocks.{j}.attn.relative_position_index": INDEX for i, j in layers}
    masks = {f"layers.{i}.blocks.{j}.attn_mask": torch.zeros(4, 64, 64) for i, j in layers}
    extras = {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(513, 1, 1024),
        "logmel_extractor.melW": mel.bands.clone(),
        "bn0.num_batches_tracked": torch.tensor(1000),
        "tscam_conv.weight": torch.zeros(527, 768, 2, 3),
        "tscam_conv.bias": torch.zeros(527),
        "head.weight": torch.zeros(527, 527),
        "head.bias": torch.zeros(527),
    }
    return {prefix + name: value for name, value in {**extras, **index, **masks}.items()}


def published_cnn14(prefix: str, mel) -> dict[str, Tensor]:
    """What a published file with a CNN14 holds beside the encoder's own parameters."""
    norms = ["bn0", *(f"conv_block{i}.bn{j}" for i in range(1, 7) for j in (1, 2))]
    bins = mel.n_fft // 2 + 1
    extras = {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(bins, 1, mel.n_fft),
        "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(bins, 1, mel.n_fft),
        "logmel_extractor.melW": mel.bands.clone(),
        "fc_audioset.weight": torch.zeros(527, 2048),
        "fc_audioset.bias": torch.zeros(527),
        **{f"{norm}.num_batches_tracked": torch.tensor(1000) for norm in norms},
    }
    return {prefix + name: value for name, value in extras.items()}


def _relative_positions() -> Tensor:
    """(64, 64): for tokens i and j of an 8 x 8 window, the row of the table of biases."""
    row, column = np.divmod(np.arange(64), 8)
    rows, columns = row[:, None] - row + 7, column[:, None] - column + 7
    return torch.from_numpy(15 * rows + columns)


INDEX = _relative_positions()


def write_tokenizer(folder: Path, kind: str) -> Path:
    """A tokenizer of single characters with as many tokens as bert, roberta, gpt2 or clip has.

    Of nllb and xlm-roberta, whose vocabularies are large, it has 1,100 tokens. CLIP's also knows
    the merges, 65 of the published 48,894 (MIT licence), that the captions of its golden cases
    need.
    """
    import string

    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        BertTokenizer,
        CLIPTokenizer,
        GPT2Tokenizer,
        NllbTokenizer,
        RobertaTokenizer,
        XLMRobertaTokenizer,
    )

    # In the order of GPT-2, where "!" comes first.
    characters = sorted(ByteLevel.alphabet(), key=lambda c: (ord(c) >= 256, ord(c)))
    letters = string.ascii_lowercase + string.digits + string.punctuation
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "bert":
        vocabulary = _fill([*special, *letters, *(f"##{c}" for c in letters)], 30522)
        tokenizer = BertTokenizer(vocab=vocabulary)
    elif kind == "roberta":
        vocabulary = _fill(["<s>", "<pad>", "</s>", "<unk>", *characters, "<mask>"], 50265)
        tokenizer = RobertaTokenizer(vocab=vocabulary, merges=[])
    elif kind == "nllb":  # and its 202 languages and the mask
        vocabulary = _fill(["<s>", "<pad>", "</s>", "<unk>", "▁", *letters], 1100 - 203)
        tokenizer = NllbTokenizer(vocab=vocabulary)
    elif kind == "xlm-roberta":
        vocabulary = _fill(["<s>", "<pad>", "</s>", "<unk>", "▁", *letters], 1099)
        tokenizer = XLMRobertaTokenizer(vocab=[(t, -float(i)) for t, i in vocabulary.items()])
    elif kind == "clip":
        tokenizer = CLIPTokenizer(*_clip_vocabulary(characters))
    else:
        vocabulary = _fill([*characters, "<|endoftext|>"], 50257)
        tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder)
    return folder


def _clip_vocabulary(characters: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's 49,408 tokens, most of them unknown here, and the merges at their published ranks."""
    known = json.loads((standin.GOLDEN / "clip_merges.json").read_text())  # rank: "left right"
    merges = {int(rank): tuple(pair.split()) for rank, pair in known.items()}
    tokens = list(_fill([*characters, *(f"{c}</w>" for c in characters)], 49406))
    for rank, pair in merges.items():
        tokens[512 + rank] = "".join(pair)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, list(merges.values())


def _fill(tokens: list[str], size: int) -> dict[str, int]:
    tokens = [*tokens, *(f"unused{i}" for i in range(size - len(tokens)))]
    return {token: i for i, token in enumerate(tokens)}


def assert_reads_captions(cls, kind: str, folder: Path) -> None:
    """Captions of any length, alone and together, give the same embeddings; order is kept."""
    adapter = tiny(cls, tokenizer=str(write_tokenizer(folder, kind)))
    captions = ["rain can be heard", "a dog", "someone talking, calmly and at great length " * 2]
    together = adapter.embed_text(captions)
    assert together.shape == (3, adapter.joint_dim)
    alone = torch.cat([adapter.embed_text([caption]) for caption in captions])
    assert standin.relative_error(alone, together) <= EXACT
    audio = noise(2, 4410)
    assert torch.equal(adapter.embed_joint(audio), adapter.embed(audio))
