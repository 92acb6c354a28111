"""Audio-text retrieval: captions find clips, clips find captions (docs/zeroshot.md).

A pure function of model and task. Cosine similarity in the joint space, all pairs of the test
side, computed in blocks.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.adapter import Adapter
from evar.data import indexing
from evar.data.manifest import Manifest
from evar.data.prompts import digest
from evar.embedding import embeddings
from evar.errors import UserError
from evar.protocols.zeroshot import normalised
from evar.scoring import ranking, statistics, summary
from evar.scoring.summary import Evaluation

NAME = "retrieval"
VERSION = 2  # raise it when scores change
DIRECTIONS = ("text_to_audio", "audio_to_text")
HEADLINE = "mAP@10"  # of text to audio, what DCASE's challenge of this task ranks by
_BLOCK = 2**24  # similarities in memory at a time


def rank_in_blocks(
    queries: NDArray, gallery: NDArray, query_ids: NDArray, gallery_ids: NDArray
) -> dict[str, NDArray]:
    """`ranking.per_query` of unit vectors (Q, E) and (G, E), a block of queries at a time.

    Equal vectors of the gallery tie exactly: a matrix product may round them differently.
    """
    size = max(1, _BLOCK // len(gallery))
    first, where = _distinct(gallery)
    columns = gallery[first].T
    parts = [
        ranking.per_query(
            (queries[at : at + size] @ columns)[:, where], query_ids[at : at + size], gallery_ids
        )
        for at in range(0, len(queries), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _distinct(rows: NDArray) -> tuple[NDArray, NDArray]:
    """The numbers of the first rows of their kind in (N, E), and for each row (N,) which it is."""
    numbers: dict[bytes, int] = {}
    first, where = [], np.empty(len(rows), np.int64)
    for i, row in enumerate(np.ascontiguousarray(rows)):
        mark = hashlib.blake2b(row.data, digest_size=16).digest()
        where[i] = numbers.setdefault(mark, len(numbers))
        if where[i] == len(first):
            first.append(i)
    return np.array(first), where


def evaluate(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    skip_bad: bool = False,
    clip_progress: Callable | None = None,
    caption_progress: Callable | None = None,
) -> Evaluation:
    """Rank all test clips for each caption and all captions for each clip.

    `manifest`: that of the test side (`Manifest.test_side`), so that no other clip counts. A clip
    with several captions is found by any of them, and finds the best-ranked of its own. Raises
    UserError for data that cannot be scored honestly and for adapters that read no text or give
    anything but finite embeddings.
    """
    embeddings.require_joint_space(adapter)
    started = perf_counter()
    side = manifest.good[manifest.good.split == "test"]
    audio, bad = embeddings.embed_whole(
        adapter,
        identity,
        manifest,
        side.index,
        cache=cache,
        device=device,
        precision=precision,
        batch_size=batch_size,
        skip_bad=skip_bad,
        progress=clip_progress,
    )
    kept = ~side.index.isin(list(bad))
    files = side.file[kept].to_numpy()
    if len(files) < 2:
        raise UserError(f"{manifest.task.name}: a single test clip: there is nothing to rank")
    captions = captions_of_test(manifest, files)
    of_text = adapter.text_identity()
    where, distinct = pd.factorize(captions.caption.to_numpy(), sort=True)
    text = embeddings.embed_captions(
        adapter,
        identity | of_text,
        distinct.tolist(),
        cache=cache,
        device=device,
        progress=caption_progress,
    )
    audio, text = normalised(audio[kept]), normalised(text)[where]
    clip_ids = np.arange(len(files))
    caption_ids = captions.file.map(dict(zip(files, clip_ids, strict=True))).to_numpy()
    found = {
        "text_to_audio": rank_in_blocks(text, audio, caption_ids, clip_ids),
        "audio_to_text": rank_in_blocks(audio, text, clip_ids, caption_ids),
    }
    used = manifest.without(bad)
    record = {
        "protocol": NAME,
        "protocol_version": VERSION,
        "settings": {
            "captions": digest(sorted(captions.itertuples(index=False, name=None))),
            "reading": "whole clips",
            "precision": precision,
            "text": of_text,
        },
        "seeds": [],
        "clips": summary.count_clips(used) | {"captions": len(captions)},
        **_summarise(found, {"text_to_audio": caption_ids, "audio_to_text": clip_ids}),
        "seconds": {"embed": round(perf_counter() - started, 2)},
    }
    tables = [
        pd.DataFrame({"direction": "text_to_audio", "clip": captions.file})
        .assign(caption=captions.caption)
        .assign(**found["text_to_audio"]),
        pd.DataFrame({"direction": "audio_to_text", "clip": files}).assign(
            **found["audio_to_text"]
        ),
    ]
    return Evaluation(record, pd.concat(tables, ignore_index=True))


def captions_of_test(manifest: Manifest, files: NDArray) -> pd.DataFrame:
    """The captions (file, caption) of the test clips in use, in the data set's order.

    Raises UserError for a clip in use that has none.
    """
    task = manifest.task
    table = indexing.own_table(task, task.read_captions, manifest.root)
    table = table[(table.split == "test") & table.file.isin(files)]
    without = set(files) - set(table.file)
    empty = table.caption.fillna("").str.strip() == ""
    without |= set(table.file[empty])
    if without:
        where = task.metadata or task.name
        raise UserError(f"{where}: {min(without)} has no caption. Correct the table of captions.")
    return table[["file", "caption"]].reset_index(drop=True)


def _summarise(found: dict[str, dict], clip_of: dict[str, NDArray]) -> dict:
    """Metrics of both directions, each with its interval over clips (the gallery is kept)."""
    shown, intervals = {}, {}
    for direction in DIRECTIONS:
        names = list(ranking.summary(found[direction]))

        def statistic(weights, of=found[direction]):
            return list(ranking.summary(of, weights).values())

        low, high = statistics.bootstrap_clusters(
            clip_of[direction], statistic, np.random.default_rng(summary.BOOTSTRAP_SEED)
        )
        shown[direction] = ranking.summary(found[direction])
        intervals[direction] = {
            name: [float(a), float(b)] for name, a, b in zip(names, low, high, strict=True)
        }
    main = shown["text_to_audio"][HEADLINE]
    score = {
        "metric": f"text-to-audio {HEADLINE}",
        **asdict(statistics.over_runs([main])),
        "bootstrap95": intervals["text_to_audio"][HEADLINE],
        "bootstrap_unit": "clip",
    }
    return {"score": score, "metrics": shown, "bootstrap95": intervals}
