"""Ranks of large retrieval sets: seconds and peak memory, blocks of queries at a time.

python benchmarks/retrieval.py [--clips=10000] [--captions=50000] [--dim=512]
"""

import resource
from time import perf_counter

import fire
import numpy as np

from evar.protocols.retrieval import rank_in_blocks
from evar.protocols.zeroshot import normalised


def main(clips: int = 10_000, captions: int = 50_000, dim: int = 512) -> None:
    rng = np.random.default_rng(0)
    audio = normalised(rng.standard_normal((clips, dim), dtype=np.float32))
    text = normalised(rng.standard_normal((captions, dim), dtype=np.float32))
    of_clip, of_caption = np.arange(clips), np.arange(captions) % clips
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, arguments in {
        "text to audio": (text, audio, of_caption, of_clip),
        "audio to text": (audio, text, of_clip, of_caption),
    }.items():
        started = perf_counter()
        rank_in_blocks(*arguments)
        print(f"{name}: {perf_counter() - started:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = 4e-6 * clips * captions
    print(f"memory: {(peak - before) / 1e3:.0f} MB more (the whole matrix has {whole:,.0f} MB)")


if __name__ == "__main__":
    fire.Fire(main)
