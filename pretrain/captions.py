"""`python -m pretrain.captions`: the captions of every clip and their sentence embeddings.

They are one safetensors file: embeddings (M, E), float32, of distinct captions; rows (P,), the
embedding of each pair of clip and caption; offsets (N + 1,), where the pairs of each clip begin.
"""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from fire.decorators import SetParseFns

from evar import files
from evar.errors import UserError

from .shards import ShardSet

TEMPLATE = "The sound of {labels}"
_BATCH = 64
_YOUTUBE = re.compile(r"Y?([A-Za-z0-9_-]{11})(?:[_.]\d+(?:\.\d+)?)*")  # id, then optional times
_CAPTION = re.compile(r"captions?(?:_?\d+)?")  # names of caption columns
_FILE_COLUMNS = ("file", "file_name", "filename", "path")
_ID_COLUMNS = ("youtube_id", "ytid", "video_id", "audio_id", "id")


@dataclass(frozen=True, eq=False)
class CaptionTable:
    """Caption embeddings by clip, read from disk when they are drawn."""

    dim: int
    text_encoder: str
    identity: str
    _rows: np.ndarray
    _offsets: np.ndarray
    _embeddings: Any  # a slice of the file

    @classmethod
    def open(cls, path: Path, shards: ShardSet) -> "CaptionTable":
        """Opens a file of caption embeddings; UserError for another file, or other shards."""
        from safetensors import SafetensorError, safe_open

        remedy = "create it with `python -m pretrain.captions`"
        try:
            file = safe_open(path, "np")
            about = json.loads((file.metadata() or {})["evar"])
            own = about["shards"] == shards.identity
            identity = f"{about['captions']} {about['text_encoder_hash']}"
            rows, offsets = file.get_tensor("rows"), file.get_tensor("offsets")
            embeddings = file.get_slice("embeddings")
            dim = embeddings.get_shape()[1]
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; {remedy}") from error
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a file of caption embeddings; {remedy}") from error
        if not own:
            raise UserError(
                f"{path}: captions of other shards than {shards.folder}; {remedy} again"
            )
        return cls(dim, about["text_encoder"], identity, rows, offsets, embeddings)

    def draw(self, clip: int, rng: np.random.Generator) -> np.ndarray | None:
        """Returns the embedding (E,) of a random caption of the clip; None where it has none."""
        first, last = self._offsets[clip : clip + 2].tolist()
        if first == last:
            return None
        row = int(self._rows[first + int(rng.integers(last - first))])
        return self._embeddings[row : row + 1][0]


@SetParseFns(shards=str, out=str, text_encoder=str, captions=str, labels=str, template=str)
@SetParseFns(device=str)
def captions(
    shards,
    out,
    *,
    text_encoder,
    captions=None,
    labels=None,
    template=TEMPLATE,
    device="auto",
    quiet=False,
):
    """Compute the sentence embeddings of all captions of a set of shards.

    usage: python -m pretrain.captions SHARDS OUT.safetensors --text_encoder=DIR [options]

    SHARDS         a folder that `python -m pretrain.prepare` made
    OUT            the file to write; OUT.csv takes the text of the captions

    --text_encoder=DIR  a sentence encoder, a folder or a name on the hub: thenlper/gte-base is
                   the paper's
    --captions=CSV captions; several files with "," between them. A column `file` (or file_name,
                   path) or `youtube_id` (or ytid, video_id, audio_id, id) names the clip; `caption`
                   (or caption_1, caption_2, ...) has one. The layouts of AudioCaps, Auto-ACD and
                   ACalt4 are read so. Default: SHARDS/captions.csv, where there is one
    --labels=CSV   file,labels for clips without a caption; default: SHARDS/labels.csv
    --template="The sound of {labels}"  their caption
    --device=auto  cpu, cuda, cuda:1, ...
    --quiet        no progress bar
    """
    from evar.model_adapters._text import SentenceEncoder
    from evar.progress import SILENT, Terminal
    from evar.runtime import usable_device

    if "{labels}" not in template:
        raise UserError("--template has no {labels} in it")
    own = ShardSet.open(shards)
    of_clip, unmatched = _captions_of_clips(own, _paths(captions, own, "captions.csv"))
    labelled = _labels_of_clips(own, _paths(labels, own, "labels.csv"))
    for number, text in labelled.items():
        if not of_clip[number]:
            of_clip[number] = [template.replace("{labels}", text)]
    distinct = sorted({text for texts in of_clip for text in texts})
    if not distinct:
        raise UserError(f"{shards}: none of its clips has a caption or a label")
    encoder = SentenceEncoder(text_encoder)
    bar = (SILENT if quiet else Terminal()).counter("captions", "caption")
    embeddings = _embed(encoder, distinct, usable_device(device), bar)
    about = {
        "shards": own.identity,
        # Absolute: zero-shot evaluation may run in another folder.
        "text_encoder": str(Path(text_encoder).resolve())
        if Path(text_encoder).is_dir()
        else text_encoder,
        "text_encoder_hash": encoder.identity(),
        "captions": hashlib.sha256(json.dumps(of_clip).encode()).hexdigest()[:16],
    }
    _write(Path(out), own, of_clip, distinct, embeddings, about)
    counts = np.array([len(texts) for texts in of_clip])
    print(
        f"{len(own):,} clips, {len(distinct):,} distinct captions of {embeddings.shape[1]} numbers"
    )
    print(
        f"  {np.sum(counts == 0):,} clips without, {np.sum(counts == 1):,} with one, "
        f"{np.sum(counts > 1):,} with several ({len(labelled):,} have labels)"
    )
    if unmatched:
        print(f"  {unmatched:,} caption rows belong to no clip here, or to several")
    print(f"  written to {out}")


def _paths(given: str | None, shards: ShardSet, usual: str) -> list[Path]:
    if given:
        return [Path(name.strip()) for name in given.split(",")]
    path = shards.folder / usual
    return [path] if path.exists() else []


def _captions_of_clips(shards: ShardSet, paths: list[Path]) -> tuple[list[list[str]], int]:
    """Returns each clip's captions in file order, and how many rows matched no clip."""
    found: list[list[str]] = [[] for _ in shards.files]
    find, unmatched = _finder(shards), 0
    for path in paths:
        for row, (column, name) in _named_rows(path):
            texts = [v.strip() for k, v in row.items() if _CAPTION.fullmatch(k)]
            number = find(column, name)
            if number is None:
                unmatched += 1
            else:
                found[number] += [text for text in texts if text]
        if not any(map(_CAPTION.fullmatch, _head(path))):
            raise UserError(f"{path}: no column is called `caption` (or caption_1, caption_2, ...)")
    return [list(dict.fromkeys(texts)) for texts in found], unmatched  # each once


def _labels_of_clips(shards: ShardSet, paths: list[Path]) -> dict[int, str]:
    """Returns the labels of clips as text, "dog, rain", by clip number."""
    find, found = _finder(shards), {}
    for path in paths:
        if "labels" not in _head(path):
            raise UserError(f"{path}: needs a column `labels` (several with `;` between them)")
        for row, (column, name) in _named_rows(path):
            labels = [part.strip().replace("_", " ") for part in row["labels"].split(";")]
            text = ", ".join(label for label in labels if label)
            number = find(column, name)
            if text and number is not None:
                found[number] = text
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                yield {str(k).strip().lower(): v or "" for k, v in row.items() if k}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error


def _head(path: Path) -> list[str]:
    return list(next(_rows(path), {}))


def _named_rows(path: Path) -> Iterator[tuple[dict[str, str], tuple[str, str]]]:
    """Yields rows, each with the column that names its clip, and the name."""
    for row in _rows(path):
        column = next((c for c in (*_FILE_COLUMNS, *_ID_COLUMNS) if c in row), None)
        if column is None:
            columns = ", ".join((*_FILE_COLUMNS, *_ID_COLUMNS))
            raise UserError(f"{path}: no column names the clips (one of {columns})")
        yield row, (column, row[column].strip())


def _finder(shards: ShardSet):
    """Returns a function from column and name to the number of the clip, or None.

    A name that matches several clips (of one stem, or cut from one video) matches none.
    """
    by_file, by_stem, by_id = defaultdict(list), defaultdict(list), defaultdict(list)
    for number, name in enumerate(shards.files):
        stem = PurePosixPath(name).stem
        by_file[name].append(number)
        by_stem[stem].append(number)
        if video := _youtube_id(stem):
            by_id[video].append(number)

    def find(column: str, name: str) -> int | None:
        path = PurePosixPath(name.replace("\\", "/"))
        if column in _ID_COLUMNS:
            video = _youtube_id(name) or _youtube_id(path.stem) or ""
            found = by_stem.get(name) or by_id.get(video, [])
        else:
            found = by_file.get(str(path)) or by_stem.get(path.stem, [])
        return found[0] if len(found) == 1 else None

    return find


def _youtube_id(stem: str) -> str | None:
    """Returns the id in `Y-0049e1-1Rw_30000`, `-0049e1-1Rw_30`, `-0049e1-1Rw`; else None."""
    match = _YOUTUBE.fullmatch(stem)
    return match and match[1]


def _embed(encoder, texts: list[str], device: str, bar) -> np.ndarray:
    import torch

    order = sorted(
        range(len(texts)), key=lambda i: len(texts[i])
    )  # texts of similar length share a batch
    embeddings = np.empty((0, 0), np.float32)
    starts = range(0, len(texts), _BATCH)
    with torch.inference_mode():
        for at in bar(starts):
            chosen = order[at : at + _BATCH]
            out = encoder([texts[i] for i in chosen], device).float().cpu().numpy()
            if not embeddings.size:
                embeddings = np.empty((len(texts), out.shape[1]), np.float32)
            embeddings[chosen] = out
    if not np.isfinite(embeddings).all():
        raise UserError(f"{encoder.name}: returned embeddings that are not finite")
    return embeddings


def _write(out: Path, shards: ShardSet, of_clip, distinct, embeddings, about: dict) -> None:
    from safetensors.numpy import save

    number = {text: i for i, text in enumerate(distinct)}
    rows = [number[text] for texts in of_clip for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(texts) for texts in of_clip])])
    tensors = {
        "embeddings": embeddings,
        "rows": np.array(rows, np.int64),
        "offsets": offsets.astype(np.int64),
    }
    files.write_atomic(out, save(tensors, metadata={"evar": json.dumps(about)}))
    lines = ["file,caption"]
    for name, texts in zip(shards.files, of_clip, strict=True):
        lines += [f"{_cell(name)},{_cell(text)}" for text in texts]
    files.write_atomic(out.with_name(out.name + ".csv"), "\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


if __name__ == "__main__":
    from evar import cli

    cli.call("pretrain.captions", captions)
