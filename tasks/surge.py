"""Surge: which of 88 notes a synthesiser plays, in tones that training has not (Turian 2021)."""

import hashlib
import os
from pathlib import Path

from evar.errors import UserError
from evar.task import Source, Task

TONES = 2084
# SHA-256 of the sorted folder names, joined by newlines: the indices below count in that order.
NAMES = "aace3963ddc8279771775ab0d8a7aac74d6dce17aa13eba49b2fb258b7e9069f"
# fmt: off
VALID = (
    0, 8, 10, 17, 34, 48, 49, 56, 72, 82, 84, 97, 113, 121, 138, 168, 171, 177, 190, 191, 199,
    205, 230, 236, 249, 269, 306, 314, 315, 321, 323, 339, 345, 352, 364, 394, 399, 421, 430, 444,
    449, 457, 460, 463, 471, 479, 528, 530, 551, 564, 566, 569, 570, 586, 589, 594, 595, 631, 633,
    681, 691, 709, 720, 739, 748, 771, 772, 781, 791, 809, 818, 821, 825, 838, 853, 879, 885, 891,
    904, 912, 946, 953, 955, 957, 963, 965, 966, 994, 1016, 1029, 1032, 1041, 1044, 1052, 1094,
    1096, 1101, 1109, 1126, 1129, 1153, 1165, 1167, 1172, 1173, 1174, 1179, 1192, 1194, 1234,
    1242, 1259, 1262, 1266, 1274, 1276, 1278, 1294, 1316, 1329, 1330, 1338, 1357, 1378, 1381,
    1385, 1389, 1413, 1419, 1420, 1426, 1460, 1465, 1475, 1487, 1488, 1502, 1504, 1515, 1516,
    1541, 1542, 1552, 1574, 1581, 1584, 1586, 1589, 1591, 1596, 1607, 1625, 1633, 1661, 1663,
    1677, 1683, 1686, 1688, 1701, 1714, 1726, 1750, 1758, 1771, 1772, 1797, 1801, 1808, 1815,
    1826, 1829, 1836, 1838, 1871, 1888, 1906, 1908, 1909, 1911, 1914, 1921, 1931, 1937, 1986,
    1990, 2002, 2003, 2004, 2007, 2036, 2048, 2055, 2070, 2076,
)
TEST = (
    31, 33, 46, 54, 60, 62, 63, 66, 70, 78, 100, 104, 106, 108, 116, 141, 142, 144, 172, 173, 183,
    185, 200, 201, 204, 221, 222, 243, 267, 272, 273, 293, 305, 310, 322, 326, 337, 338, 341, 355,
    368, 369, 376, 398, 412, 413, 416, 417, 446, 495, 507, 519, 524, 529, 538, 545, 547, 580, 601,
    606, 609, 610, 634, 637, 647, 656, 673, 705, 731, 735, 741, 750, 751, 779, 788, 789, 807, 812,
    815, 822, 829, 833, 835, 840, 841, 856, 869, 886, 897, 902, 913, 916, 921, 930, 932, 952, 972,
    995, 1009, 1014, 1027, 1037, 1038, 1049, 1067, 1087, 1104, 1110, 1111, 1113, 1136, 1158, 1184,
    1196, 1201, 1208, 1211, 1213, 1229, 1248, 1256, 1264, 1282, 1286, 1297, 1298, 1307, 1314,
    1323, 1347, 1358, 1371, 1377, 1400, 1406, 1428, 1432, 1433, 1436, 1452, 1456, 1461, 1464,
    1469, 1472, 1482, 1494, 1522, 1525, 1527, 1536, 1544, 1545, 1557, 1562, 1575, 1579, 1580,
    1588, 1614, 1616, 1618, 1632, 1644, 1689, 1692, 1711, 1770, 1774, 1779, 1780, 1786, 1842,
    1863, 1874, 1880, 1893, 1896, 1897, 1901, 1910, 1920, 1936, 1958, 1962, 1969, 1976, 1978,
    1995, 2020, 2030, 2031, 2062, 2068, 2071, 2074, 2079,
)
# fmt: on


def splits(tones: list[str]) -> dict[str, str]:
    """Returns the split of every tone, by its place among the sorted names."""
    return {
        tone: "valid" if i in VALID else "test" if i in TEST else "train"
        for i, tone in enumerate(sorted(tones))
    }


def read(root: Path):
    import pandas as pd

    notes = {  # (folder of the tone, note): 183,392 of them
        (os.path.relpath(folder, root).replace(os.sep, "/"), name[: -len(".ogg")])
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".ogg")
    }
    places = {place for place, _ in notes}
    above = os.path.commonpath(places) if len(places) > 1 else ""
    tones = {os.path.relpath(place, above or "."): place for place in places}
    if hashlib.sha256("\n".join(sorted(tones)).encode()).hexdigest() != NAMES:
        raise UserError(
            f"{root}: its {len(tones)} folders with .ogg files are not the {TONES} published "
            "tones, whose order gives the split. Unpack the whole archive and give its folder."
        )
    pitches = {pitch for _, pitch in notes}
    if len(pitches) == TASK.classes:  # every tone has every note: one that lacks is named missing
        notes = {(place, pitch) for place in places for pitch in pitches}
    tone_of = {place: tone for tone, place in tones.items()}
    split = splits(list(tones))
    return pd.DataFrame(
        [
            (f"{place}/{pitch}.ogg", pitch, split[tone_of[place]], tone_of[place])
            for place, pitch in sorted(notes)
        ],
        columns=["file", "label", "split", "group"],
    )


TASK = Task(
    name="surge",
    version="1",
    title="Surge: pitch of synthesiser tones",
    read=read,
    marker=".",
    folders=("Surge*",),
    metadata="the folders of tones",
    seconds=4.0,
    classes=88,
    counts={"train": 148896, "valid": 17160, "test": 17336},
    group="tone",
    silence=True,
    captions="a synthesiser note of MIDI pitch {label}",
    sources=(
        Source(
            path="surge",
            kind="archive",
            how="Download the archive of https://zenodo.org/record/4677097 (its page has name and "
            "checksum) and unpack it, so that the folder holds {tone}/{note}.ogg",
        ),
    ),
    licence="see the Zenodo record",
    homepage="https://zenodo.org/record/4677097",
    citation="""
        @inproceedings{turian2021torchsynth,
          author = {Turian, Joseph and Shier, Jordie and Tzanetakis, George and McNally, Kirk and
            Henry, Max},
          title = {One Billion Audio Sounds from {GPU}-Enabled Modular Synthesis},
          booktitle = {International Conference on Digital Audio Effects (DAFx)},
          year = {2021},
        }
    """,
    notes=(
        "The split is by tone: 1,692 / 195 / 197 of them, 88 notes each.",
        "The files are decoded as published; the reference harness encoded them a second time.",
        "The caption rule is this project's own: the paper has no zero-shot figure here.",
    ),
)
