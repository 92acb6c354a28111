import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from evar.errors import UserError
from evar.model_adapters import _clip, _text
from helpers.golden_cases import Case, frozen, write_tokenizer

CASE = Case("wav2clip_text")


def openai_names(tower):
    """A text tower's tensors as OpenAI's code names them, with the joint input projection."""
    own = tower.state_dict()
    state = {
        "token_embedding.weight": own["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": own["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": own["text_model.final_layer_norm.weight"],
        "ln_final.bias": own["text_model.final_layer_norm.bias"],
        "text_projection": own["text_projection.weight"].T,
    }
    for i in range(tower.config.num_hidden_layers):
        ours, theirs = f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [own[f"{ours}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            state[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            state[f"{theirs}attn.out_proj.{kind}"] = own[f"{ours}self_attn.out_proj.{kind}"]
            state[f"{theirs}ln_1.{kind}"] = own[f"{ours}layer_norm1.{kind}"]
            state[f"{theirs}ln_2.{kind}"] = own[f"{ours}layer_norm2.{kind}"]
            state[f"{theirs}mlp.c_fc.{kind}"] = own[f"{ours}mlp.fc1.{kind}"]
            state[f"{theirs}mlp.c_proj.{kind}"] = own[f"{ours}mlp.fc2.{kind}"]
    return state


def test_openais_names_are_transformers_own_again():
    tower = _clip.build(64, 2, 24)
    renamed = _clip.rename({**openai_names(tower), "visual.conv1.weight": torch.ones(1)}, "text.")
    assert torch.equal(renamed.pop("visual.conv1.weight"), torch.ones(1))
    expected = {f"text.{name}": value for name, value in tower.state_dict().items()}
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[name], value) for name, value in expected.items())


def test_captions_become_the_originals_tokens(tmp_path):
    tokenizer = _text.Tokenizer(
        str(write_tokenizer(tmp_path, "clip")), _clip.TOKENS, max_length=_clip.LENGTH
    )
    ids, mask = tokenizer(CASE.outputs["captions"].tolist())
    length = ids.shape[1]
    assert mask.tolist() == CASE.outputs["attention_mask"][:, :length].tolist()
    # The original pads with zeros, behind the token that ends the caption.
    assert (ids * mask).tolist() == CASE.outputs["input_ids"][:, :length].tolist()
    assert not CASE.outputs["attention_mask"][:, length:].any()


def test_a_long_caption_is_cut_and_ends_all_the_same(tmp_path):
    tokenizer = _text.Tokenizer(
        str(write_tokenizer(tmp_path, "clip")), _clip.TOKENS, max_length=_clip.LENGTH
    )
    ids, _ = tokenizer(["rain " * 200])
    assert ids.shape == (1, 77)
    assert ids[0, [0, -1]].tolist() == [49406, 49407]


def test_padding_does_not_move_a_caption():
    tower = frozen(_clip.build(64, 1, 24))
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    mask = torch.ones_like(ids)
    alone = tower(input_ids=ids, attention_mask=mask).text_embeds
    for padding in (0, 49407):
        padded = torch.nn.functional.pad(ids, (0, 9), value=padding)
        longer = torch.nn.functional.pad(mask, (0, 9))
        for used in (longer, torch.ones_like(longer)):
            embeds = tower(input_ids=padded, attention_mask=used).text_embeds
            torch.testing.assert_close(embeds, alone, rtol=1e-4, atol=1e-5)


def test_the_text_half_of_a_whole_clip_is_read(tmp_path):
    narrow = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config={**narrow, "intermediate_size": 64, "projection_dim": 24},
            vision_config={**narrow, "intermediate_size": 64, "image_size": 32},
            projection_dim=24,
        )
        published = frozen(CLIPModel(config))
    published.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "clip")
    encoder = _clip.TextEncoder(str(tmp_path))
    captions = ["a dog barking in the distance", "rain"]
    with torch.inference_mode():
        embeds = encoder(captions, "cpu")
        ids, mask = _text.Tokenizer(str(tmp_path), _clip.TOKENS, max_length=77)(captions)
        hidden = published.text_model(input_ids=ids, attention_mask=mask).pooler_output
        torch.testing.assert_close(embeds, published.text_projection(hidden))
    assert len(encoder.identity().split()) == 2


def test_without_its_files_the_error_says_where_to_put_them(tmp_path):
    encoder = _clip.TextEncoder("openai/clip-vit-base-patch32")
    with pytest.raises(UserError, match=r"Put its folder at .*clip-vit-base-patch32, .*--text_enc"):
        encoder(["rain"], "cpu")
