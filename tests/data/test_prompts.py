"""Captions of every task against lists typed from the paper's rules; rules of a user's own."""

import pytest

from evar import task
from evar.data import prompts
from evar.data.prompts import CaptionRule
from evar.errors import UserError

# Typed by hand from the protocol's description, for some or all classes of each task.
GOLDEN = {
    "esc50": {
        "dog": "dog can be heard",
        "crying_baby": "crying baby can be heard",
        "door_wood_knock": "door wood knock can be heard",
        "church_bells": "church bells can be heard",
    },
    "us8k": {
        "air_conditioner": "air conditioner can be heard",
        "car_horn": "car horn can be heard",
        "children_playing": "children playing can be heard",
        "dog_bark": "dog bark can be heard",
        "drilling": "drilling can be heard",
        "engine_idling": "engine idling can be heard",
        "gun_shot": "gun shot can be heard",
        "jackhammer": "jackhammer can be heard",
        "siren": "siren can be heard",
        "street_music": "street music can be heard",
    },
    "cremad": {
        "ANG": "angry person talking can be heard",
        "DIS": "someone talking in disgust can be heard",
        "FEA": "someone talking with a sense of fear can be heard",
        "HAP": "someone talking happily and joyfully can be heard",
        "NEU": "someone talking calmly can be heard",
        "SAD": "someone talking sadly can be heard",
    },
    "gtzan": {
        "blues": "blues music can be heard",
        "classical": "classical music can be heard",
        "country": "country music can be heard",
        "disco": "disco music can be heard",
        "hiphop": "hiphop music can be heard",
        "jazz": "jazz music can be heard",
        "metal": "metal music can be heard",
        "pop": "pop music can be heard",
        "reggae": "reggae music can be heard",
        "rock": "rock music can be heard",
    },
    "nsynth": {
        "bass": "the musical instrument sound of bass can be heard",
        "brass": "the musical instrument sound of brass can be heard",
        "flute": "the musical instrument sound of flute can be heard",
        "guitar": "the musical instrument sound of guitar can be heard",
        "keyboard": "the musical instrument sound of keyboard can be heard",
        "mallet": "the musical instrument sound of mallet can be heard",
        "organ": "the musical instrument sound of organ can be heard",
        "reed": "the musical instrument sound of reed can be heard",
        "string": "the musical instrument sound of string can be heard",
        "synth_lead": "the musical instrument sound of synth lead can be heard",
        "vocal": "the musical instrument sound of vocal can be heard",
    },
    "fsd50k": {
        "Accelerating_and_revving_and_vroom": ("Accelerating and revving and vroom can be heard"),
        "Acoustic_guitar": "Acoustic guitar can be heard",
        "Zipper_(clothing)": "Zipper (clothing) can be heard",
    },
    "as": {"/m/09x0r": "Speech can be heard", "/m/04rlf": "Music can be heard"},
    "as20k": {"/m/0bt9lr": "Dog can be heard"},
    # Ours, where the paper has no zero-shot figure.
    "spcv1": {"yes": 'the spoken word "yes"'},
    "spcv2": {"backward": 'the spoken word "backward"', "zero": 'the spoken word "zero"'},
    "vc1": {"id10270": "the voice of speaker id10270"},
    "voxforge": {
        "de": "someone speaking German",
        "en": "someone speaking English",
        "es": "someone speaking Spanish",
        "fr": "someone speaking French",
        "it": "someone speaking Italian",
        "ru": "someone speaking Russian",
    },
    "surge": {"60": "a synthesiser note of MIDI pitch 60"},
    "nspitch": {"60": "a musical note of MIDI pitch 60"},
    "nsvelocity": {"127": "a musical note played with velocity 127"},
    "cremad_gender": {"female": "a woman talking", "male": "a man talking"},
    "demo": {"bird": "bird can be heard"},
    "fsdnoisy18k": {"Acoustic_guitar": "Acoustic guitar can be heard"},
    "vocalsound": {"Throat clearing": "Throat clearing can be heard"},
}
TITLES = {"/m/09x0r": "Speech", "/m/04rlf": "Music", "/m/0bt9lr": "Dog"}


@pytest.mark.parametrize("name", [n for n in task.names() if task.get(n).labelled])
def test_captions_of_every_task(name):
    expected = GOLDEN[name]
    titles = TITLES if task.get(name).titles else None
    made = prompts.of_task(task.get(name)).captions(list(expected), titles)
    assert made == [(text,) for text in expected.values()]


def test_a_template_has_the_label_in_it():
    rule = prompts.from_template("a recording of {label}|this is {label}, outdoors")
    assert rule.captions(["dog_bark"]) == [
        ("a recording of dog bark", "this is dog bark, outdoors")
    ]
    for text in ("a recording", "", "{label}||x"):
        with pytest.raises(UserError, match="--template"):
            prompts.from_template(text)


def write(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


def test_a_file_of_rules(tmp_path):
    path = write(
        tmp_path,
        "templates: ['{label} nearby', 'the sound of {label}']\n"
        "labels:\n  no: someone refuses\n  dog: [a dog barks, woof]\n",
    )
    # YAML reads `no` as false: a label is what the task calls it, quoted where YAML means more.
    with pytest.raises(UserError, match="False"):
        prompts.from_yaml(path, ["no", "dog", "cat"])
    write(tmp_path, path.read_text().replace("no:", "'no':"))
    rule = prompts.from_yaml(path, ["no", "dog", "cat"])
    assert rule.captions(["no", "dog", "cat"]) == [
        ("someone refuses",),
        ("a dog barks", "woof"),
        ("cat nearby", "the sound of cat"),
    ]
    assert rule.source.startswith("rules.yaml ")
    write(tmp_path, path.read_text().replace("woof", "wow"))
    other = prompts.from_yaml(path, ["no", "dog", "cat"]).source
    assert other != rule.source, "another rule, though it has the same name"


def test_captions_of_a_class_may_name_it(tmp_path):
    path = write(tmp_path, "labels: {dog_bark: 'one {label}', Speech: a voice}")
    titles = {"/m/09x0r": "Speech"}
    rule = prompts.from_yaml(path, ["dog_bark", "/m/09x0r"], titles)
    assert rule.captions(["dog_bark", "/m/09x0r"], titles) == [("one dog bark",), ("a voice",)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs `templates`"),
        ("- a", "needs `templates`"),
        ("template: x", "templates"),
        ("templates: [no place]", "has no {label}"),
        ("templates: 3", "a text or a list"),
        ("labels: [dog]", "maps each label"),
        ("labels: {dgo: woof}", "did you mean dog"),
        ("labels: {dog: []}\ntemplates: []", None),
        ("labels: {dog: woof, cat: meow, dog: wow}", "'dog' stands there twice"),
        ("labels: {dog: ['']}", "none of them empty"),
        ("labels: {dog: 3}", "a text or a list"),
        ("a: [", "not a file of caption rules"),
        ("!!python/object/apply:os.system ['true']", "not a file of caption rules"),
    ],
)
def test_a_file_that_is_no_rule_is_named(text, words, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        prompts.from_yaml(path, ["dog", "cat"]).captions(["dog", "cat"])
    assert words is None or words in str(caught.value)
    assert path.name in str(caught.value)


def test_a_class_without_caption_is_named():
    with pytest.raises(UserError, match="no caption for the class 'cat'"):
        CaptionRule((), {"dog": ("woof",)}).captions(["dog", "cat"])


def test_two_classes_with_the_same_caption_are_named():
    with pytest.raises(UserError, match="'a_b' and 'a b' have the same caption"):
        CaptionRule().captions(["a_b", "a b"])
    with pytest.raises(UserError, match="'x' and 'y' have the same caption"):
        CaptionRule((), {"x": ("a", "b"), "y": ("b", "a")}).captions(["x", "y"])


def test_the_digest_is_of_every_caption_and_its_class():
    one = prompts.digest([("a", "b"), ("c",)])
    assert one == prompts.digest([["a", "b"], ["c"]])
    assert len({one, prompts.digest([("a",), ("b", "c")]), prompts.digest([("a", "b")])}) == 3
