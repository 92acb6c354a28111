"""Audio-text retrieval: captions find clips, clips find captions (docs/zeroshot.md).

Cosine similarity in the joint space, all pairs of the test side, computed in blocks. Letters: Q
queries, G gallery, E joint space.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from evar.errors import UserError
from evar.protocol import Protocol

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation

WORST, NEAREST = 12, 3  # queries of each direction of which a run keeps what was nearest
HEADLINE = "mAP@10"  # of text to audio, what DCASE's challenge of this task ranks by


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings:
    """Retrieval has nothing to choose."""


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: RetrievalSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Ranks all test clips for each caption and all captions for each clip.

    A clip with several captions is found by any of them, and finds the best-ranked of its own.
    Raises UserError for data that cannot be scored honestly and for adapters that read no text or
    return anything but finite embeddings.
    """
    import numpy as np
    import pandas as pd

    from evar.data import prompts
    from evar.embedding import embeddings
    from evar.scoring import ranking, summary
    from evar.scoring.evaluation import Evaluation

    embeddings.require_joint_space(model.adapter)
    manifest = manifest.test_side()
    started = perf_counter()
    side = manifest.good[manifest.good.split == "test"]
    audio, bad, speed = embeddings.embed_whole(model, manifest, side.index, runtime)
    kept = ~side.index.isin(list(bad))
    files = side.file[kept].to_numpy()
    if len(files) < 2:
        raise UserError(f"{manifest.task.name}: a single test clip: there is nothing to rank")
    captions = captions_of_test(manifest, files)
    where, distinct = pd.factorize(captions.caption.to_numpy(), sort=True)
    text = embeddings.embed_captions(model, distinct.tolist(), runtime)
    audio, text = ranking.normalised(audio[kept]), ranking.normalised(text)[where]
    clip_ids = np.arange(len(files))
    caption_ids = captions.file.map(dict(zip(files, clip_ids, strict=True))).to_numpy()
    found = {
        "text_to_audio": ranking.rank_in_blocks(text, audio, caption_ids, clip_ids),
        "audio_to_text": ranking.rank_in_blocks(audio, text, clip_ids, caption_ids),
    }
    used = manifest.without(bad)
    tables = [
        pd.DataFrame({"direction": "text_to_audio", "clip": captions.file})
        .assign(caption=captions.caption)
        .assign(**found["text_to_audio"]),
        pd.DataFrame({"direction": "audio_to_text", "clip": files}).assign(
            **found["audio_to_text"]
        ),
    ]
    of_clip = captions.drop_duplicates("file").set_index("file").loc[files].reset_index()
    near = [
        _nearest_of_worst(tables[0], text, audio, of_clip),
        _nearest_of_worst(tables[1], audio, text, captions),
    ]
    score, metrics, intervals = summary.of_queries(
        found,
        {"text_to_audio": caption_ids, "audio_to_text": clip_ids},
        headline=("text_to_audio", HEADLINE),
    )
    return Evaluation(
        score=score,
        metrics=metrics,
        seeds=(),
        extra={"intervals": intervals},
        settings={
            "captions": prompts.digest(sorted(captions.itertuples(index=False, name=None))),
            "reading": "whole clips",
            **runtime.treatment,
            "text": model.adapter.text_identity(),
        },
        clips=summary.count_clips(used) | {"captions": len(captions)},
        seconds={"embed": round(perf_counter() - started, 2)},
        clips_per_second=speed,
        predictions=pd.concat(tables, ignore_index=True),
        tables={"nearest": pd.concat(near, ignore_index=True)},
    )


def _nearest_of_worst(
    queries: "pd.DataFrame", of_queries: "NDArray", of_gallery: "NDArray", gallery: "pd.DataFrame"
) -> "pd.DataFrame":
    """Returns what is nearest to the queries that were answered last, the worst first.

    of_queries (Q, E), of_gallery (G, E): unit vectors. gallery: file and caption of each item, of a
    clip its first caption.
    """
    import pandas as pd

    from evar.scoring import ranking

    worst = queries.sort_values(["rank", "clip"], ascending=[False, True], kind="stable")
    rows = worst.index[:WORST]
    items, similarity = ranking.nearest(of_queries[rows], of_gallery, NEAREST)
    found = [
        {
            "direction": queries.direction[row],
            "clip": queries["clip"][row],
            "caption": queries.caption[row] if "caption" in queries else "",
            "place": place,
            "near_clip": gallery.file.iloc[item],
            "near_caption": gallery.caption.iloc[item],
            "similarity": float(value),
        }
        for row, of_row, values in zip(rows, items, similarity, strict=True)
        for place, (item, value) in enumerate(zip(of_row, values, strict=True), start=1)
    ]
    return pd.DataFrame(found)


def captions_of_test(manifest: "Manifest", files: "NDArray") -> "pd.DataFrame":
    """Returns the captions (file, caption) of the test clips in use, in the data set's order.

    Raises UserError for a clip in use that has none.
    """
    from evar.data import indexing

    task = manifest.task
    assert task.read_captions is not None  # as for every task of a kind with captions
    table = indexing.own_table(task, task.read_captions, manifest.root)
    table = table[(table.split == "test") & table.file.isin(files)]
    without = set(files) - set(table.file)
    empty = table.caption.fillna("").str.strip() == ""
    without |= set(table.file[empty])
    if without:
        where = task.metadata or task.name
        raise UserError(f"{where}: {min(without)} has no caption. Correct the table of captions.")
    return table[["file", "caption"]].reset_index(drop=True)


PROTOCOL = Protocol(
    name="retrieval",
    version=2,
    title="Find clips by their captions, and captions by their clips.",
    settings=RetrievalSettings,
    evaluate=evaluate,
    embeds="joint",
    needs=frozenset({"text"}),
    kinds=frozenset({"retrieval"}),
    trains=False,
)
