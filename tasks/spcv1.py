"""Speech Commands V1: 30 spoken words (Warden 2017)."""

from evar.task import Source, Task
from evar.tasks._speech_commands import CITATION, read

TASK = Task(
    name="spcv1",
    version="1",
    title="Speech Commands V1: spoken words",
    read=read,
    marker="testing_list.txt",
    folders=("speech_commands_v0.01*", "SpeechCommands/speech_commands_v0.01*"),
    metadata="validation_list.txt and testing_list.txt",
    seconds=1.0,
    classes=30,
    counts={"train": 51088, "valid": 6798, "test": 6835},
    group="speaker",
    silence=True,
    captions='the spoken word "{label}"',
    sources=(
        Source(
            path="speech_commands_v0.01.tar.gz",
            url="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
            sha256="743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
            kind="archive",
        ),
    ),
    licence="CC BY 4.0",
    homepage="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
    citation=CITATION,
    notes=(
        "Not part of the paper.",
        "The caption rule is this project's own: the paper has no zero-shot figure here.",
    ),
)
