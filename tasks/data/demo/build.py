"""Rebuild the `demo` data set from the sounds in eight Debian packages.

Install the packages first (Debian 12 names)::

    apt-get install --no-install-recommends sonic-pi-samples minetest-data hydrogen-drumkits \
        asterisk-core-sounds-{en,es,fr,it,ru}-wav

then run ``python build.py [OUTPUT_FOLDER]``; the default is the folder of this file. Every choice
below is fixed, so the samples are the same each time; the FLAC bytes may differ between versions
of libsndfile. Needs numpy, soundfile and soxr.
"""

import argparse
import csv
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr

RATE = 16000  # Hz
MIN_SECONDS, MAX_SECONDS = 1.0, 2.0
TRIM_DB = 40  # drop what is this far below the loudest 20 ms, at both ends
TARGET_RMS, MAX_PEAK = 0.05, 0.95
SHARES = {"train": 0.60, "test": 0.25, "valid": 0.15}
SPEECH_CLIPS = 32  # per spoken class

SONIC_PI = Path("/usr/share/sonic-pi/samples")
KITS = Path("/usr/share/hydrogen/data/drumkits")
MINETEST = Path("/usr/share/games/minetest/games/minetest_game/mods/default/sounds")
PROMPTS = Path("/usr/share/asterisk/sounds")
SONIC_PI_COPYRIGHT = Path("/usr/share/doc/sonic-pi-samples/copyright")

VOICES = {
    "en": ("en_US_f_Allison", "CC BY-SA 3.0", "Allison Smith (http://www.theivrvoice.com)"),
    "es": ("es_MX_f_Allison", "CC BY-SA 3.0", "Allison Smith (http://www.theivrvoice.com)"),
    "fr": ("fr_CA_f_June", "CC BY-SA 3.0", "June Wallack (http://www.junewallack.com)"),
    "it": ("it_IT_m_Carlo", "CC BY 3.0", "Carlo Flora (http://www.carloflora.com)"),
    "ru": ("ru_RU_f_IvrvoiceRU", "CC BY 3.0", "Maxim Topal (http://www.ivrvoice.ru)"),
}
SENTENCES = [
    "conf-adminmenu",
    "conf-errormenu",
    "conf-getchannel",
    "conf-getconfno",
    "conf-getpin",
    "conf-invalid",
    "conf-invalidpin",
    "conf-kicked",
    "conf-leaderhasleft",
    "conf-lockednow",
    "conf-noempty",
    "conf-onlyperson",
    "conf-unlockednow",
    "conf-usermenu",
    "conf-waitforleader",
    "vm-calldiffnum",
    "vm-dialout",
    "vm-enter-num-to-call",
    "vm-forwardoptions",
    "vm-helpexit",
    "vm-instructions",
    "vm-isunavail",
    "vm-leavemsg",
    "vm-mailboxfull",
    "vm-nobodyavail",
    "vm-nobox",
    "vm-passchanged",
    "vm-reenterpassword",
    "vm-review",
    "vm-tempgreetactive",
    "vm-tooshort",
    "vm-whichbox",
]

# Drum kits of the package hydrogen-drumkits: folder, licence, author.
PACIFIC = (
    "BJA_Pacific",
    "CC BY-SA 3.0 US",
    "Luc Tanguay / Bransin James Anderson (http://www.bransinanderson.com/)",
)
RUMPF = (
    "rumpf_kit_z01_h2",
    "CC BY 3.0",
    "Emanuel Rumpf (https://sourceforge.net/projects/rumpf-kit/)",
)
AFRIQUE = ("circAfrique v4", "CC BY-SA 3.0", "Jim Harney (www.circAfrique.com)")

# Minetest Game sounds: label, recording, file names, licence, author (mods/default/README.txt).
# default_place_node_metal is left out: it is default_dug_metal again, at another level.
FREESOUND = "https://freesound.org/people/"
MITO = ("CC BY-SA 3.0", "Mito551")
MINETEST_SOUNDS = [
    ("footstep", "dirt", "default_dirt_footstep", *MITO),
    ("footstep", "grass", "default_grass_footstep", *MITO),
    ("footstep", "gravel_steps", "default_gravel_footstep", *MITO),
    ("footstep", "glass", "default_glass_footstep", *MITO),
    ("footstep", "wood", "default_wood_footstep", *MITO),
    (
        "footstep",
        "metal_steps",
        "default_metal_footstep",
        "CC0 1.0",
        f"mypantsfelldown ({FREESOUND}mypantsfelldown/sounds/398937/)",
    ),
    (
        "footstep",
        "snow",
        "default_snow_footstep",
        "CC0 1.0",
        f"Ryding ({FREESOUND}Ryding/sounds/94337/)",
    ),
    (
        "footstep",
        "hard",
        "default_hard_footstep",
        "CC BY 3.0",
        f"Erdie ({FREESOUND}Erdie/sounds/41579/)",
    ),
    (
        "footstep",
        "sand",
        "default_sand_footstep",
        "CC0 1.0",
        f"worthahep88 ({FREESOUND}worthahep88/sounds/319224/)",
    ),
    (
        "footstep",
        "ice_steps",
        "default_ice_footstep",
        "CC BY 3.0",
        f"InspectorJ ({FREESOUND}InspectorJ/sounds/416967/)",
    ),
    ("impact", "crumbly", "default_dig_crumbly", *MITO),
    ("impact", "immediate", "default_dig_dig_immediate", *MITO),
    ("impact", "by_hand", "default_dig_oddly_breakable_by_hand", *MITO),
    ("impact", "dug_node", "default_dug_node", *MITO),
    ("impact", "place_node", "default_place_node", *MITO),
    ("impact", "place_node", "default_place_node_hard", *MITO),
    (
        "impact",
        "glass_1",
        "default_break_glass.1",
        "CC BY 3.0",
        f"cmusounddesign ({FREESOUND}cmusounddesign/sounds/71947/)",
    ),
    (
        "impact",
        "glass_2",
        "default_break_glass.2",
        "CC BY 3.0",
        f"Tomlija ({FREESOUND}Tomlija/sounds/97669/)",
    ),
    (
        "impact",
        "glass_3",
        "default_break_glass.3",
        "CC BY 3.0",
        f"lsprice ({FREESOUND}lsprice/sounds/88808/)",
    ),
    (
        "impact",
        "dig_metal",
        "default_dig_metal",
        "CC BY 3.0",
        f"yadronoff ({FREESOUND}yadronoff/sounds/320397/)",
    ),
    (
        "impact",
        "dug_metal",
        "default_dug_metal",
        "CC0 1.0",
        "Iwan Gabovitch, qubodup (http://opengameart.org/users/qubodup)",
    ),
    (
        "impact",
        "tool_breaks",
        "default_tool_breaks",
        "CC BY 3.0",
        f"HerbertBoland ({FREESOUND}HerbertBoland/sounds/33206/)",
    ),
    (
        "impact",
        "snappy",
        "default_dig_snappy",
        "CC0 1.0",
        f"blukotek ({FREESOUND}blukotek/sounds/251660/)",
    ),
    (
        "impact",
        "choppy",
        "default_dig_choppy",
        "CC0 1.0",
        f"Sheyvan ({FREESOUND}Sheyvan/sounds/476113/)",
    ),
    (
        "impact",
        "gravel",
        "default_gravel_dig",
        "CC0 1.0",
        f"lolamadeus ({FREESOUND}lolamadeus/sounds/179341/)",
    ),
    (
        "impact",
        "gravel",
        "default_gravel_dug",
        "CC0 1.0",
        f"lolamadeus ({FREESOUND}lolamadeus/sounds/179341/)",
    ),
    (
        "impact",
        "cracky",
        "default_dig_cracky",
        "CC BY 3.0",
        f"Benboncan ({FREESOUND}Benboncan/sounds/71823/)",
    ),
    (
        "impact",
        "ice_dig",
        "default_ice_dig",
        "CC BY 3.0",
        f"dheming ({FREESOUND}dheming/sounds/268023/)",
    ),
    (
        "impact",
        "ice_dug",
        "default_ice_dug",
        "CC BY 3.0",
        f"Angel_Perez_Grandi ({FREESOUND}Angel_Perez_Grandi/sounds/49190/)",
    ),
]


class Sound(NamedTuple):
    """One file to take, and what is known about it."""

    label: str
    group: str
    path: Path
    package: str
    licence: str
    author: str


def sonic_pi_sources() -> dict[str, str]:
    """Author and address of every sample that the package's copyright file lists as CC0."""
    found = {}
    for stanza in SONIC_PI_COPYRIGHT.read_text(encoding="utf-8").split("\n\n"):
        name = re.search(r"^Files: etc/samples/(\w+)\.flac$", stanza, re.M)
        if name and re.search(r"^License: CC0$", stanza, re.M):
            author = re.search(r"^Copyright: \d+ (.+)$", stanza, re.M).group(1)
            link = re.search(r"https?://\S+", stanza).group(0)
            found[name.group(1)] = f"{author} ({link})"
    return found


def percussion() -> list[Sound]:
    """Drums, cymbals and hand drums: one-shots of real instruments."""
    sources = sonic_pi_sources()
    sounds = []

    def sonic(label: str, group: str, *names: str) -> None:
        for name in names:
            path = SONIC_PI / f"{name}.flac"
            sounds.append(Sound(label, group, path, "sonic-pi-samples", "CC0 1.0", sources[name]))

    def kit(label: str, group: str, which: tuple[str, str, str], *names: str) -> None:
        folder, licence, author = which
        for name in names:
            path = KITS / folder / name
            sounds.append(Sound(label, group, path, "hydrogen-drumkits", licence, author))

    sonic("drum", "menegass_bass", "drum_bass_hard", "drum_bass_soft")
    sonic("drum", "menegass_snare", "drum_snare_hard", "drum_snare_soft")
    for tom in ("hi", "mid", "lo"):
        sonic("drum", f"menegass_tom_{tom}", f"drum_tom_{tom}_hard", f"drum_tom_{tom}_soft")
    sonic("drum", "zajo_kick", "drum_heavy_kick")
    kit("drum", "pacific_bass", PACIFIC, *(f"BD_{n:02d}.aiff" for n in (1, 4, 7)))
    kit("drum", "pacific_snare", PACIFIC, "SN_01.aiff", "SN_05.aiff", "SN4_03.aiff", "SN4_07.aiff")
    kit("drum", "pacific_tom", PACIFIC, *(f"TM_{n:02d}.aiff" for n in (1, 4, 7)))
    kit("drum", "pacific_floor_tom", PACIFIC, *(f"TM2_{n:02d}.aiff" for n in (1, 4, 7)))
    for take in ("06-38", "06-46", "07-18", "07-20", "01-21", "06-25", "08-17", "08-18", "08-19"):
        kit("drum", f"rumpf_{take}", RUMPF, f"beats_{take}.flac")

    sonic(
        "cymbal",
        "menegass_hihat",
        "drum_cymbal_closed",
        "drum_cymbal_open",
        "drum_cymbal_pedal",
    )
    sonic("cymbal", "menegass_cymbal", "drum_cymbal_hard", "drum_cymbal_soft")
    sonic("cymbal", "menegass_splash", "drum_splash_hard", "drum_splash_soft")
    hats = ("HH_01", "HH_05", "HH2_01", "HH2_05", "HH3_02", "HH3_04")
    kit("cymbal", "pacific_hihat", PACIFIC, *(f"{name}.aiff" for name in hats))
    rides = ("RD_01", "RD_05", "RD2_02", "RD2_04", "BL_01", "BL_03")
    kit("cymbal", "pacific_ride", PACIFIC, *(f"{name}.aiff" for name in rides))
    kit("cymbal", "pacific_crash_left", PACIFIC, "CB_01.aiff", "CB_03.aiff")
    kit("cymbal", "pacific_crash_right", PACIFIC, "CB2_01.aiff", "CB2_03.aiff")
    for take in ("09-10", "06-28", "08-31", "06-43", "08-20", "06-30", "06-40"):
        kit("cymbal", f"rumpf_{take}", RUMPF, f"beats_{take}.flac")

    tabla = sorted(name for name in sources if name.startswith("tabla_"))
    sonic("hand_drum", "tabla", *tabla[::2], "tabla_ghe1", "tabla_te1", "tabla_tun1")
    for drum in range(1, 6):
        strokes = (f"Djembe{drum} {stroke}.wav" for stroke in ("Bass", "Slap", "Tone"))
        kit("hand_drum", f"djembe_{drum}", AFRIQUE, *strokes)
    return sounds


def footsteps_and_impacts() -> list[Sound]:
    """Steps on ten kinds of ground; digging, placing and breaking things."""
    sounds = []
    for label, group, stem, licence, author in MINETEST_SOUNDS:
        paths = [MINETEST / f"{stem}.ogg", *sorted(MINETEST.glob(f"{stem}.[0-9].ogg"))]
        paths = [path for path in paths if path.exists()]
        if not paths:
            raise FileNotFoundError(MINETEST / f"{stem}*.ogg")
        sounds += [Sound(label, group, p, "minetest-data", licence, author) for p in paths]
    return sounds


def speech() -> list[Sound]:
    """Letters, numbers, months and sentences, five languages in turn.

    The group is the word or sentence, in whatever language: all its recordings share a split.
    """
    numbers = [*range(21), *range(30, 91, 10)]
    words = {
        "spoken_letter": [(f"letter_{c}", f"letters/{c}") for c in "abcdefghijklmnopqrstuvwxyz"],
        "spoken_number": [(f"number_{n:02d}", f"digits/{n}") for n in numbers],
        "spoken_month": [(f"month_{n + 1:02d}", f"digits/mon-{n}") for n in range(12)],
        "spoken_sentence": [(name.replace("-", "_"), name) for name in SENTENCES],
    }
    languages = list(VOICES)
    sounds = []
    for label, items in words.items():
        for k in range(SPEECH_CLIPS):
            group, name = items[k % len(items)]
            language = languages[(k + k // len(items)) % len(languages)]
            folder, licence, author = VOICES[language]
            package = f"asterisk-core-sounds-{language}-wav"
            path = PROMPTS / folder / f"{name}.wav"
            sounds.append(Sound(label, group, path, package, licence, author))
    return sounds


def prepare(path: Path) -> tuple[np.ndarray, float]:
    """Mono, 16 kHz, trimmed, 1 to 2 s, level-normalised 16-bit samples, and where they start."""
    samples, rate = sf.read(path, dtype="float64", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, quality="HQ")
    window = RATE // 50
    power = np.convolve(mono**2, np.ones(window) / window, "same")
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    start = max(0, int(loud[0]) - window // 2)
    clip = mono[start : min(int(loud[-1]) + window // 2, start + int(MAX_SECONDS * RATE))]
    fade = min(window // 2, len(clip))
    clip[-fade:] *= np.linspace(1, 0, fade)
    clip = np.pad(clip, (0, max(0, int(MIN_SECONDS * RATE) - len(clip))))
    rms = np.sqrt(np.mean(clip**2))
    clip = clip * min(TARGET_RMS / rms, MAX_PEAK / np.abs(clip).max())
    return np.round(clip * 32767).astype(np.int16), start / RATE


def assign_splits(clips: list[tuple[Sound, np.ndarray, float]]) -> dict[tuple[str, str], str]:
    """Give each (label, group) to the split that is furthest below its share of the label."""
    sizes: dict[str, dict[str, int]] = {}
    for sound, _, _ in clips:
        groups = sizes.setdefault(sound.label, {})
        groups[sound.group] = groups.get(sound.group, 0) + 1
    chosen = {}
    for label, groups in sizes.items():
        total = sum(groups.values())
        filled = dict.fromkeys(SHARES, 0)
        order = sorted(groups, key=lambda g: hashlib.sha256(f"{label}/{g}".encode()).hexdigest())
        for group in sorted(order, key=lambda g: -groups[g]):
            split = max(SHARES, key=lambda s: SHARES[s] * total - filled[s])
            filled[split] += groups[group]
            chosen[label, group] = split
    return chosen


def package_version(package: str) -> str:
    """Version of an installed Debian package."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def clip_name(sound: Sound) -> str:
    """A lower-case ASCII file name made from the original name, with a language for speech."""
    stem = re.sub(r"[^a-z0-9]+", "_", sound.path.stem.lower()).strip("_")
    if sound.label.startswith("spoken_"):
        return f"{sound.group}_{sound.package.split('-')[3]}"
    if sound.package == "hydrogen-drumkits":
        return f"{sound.group.split('_')[0]}_{stem}" if sound.label != "hand_drum" else stem
    return stem


def write_csv(path: Path, header: str, rows: list[list[str]]) -> None:
    """Write sorted rows under a comma-separated header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(sorted(rows))


def main() -> None:
    """Build the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).parent)
    output = parser.parse_args().output
    seen: set[bytes] = set()
    clips = []
    for sound in percussion() + footsteps_and_impacts() + speech():
        samples, start = prepare(sound.path)
        digest = hashlib.sha256(samples.tobytes()).digest()
        if digest in seen:
            print("dropped, same samples as another clip:", sound.path)
            continue
        seen.add(digest)
        clips.append((sound, samples, start))
    splits = assign_splits(clips)
    versions = {p: package_version(p) for p in sorted({s.package for s, _, _ in clips})}
    shutil.rmtree(output / "audio", ignore_errors=True)
    metadata, sources = [], []
    for sound, samples, start in clips:
        file = f"audio/{sound.label}/{clip_name(sound)}.flac"
        target = output / file
        if target.exists():
            raise ValueError(f"two clips named {file}")
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, samples, RATE, subtype="PCM_16")
        split = splits[sound.label, sound.group]
        metadata.append([file, sound.label, split, f"{sound.label}/{sound.group}"])
        version = versions[sound.package]
        row = [file, sound.package, version, str(sound.path), f"{start:.4f}"]
        sources.append([*row, sound.licence, sound.author])
    write_csv(output / "metadata.csv", "file,label,split,group", metadata)
    header = "file,package,package_version,original_file,start_seconds,licence,author_or_source"
    write_csv(output / "SOURCES.csv", header, sources)
    print(f"{len(metadata)} clips in {output}")


if __name__ == "__main__":
    main()
