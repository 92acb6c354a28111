"""NSynth: velocity (Engel et al. 2017)."""

from evar.task import Task
from evar.tasks import _nsynth

TASK = Task(
    name="nsvelocity",
    version="1",
    title="NSynth: velocity",
    read=_nsynth.reader("velocity"),
    marker="nsynth-test/examples.json",
    folders=("nsynth", "NSynth"),
    metadata="examples.json of each split",
    seconds=4.0,
    classes=5,
    counts=_nsynth.COUNTS,
    group="instrument",
    groups_cross=("valid", "test"),  # no instrument of training is in another split
    silence=True,
    captions="a musical note played with velocity {label}",
    sources=_nsynth.sources(),
    licence=_nsynth.LICENCE,
    homepage=_nsynth.HOMEPAGE,
    citation=_nsynth.CITATION,
    notes=(
        "Not part of the paper. The five velocities are 25, 50, 75, 100 and 127.",
        "The caption rule is this project's own.",
        "All notes are kept: byte-identical copies, pitches outside 21 to 108, and the 71 notes of "
        "brass_acoustic_046 in the test set that are noise.",
    ),
)
