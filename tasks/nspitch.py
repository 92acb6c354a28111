"""NSynth: pitch (Engel et al. 2017)."""

from evar.task import Task
from evar.tasks import _nsynth

TASK = Task(
    name="nspitch",
    version="1",
    title="NSynth: pitch",
    read=_nsynth.reader("pitch"),
    marker="nsynth-test/examples.json",
    folders=("nsynth", "NSynth"),
    metadata="examples.json of each split",
    seconds=4.0,
    counts=_nsynth.COUNTS,
    group="instrument",
    groups_cross=("valid", "test"),  # no instrument of training is in another split
    silence=True,
    captions="a musical note of MIDI pitch {label}",
    sources=_nsynth.sources(),
    licence=_nsynth.LICENCE,
    homepage=_nsynth.HOMEPAGE,
    citation=_nsynth.CITATION,
    notes=(
        "Not part of the paper. Classes are all pitches of the training set.",
        "The caption rule is this project's own.",
        "All notes are kept: byte-identical copies, pitches outside 21 to 108, and the 71 notes of "
        "brass_acoustic_046 in the test set that are noise.",
    ),
)
