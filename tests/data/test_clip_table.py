"""Sets of clips on which no honest score is possible."""


def test_classes_that_are_never_trained_are_refused_on_either_side(
    new_clips, simple, lineareval, refused
):
    """Of several labels a clip too: the score would be that of another question."""
    for side in ("valid", "test"):
        for more in (["dog"], ["dog", "cat,dog"]):
            made = new_clips(f"{side}{len(more)}")
            for i, label in enumerate(["rain", "siren", *more]):
                made.add(f"{i}.wav", label, "train" if i < 2 else side, hertz=300 + i)
            made.add("9.wav", "rain", "test")
            what = "'cat', 'dog'" if len(more) > 1 else "'dog'"
            refused(lineareval(simple, made.csv), f"split '{side}' has clips of {what}")


def test_a_single_class_to_train_is_refused(new_clips, simple, lineareval, refused):
    made = new_clips()
    for i, side in enumerate(["train", "train", "test"]):
        made.add(f"{i}.wav", "rain", side, hertz=300 + i)
    refused(lineareval(simple, made.csv), "a single class to train, 'rain'")
