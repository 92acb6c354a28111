"""Makes a table of clips from a folder of recordings: labels, groups, a split, and a report."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import pandas as pd

from evar.data.packed import listing as packed
from evar.data.tables import folder as folders
from evar.data.tables import survey as surveys
from evar.data.tables.advice import expectation
from evar.data.tables.annotations import Wishes, read_annotations
from evar.data.tables.reading import splits
from evar.data.tables.recordings import Recordings
from evar.data.tables.splitting import make_split
from evar.data.tables.survey import Sound
from evar.errors import UserError

_ORDER = ("file", "start", "end", "label", "group", "split", "fold")
_OVER = 0.1  # seconds that an annotation may end after its recording: programs round
GROUPS = ("guess", "folder")


@dataclass(frozen=True)
class Choices:
    """What a person chose: the options of `evar table`."""

    labels: str | None = None
    wishes: Wishes = field(default_factory=Wishes)
    pattern: str | None = None
    groups: str | None = None
    without: Collection[str] = ()
    folds: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Made:
    """A table of clips (files relative to the folder) and the lines of its report."""

    frame: pd.DataFrame
    report: tuple[str, ...]


class _Left:
    """Counts what is left out, by reason, with one example each."""

    def __init__(self):
        self.counts: Counter = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, count: int, example: str = "") -> None:
        if count:
            self.counts[reason] += count
            self.first.setdefault(reason, example)

    def lines(self) -> list[str]:
        return [
            f"left out: {reason}: {count:,}{f' ({self.first[reason]})' * bool(self.first[reason])}"
            for reason, count in self.counts.items()
        ]


def make_table(folder, endings: Collection[str], choices: Choices, progress=None) -> Made:
    """Returns the table of a folder's clips.

    endings: of sound files. progress: wraps the files that are decoded, as tqdm does.
    Raises UserError for what is ambiguous, and for a folder of which no table can be made.
    """
    folder, left = Path(folder), _Left()
    listing = folders.list_sounds(folder, endings)
    left.add("hidden files or folders", listing.hidden)
    notes: tuple[str, ...] = ()
    read: set[Path] = set()
    if listing.shards:
        frame = _packed(folder, listing.shards, choices)
    else:
        frame, notes, read = _labelled(folder, listing.files, choices, left)
    others = [name for name in listing.others if (folder / name).resolve() not in read]
    left.add("other files", len(others), folders.by_ending(others))
    frame = _without(frame, choices.without, left)
    names = list(dict.fromkeys(frame.file))
    sounds = surveys.survey(folder, names, progress)
    frame = _usable(frame, sounds, left)
    frame, sounds = _grouped(frame, sounds, choices, left)
    frame, split = _split(frame, choices)
    columns = [column for column in _ORDER if column in frame]
    frame = frame[columns].sort_values([c for c in ("file", "start") if c in frame], kind="stable")
    report = [
        *_facts(frame, sounds),
        *left.lines(),
        *(f"understood: {note}" for note in notes),
        *_about_groups(frame, choices, named=not listing.shards),
        split,
    ]
    return Made(frame.reset_index(drop=True), tuple(report))


def _labelled(folder: Path, names: list[str], choices: Choices, left: _Left):
    """The clips with their labels, and what was understood of which files of annotations."""
    by_name = None
    notes: tuple[str, ...] = ()
    used: set[Path] = set()
    if choices.pattern:
        by_name, others = folders.by_pattern(names, choices.pattern)
        left.add("sounds that the pattern does not fit", len(others), *others[:1])
    if choices.labels is not None:
        read = read_annotations(choices.labels, Recordings(folder, names), choices.wishes)
        left.add("intervals without a label", read.unlabelled)
        left.add("labels without a length", read.points)
        left.add("files that are no annotations", len(read.strange), *read.strange[:1])
        silent = sorted(set(names) - set(read.frame.file))
        left.add("recordings without annotations", len(silent), *silent[:1])
        frame, notes = _joined(read.frame), read.notes
        used = {path.resolve() for path in read.files}
        extra = None if by_name is None else by_name.drop(columns="label", errors="ignore")
        frame = frame if extra is None else frame.merge(extra, on="file")
    elif by_name is not None and "label" in by_name:
        frame = by_name
    else:
        frame, loose = folders.by_subfolder(names, folder)
        left.add("sounds in no subfolder", len(loose), *loose[:1])
        frame = frame if by_name is None else frame.merge(by_name, on="file")
    if frame.empty:
        raise UserError(f"{folder}: no clip has a label")
    return frame, notes, used


def _packed(folder: Path, shards: Sequence[str], choices: Choices) -> pd.DataFrame:
    """The clips in shards (tar, Parquet), with the labels that stand there."""
    for option, given in (("labels", choices.labels), ("pattern", choices.pattern)):
        if given is not None:
            raise UserError(
                f"--{option} is for a folder of sound files, and the sounds of {folder} lie in "
                f"{shards[0]}; --column=NAME says what holds their labels"
            )
    return packed.table(folder, columns=choices.wishes.columns)


def _joined(frame: pd.DataFrame) -> pd.DataFrame:
    """Brings several labels of one interval, or of one file, into one row: "a,b"."""
    same = [column for column in ("file", "start", "end") if column in frame]
    others = {c: "first" for c in frame.columns if c not in (*same, "label")}
    how: dict = {"label": _several, **others}
    return frame.groupby(same, sort=False, as_index=False, dropna=False).agg(how)


def _several(labels: pd.Series) -> str:
    return ",".join(dict.fromkeys(labels))


def _without(frame: pd.DataFrame, labels: Collection[str], left: _Left) -> pd.DataFrame:
    known = {part for label in frame.label for part in label.split(",")}
    for label in labels:
        if label not in known:
            raise UserError(f"--without={label}: no clip has that label")
    kept = ~frame.label.map(lambda label: bool({*label.split(",")} & {*labels}))
    left.add("clips of classes that you left out", int((~kept).sum()), ", ".join(labels))
    return frame[kept]


def _usable(frame: pd.DataFrame, sounds: Mapping[str, Sound], left: _Left) -> pd.DataFrame:
    """Leaves out what cannot be heard: unreadable and silent files, times after a file's end."""
    bad = [name for name, sound in sounds.items() if sound.problem]
    left.add("unreadable", len(bad), *(f"{name}: {sounds[name].problem}" for name in bad[:1]))
    mute = [name for name, sound in sounds.items() if sound.silent]
    left.add("silent, every sample is zero", len(mute), *mute[:1])
    frame = frame[~frame.file.isin([*bad, *mute])].copy()
    if "start" in frame and len(frame):
        ends = frame.file.map(lambda name: sounds[name].seconds)
        beyond = (frame.end > ends + _OVER) | (frame.start >= ends)
        first = [f"{row.file} at {row.start:g} s" for row in frame[beyond].head(1).itertuples()]
        left.add("segments that end after their recording", int(beyond.sum()), *first)
        frame["end"] = frame.end.clip(upper=ends)
        frame = frame[~beyond]
    if frame.empty:
        raise UserError("no clip can be used: " + "; ".join(left.lines()))
    return frame


def _grouped(frame: pd.DataFrame, sounds: Mapping[str, Sound], choices: Choices, left: _Left):
    """The clips with groups where there are any, and without copies of others."""
    first: dict[str, str] = {}
    copies = {
        name: first[digest]
        for name in dict.fromkeys(frame.file)
        if first.setdefault(digest := sounds[name].digest, name) != name
    }
    if copies and "start" not in frame:
        label = dict(zip(frame.file, frame.label, strict=True))
        for name, same in copies.items():
            if label[name] != label[same]:
                raise UserError(
                    f"{same} ({label[same]}) and {name} ({label[name]}) are the same sound with "
                    "different labels. Remove one of them."
                )
        some = next(f"{name} is {same}" for name, same in copies.items())
        left.add("copies: the same sound as another file", len(copies), some)
        frame, copies = frame[~frame.file.isin([*copies])], {}
    sounds = {name: sounds[name] for name in dict.fromkeys(frame.file)}
    if "group" in frame and (frame.group != "").any():
        return frame, sounds
    if choices.groups == "guess":
        groups = folders.guessed_groups(frame.file.tolist())
        if not 1 < len(set(groups)) < len(set(frame.file)):
            raise UserError(
                f"--groups=guess: names such as {PurePosixPath(frame.file.iloc[0]).name} show no "
                "groups; say how they are made, as in --pattern='*_{group}_*'"
            )
        return frame.assign(group=groups), sounds
    if choices.groups == "folder":
        return frame.assign(group=[str(PurePosixPath(f).parent) for f in frame.file]), sounds
    if choices.groups:
        raise UserError(f"--groups={choices.groups}: {' or '.join(GROUPS)}")
    if "start" in frame:  # one recording is one group, and so are two files of the same sound
        return frame.assign(group=frame.file.replace(copies)), sounds
    return frame.drop(columns="group", errors="ignore"), sounds


def _split(frame: pd.DataFrame, choices: Choices) -> tuple[pd.DataFrame, str]:
    own = [column for column in ("split", "fold") if column in frame]
    if len(own) > 1 and choices.folds is None:
        raise UserError(
            "there are both splits and folds: remove one, or say --folds=K for new ones"
        )
    if own and choices.folds is None:
        if "split" in frame:
            frame = frame.assign(split=splits(frame.split.tolist())[0])
        counts = frame[own[0]].value_counts().sort_index()
        there = ", ".join(f"{side}: {count:,}" for side, count in counts.items())
        return frame, f"split: that of the annotations or names ({there})"
    frame = frame.drop(columns=own)
    given = frame.group.tolist() if "group" in frame else [""] * len(frame)
    groups = [group or f"\0{i}" for i, group in enumerate(given)]  # a blank one is of its own
    split = make_split(frame.label.tolist(), groups, seed=choices.seed, folds=choices.folds)
    frame = frame.assign(**{split.column: split.sides})
    counts = frame[split.column].value_counts()
    order = sorted(counts.index) if split.column == "fold" else ["train", "valid", "test"]
    there = ", ".join(f"{side}: {counts[side]:,}" for side in order)
    what = f"{len(order)} folds" if split.column == "fold" else "train, valid and test"
    apart = ", no group on two sides" * ("group" in frame)
    tested = frame if split.column == "fold" else frame[frame.split == "test"]
    number = tested.group.nunique() if "group" in tested else None
    line = f"split: {what} ({split.reason}): {there}; stratified{apart}; seed {choices.seed}"
    return frame, f"{line}\nadvice: {expectation(len(tested), number)}"


def _facts(frame: pd.DataFrame, sounds: Mapping[str, Sound]) -> list[str]:
    """Classes, hours, rates, lengths, clipping."""
    segments = "start" in frame
    whole = [sound.seconds for sound in sounds.values()]
    lengths = frame.file.map(lambda name: sounds[name].seconds)
    if segments:
        lengths = (frame.end - frame.start).fillna(lengths)
    classes = {part for label in frame.label for part in label.split(",")}
    of = f" in {len(sounds):,} recordings of {_hours(sum(whole))}" if segments else ""
    several = " (clips with several labels: scored by mAP)" * bool(
        frame.label.str.contains(",").any()
    )
    rates = Counter(sound.rate for sound in sounds.values()).most_common()
    lines = [
        f"{len(frame):,} clips of {len(classes):,} classes, {_hours(lengths.sum())}{of}{several}",
        "classes:",
        *(f"  {line}" for line in surveys.class_lines(frame.label.tolist())),
        "rates: " + ", ".join(f"{rate:,} Hz {count:,}" for rate, count in rates),
        f"lengths: {lengths.min():.2f} to {lengths.max():.2f} s, median {lengths.median():.2f} s",
        *(f"  {line}" for line in surveys.histogram(lengths.tolist())),
    ]
    clipped = [name for name, sound in sounds.items() if sound.clipped]
    if clipped:
        lines.append(f"clipping: {len(clipped):,} files have cut-off peaks ({clipped[0]})")
    unheard = sum(not sound.heard for sound in sounds.values())
    if unheard:
        lines.append(
            f"not listened to: {unheard:,} recordings of more than {surveys.LONG / 60:.0f} min "
            "(silence and clipping are not known)"
        )
    return lines


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _about_groups(frame: pd.DataFrame, choices: Choices, *, named: bool) -> list[str]:
    """named: whether files have names of their own, not numbers in shards."""
    if "group" in frame:
        counts = frame[frame.group != ""].group.value_counts()
        some = ", ".join(f"{name} {count:,}" for name, count in counts.head(5).items())
        how = {"guess": "guessed from names: please check", "folder": "the folders of files"}
        said = how.get(choices.groups or "", "one a recording" if "start" in frame else "as given")
        more = ", ..." * (len(counts) > 5)
        return [f"groups: {len(counts):,} ({said}): {some}{more}"]
    guessed = Counter(folders.guessed_groups(frame.file.tolist()))
    group, count = guessed.most_common(1)[0]
    if named and 1 < len(guessed) < len(frame):
        return [
            f"groups: none. {count:,} names begin with {group!r}: where such clips are of one "
            "recording or speaker, --groups=guess keeps them on one side"
        ]
    return ["groups: none"]


def to_csv(frame: pd.DataFrame, below: str) -> str:
    """Returns the text of the CSV; `below`: the folder's path relative to the CSV's.

    Beyond ASCII it begins with a byte-order mark, without which Excel takes UTF-8 for Windows-1252.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    times = [c for c in ("start", "end") if c in frame]
    frame = frame.assign(file=[str(PurePosixPath(below, name)) for name in frame.file])
    for column in times:
        frame[column] = [
            f"{x:.6f}".rstrip("0").rstrip(".") if x == x else "" for x in frame[column]
        ]
    writer.writerows(frame.itertuples(index=False, name=None))
    mark = "" if text.getvalue().isascii() else "\ufeff"
    return mark + text.getvalue()


def wishes_of(column: str | None, tier: str | None, sheet: str | None) -> Wishes:
    """Returns the wishes of --column (a title, or NAME=TITLE pairs), --tier and --sheet."""
    columns: dict[str, str] = {}
    for part in column.split(",") if column else ():
        name, equals, title = part.partition("=")
        columns |= {name.strip(): title.strip()} if equals else {"label": part.strip()}
    return replace(Wishes(), columns=columns, tier=tier, sheet=sheet)
