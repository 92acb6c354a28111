"""AudioSet-2M: balanced and unbalanced training sets together (Gemmeke et al. 2017)."""

from evar.task import Task
from evar.tasks import _audioset as audioset

TASK = Task(
    name="as",
    version="1",
    title="AudioSet, balanced and unbalanced training sets",
    read=audioset.reader(
        train=(audioset.BALANCED, audioset.UNBALANCED),
        test=(audioset.EVAL,),
    ),
    marker=audioset.EVAL,
    folders=("AudioSet", "audioset"),
    metadata="the segment lists",
    seconds=10.0,
    classes=527,
    kind="tagging",
    counts={"train": 2063949, "test": 20371},
    silence=True,
    titles=audioset.titles,
    sources=audioset.sources(audioset.BALANCED, audioset.UNBALANCED, audioset.EVAL),
    licence=audioset.LICENCE,
    homepage=audioset.HOMEPAGE,
    citation=audioset.CITATION,
    notes=("The authors of the paper had 2,005,132 and 20,178 clips.", *audioset.NOTES),
)
