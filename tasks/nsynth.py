"""NSynth: instrument family (Engel et al. 2017)."""

from evar.task import Task
from evar.tasks import _nsynth

TASK = Task(
    name="nsynth",
    version="1",
    title="NSynth: instrument family",
    read=_nsynth.reader("instrument_family_str"),
    marker="nsynth-test/examples.json",
    folders=("NSynth",),
    metadata="examples.json of each split",
    seconds=4.0,
    classes=11,
    counts=_nsynth.COUNTS,
    group="instrument",
    groups_cross=("valid", "test"),  # no instrument of training is in another split
    silence=True,
    captions="the musical instrument sound of {label} can be heard",
    sources=_nsynth.sources(),
    licence=_nsynth.LICENCE,
    homepage=_nsynth.HOMEPAGE,
    citation=_nsynth.CITATION,
    notes=(
        '"synth_lead" is in training only: eleven classes are known, ten are tested.',
        "All notes are kept: byte-identical copies, pitches outside 21 to 108, and the 71 notes of "
        "brass_acoustic_046 in the test set that are noise.",
    ),
)
