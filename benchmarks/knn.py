"""Memory and time of the nearest neighbours: `python benchmarks/knn.py [--gallery=300000]`.

--gallery=300000  --queries=16384  --dim=64  --k=50

Prints how much memory a search and its votes take beyond the embeddings, which does not depend on
the numbers of clips, and the CPU time. The complete similarity matrix would have gallery x queries
x 4 bytes.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 50


def main(*, gallery: int = 300_000, queries: int = 16_384, dim: int = 64, k: int = 50) -> None:
    """Searches random embeddings, and prints what it took."""
    sys.path.insert(0, str(ROOT))
    from evar.probing import knn

    rng = np.random.default_rng(0)
    x = rng.standard_normal((gallery + queries, dim), dtype=np.float32)
    labels = rng.integers(0, CLASSES, gallery)
    knn.neighbours(x, np.arange(k), np.arange(k), k)  # what libraries need once
    before, started = _peak_mb(), time.process_time()
    found = knn.neighbours(x, np.arange(gallery), np.arange(gallery, gallery + queries), k)
    knn.votes(found, labels, k, CLASSES)
    print(
        f"{gallery:,} x {queries:,} x {dim}: {_peak_mb() - before:.0f} MB beyond the embeddings "
        f"(the matrix: {4e-6 * gallery * queries:,.0f} MB), "
        f"{time.process_time() - started:.1f} CPU s"
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    import fire

    fire.Fire(main)
