"""`table FOLDER`: a table of clips, with a split, from a folder of recordings."""

import shlex
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError
from evar.progress import SILENT, Terminal

_TEXT = ("folder", "labels", "pattern", "out", "groups", "column", "tier", "sheet", "without")


@SetParseFns(**dict.fromkeys(_TEXT, str))
def table(
    folder,
    *,
    labels=None,
    pattern=None,
    groups=None,
    out=None,
    column=None,
    tier=None,
    sheet=None,
    without=None,
    folds=None,
    seed=0,
    overwrite=False,
    quiet=False,
):
    """Make a table of clips from a folder of recordings: labels, a split, and a report.

    usage: table FOLDER [options]

    FOLDER            a folder of sounds; its subfolders are the classes, unless an option says
                      where labels are

    --pattern=P       labels, groups or the split from names: '{label}_{group}_*.wav'; with "/" from
                      the path below FOLDER: '{split}/{label}/*'
    --labels=PATH     labels from a file, or from all files of a folder: selection tables of Raven,
                      labels of Audacity, TextGrids of Praat, JSON, or a table (.csv, .tsv, .xlsx)
                      with the columns file,label or file,start,end,label
    --column=TITLE    the column of --labels that has the labels; or NAME=TITLE,... for others:
                      file, start, end, group, split, fold
    --tier=NAME       the tier of TextGrids
    --sheet=NAME      the sheet of a workbook
    --groups=guess    groups (recording, speaker) that stay on one side of the split, from names:
                      all but the last part that has a number; --groups=folder: a group per folder
    --without=A,B     leave classes out
    --folds=K         cross-validation; default: train, valid and test, or up to 5 folds for less
                      than 200 clips
    --seed=0          of the split
    --out=FILE        where the CSV goes, in a folder that holds FOLDER; default: FOLDER.csv
    --overwrite       replace a CSV that is there, and its split
    --quiet           no progress bar

    The split is written into the CSV and stays as it is from then on: add clips by hand, or make a
    new table with --overwrite.
    """
    from evar import cli, files, options
    from evar.data import own_sounds
    from evar.data.tables import making

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    out = _place(folder, out)
    if out.exists() and not overwrite:
        raise UserError(
            f"{out} is there, and its split is fixed. Use it as it is, name another file with "
            "--out, or replace it, split and all, with --overwrite"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"--seed must be a whole number of 0 or more, not {seed!r}")
    choices = making.Choices(
        labels=labels,
        wishes=making.wishes_of(column, tier, sheet),
        pattern=pattern,
        groups=groups,
        without=[name.strip() for name in without.split(",")] if without else (),
        folds=None if folds is None else options.whole("folds", folds),
        seed=seed,
    )
    progress = (SILENT if quiet else Terminal()).counter(f"listen to {folder.name}", "file")
    made = making.make_table(folder, own_sounds.SOUNDS, choices, progress)
    below = folder.resolve().relative_to(out.resolve().parent).as_posix()
    files.write_atomic(out, making.to_csv(made.frame, below))
    for line in made.report:
        print(line)
    following = cli.spelled("lineareval")
    print(f"written: {out}\nnext: {following} logmel {shlex.quote(str(out))}")


def _place(folder: Path, out: str | None) -> Path:
    """The path of the CSV, in a folder above the recordings."""
    if out is None:
        folder = folder if folder.name not in ("", "..") else folder.resolve()
        return folder.parent / f"{folder.name}.csv"
    place = Path(out)
    if place.suffix.lower() != ".csv":
        raise UserError(f"--out={out}: the name of a CSV, such as sounds.csv")
    if not folder.resolve().is_relative_to(place.resolve().parent):
        raise UserError(
            f"--out={out}: a table names files below its own folder, and {folder} is not there; "
            f"choose {folder.resolve().parent} or a folder above it"
        )
    return place
