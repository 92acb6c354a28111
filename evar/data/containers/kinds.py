"""Says what a file is that is no readable sound: first bytes of what people have by mistake."""

import re

_MAGIC = (  # (offset, bytes, what it is)
    (4, b"ftyp", "an MP4 or M4A file (AAC)"),
    (0, b"\xff\xf1", "AAC (ADTS)"),
    (0, b"\xff\xf9", "AAC (ADTS)"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of its content (`git lfs pull`)"),
    (0, b"/annex/objects/", "a git-annex pointer instead of its content (`git annex get`)"),
    (0, b"../.git/annex/", "a git-annex pointer instead of its content (`git annex get`)"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file (WMA)"),
    (0, b"wvpk", "a WavPack file"),
    (0, b"MAC ", "a Monkey's Audio file (APE)"),
    (0, b"#!AMR", "an AMR file"),
    (0, b"FLV\x01", "a Flash video"),
    (8, b"AVI LIST", "an AVI video"),
    (0, b"MThd", "a MIDI file: notes, no sound"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (28, b"Speex", "Ogg Speex"),
    (28, b"\x80theora", "an Ogg video"),
)
TRACKS = (  # of these, what PyAV decodes
    "an MP4 or M4A file (AAC)",
    "AAC (ADTS)",
    "a Matroska or WebM file",
    "a Windows Media file (WMA)",
    "a WavPack file",
    "a Monkey's Audio file (APE)",
    "an AMR file",
    "a Flash video",
    "an AVI video",
    "Ogg Speex",
    "an Ogg video",
)
_HTML = re.compile(
    rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", re.IGNORECASE | re.DOTALL
)


def describe(head: bytes) -> str:
    """Says what a file that begins with `head` is, as "a ZIP archive"; "" if that is not known."""
    if not head:
        return "an empty file (0 bytes)"
    if not head.strip(b"\0"):
        return "zeros only, as interrupted copies leave them"
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    text = head.removeprefix(b"\xef\xbb\xbf")
    if _HTML.match(text):
        return "an HTML page, such as an error or login page in place of a download"
    if text.lstrip().startswith(b"<?xml"):
        return "an XML file"
    if text.lstrip()[:1] in (b"{", b"[") and _printable(text):
        return "a JSON file"
    return "a text file" if _printable(text) else ""


def _printable(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:  # else: a character that the end of `head` cuts
            return False
        text = data[: error.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
