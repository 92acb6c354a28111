"""AudioSet-20K: the balanced training set, several of 527 labels a clip (Gemmeke et al. 2017)."""

from evar.task import Task
from evar.tasks import _audioset as audioset

TASK = Task(
    name="as20k",
    version="1",
    title="AudioSet, balanced training set",
    read=audioset.reader(train=(audioset.BALANCED,), test=(audioset.EVAL,)),
    marker=audioset.EVAL,
    folders=("AudioSet", "audioset"),
    metadata="the segment lists",
    seconds=10.0,
    classes=527,
    kind="tagging",
    counts={"train": 22160, "test": 20371},
    silence=True,
    titles=audioset.titles,
    sources=audioset.sources(audioset.BALANCED, audioset.EVAL),
    licence=audioset.LICENCE,
    homepage=audioset.HOMEPAGE,
    citation=audioset.CITATION,
    notes=("The authors of the paper had 21,940 and 20,178 clips.", *audioset.NOTES),
)
