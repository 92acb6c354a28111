"""Speech Commands V2: 35 spoken words (Warden 2018)."""

from evar.task import Source, Task
from evar.tasks._speech_commands import CITATION, read

TASK = Task(
    name="spcv2",
    version="1",
    title="Speech Commands V2: spoken words",
    read=read,
    marker="testing_list.txt",
    folders=("speech_commands_v0.02*",),
    metadata="validation_list.txt and testing_list.txt",
    seconds=1.0,
    classes=35,
    counts={"train": 84843, "valid": 9981, "test": 11005},
    group="speaker",
    silence=True,
    captions='the spoken word "{label}"',
    sources=(
        Source(
            path="speech_commands_v0.02.tar.gz",
            url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            bytes=2428923189,
            sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            md5="6b74f3901214cb2c2934e98196829835",
            kind="archive",
        ),
    ),
    licence="CC BY 4.0",
    homepage="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    citation=CITATION,
    notes=(
        "The 4,890-clip, 12-class test archive that goes by the name v0.02 elsewhere is another "
        "task.",
        "The caption rule is this project's own: the paper has no zero-shot figure here.",
    ),
)
