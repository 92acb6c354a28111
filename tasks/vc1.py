"""VoxCeleb1: who of 1,251 celebrities is speaking (Nagrani et al. 2017)."""

from pathlib import Path

from evar.task import Source, Task

_SIDES = {"1": "train", "2": "valid", "3": "test"}
_HOW = (
    "Register at https://mm.kaist.ac.kr/datasets/voxceleb/ (the direct links ask for a password), "
    "download this file, join the four dev parts with `cat`, and unpack both zips into one folder, "
    "so that it holds wav/id10001/..."
)
_PARTS = {  # sha256 and md5
    "vox1_dev_wav_partaa": (
        "21ec6ca843659ebc2fdbe04b530baa4f191ad4b0971912672d92c158f32226a0",
        "e395d020928bc15670b570a21695ed96",
    ),
    "vox1_dev_wav_partab": (
        "311d21e0c8cbf33573a4fce6c80e5a279d80736274b381c394319fc557159a04",
        "bbfaaccefab65d82b21903e81a8a8020",
    ),
    "vox1_dev_wav_partac": (
        "92b64465f2b2a3dc0e4196ae8dd6828cbe9ddd1f089419a11e4cbfe2e1750df0",
        "017d579a2a96a077f40042ec33e51512",
    ),
    "vox1_dev_wav_partad": (
        "00e6190c770b27f27d2a3dd26ee15596b17066b715ac111906861a7d09a211a5",
        "7bb1e9f70fddc7a678fa998ea8b3ba19",
    ),
    "vox1_test_wav.zip": (
        "8de57f347fe22b2c24526e9f444f689ecf5096fc2a92018cf420ff6b5b15eaea",
        "185fdc63c3c739954633d50379a3d102",
    ),
}


def read(root: Path):
    import pandas as pd

    split = pd.read_csv(
        root / "iden_split.txt", sep=" ", header=None, names=["side", "file"], dtype=str
    )
    speaker = split.file.str.partition("/")[0]
    # Both zips unpacked into one wav/, or each into a folder of its own: dev/wav/, test/wav/.
    places = {
        path.name: path.parent.relative_to(root).as_posix()
        for pattern in ("*/wav/id1*", "wav/id1*")
        for path in root.glob(pattern)
    }
    return pd.DataFrame(
        {
            "file": speaker.map(places).fillna("wav") + "/" + split.file,
            "label": speaker,
            "split": split.side.map(_SIDES),
        }
    )


TASK = Task(
    name="vc1",
    version="1",
    title="VoxCeleb1: speaker identification",
    read=read,
    marker=("*dev*/wav", "wav"),
    folders=("VoxCeleb1", "voxceleb1", "vox1"),
    metadata="iden_split.txt",
    seconds=8.2,
    classes=1251,
    counts={"train": 138361, "valid": 6904, "test": 8251},
    silence=True,
    captions="the voice of speaker {label}",
    sources=(
        *(
            Source(path=name, sha256=sha256, md5=md5, kind="archive", how=_HOW)
            for name, (sha256, md5) in _PARTS.items()
        ),
        Source(
            path="iden_split.txt",
            url="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/iden_split.txt",
        ),
    ),
    licence="the speech stays its owners'; the annotations are CC BY 4.0",
    homepage="https://mm.kaist.ac.kr/datasets/voxceleb/",
    citation="""
        @inproceedings{nagrani2017voxceleb,
          author = {Nagrani, Arsha and Chung, Joon Son and Zisserman, Andrew},
          title = {{VoxCeleb}: A Large-Scale Speaker Identification Dataset},
          booktitle = {Interspeech},
          year = {2017},
          pages = {2616--2620},
        }
    """,
    notes=(
        "Both zips are needed: identification uses the 40 test speakers of verification too.",
        "All 1,251 speakers are in all three splits.",
        "Names are anonymous ids: the caption rule, this project's own, is for completeness.",
    ),
)
