"""Tokenizers: what the libraries give, with the end of a document after each, whatever the text or the file says."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from support import texts

from capscale.data.tokenizer import load_tokenizer
from capscale.errors import UserError

TEXT = "A line of text é€𝄞\n  and \t another <|endoftext|> </s> <s>."


@pytest.fixture
def model(tmp_path):
    (tmp_path / "tiny.model").write_bytes(texts.sentencepiece_model())
    return tmp_path / "tiny.model"


@pytest.fixture
def tokenizer_json(tmp_path):
    (tmp_path / "tokenizer.json").write_text(texts.huggingface_json())
    return tmp_path / "tokenizer.json"


def test_bytes():
    tokenizer = load_tokenizer("byte")
    first, second, empty = tokenizer.encode([TEXT, "b", ""])
    assert bytes(first[:-1].tolist()).decode() == TEXT
    assert [first[-1], *second, *empty] == [256, ord("b"), 256, 256]
    assert (tokenizer.id.vocabulary, tokenizer.id.begin, tokenizer.id.end) == (257, None, 256)
    assert tokenizer.id.dtype == first.dtype == np.uint16


def test_sentencepiece(model):
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokenizer = load_tokenizer(str(model))
    found = tokenizer.encode([TEXT, *texts.documents()])
    for text, tokens in zip([TEXT, *texts.documents()], found, strict=True):
        assert tokens.tolist() == [oracle.bos_id(), *oracle.encode(text), oracle.eos_id()]
    assert oracle.eos_id() not in found[0][:-1], "a text that spells the end of a document does not end it"
    assert (tokenizer.id.vocabulary, tokenizer.id.begin, tokenizer.id.end) == (300, 1, 2)


def test_sentencepiece_without_begin_or_end(tmp_path):
    path = tmp_path / "bare.model"
    path.write_bytes(texts.sentencepiece_model(bos_id=-1, eos_id=-1, user_defined_symbols="<stop>"))
    with pytest.raises(UserError, match=r"does not say which token ends a document; give it with --eos"):
        load_tokenizer(str(path))
    with pytest.raises(UserError, match=r"has no token '<halt>'; give another --eos"):
        load_tokenizer(str(path), "<halt>")
    tokenizer = load_tokenizer(str(path), "<stop>")
    assert tokenizer.id.begin is None
    assert tokenizer.encode(["a"])[0][-1] == tokenizer.id.end


@pytest.mark.parametrize("template", [False, True])
def test_huggingface(template, tmp_path):
    from tokenizers import Tokenizer

    path = tmp_path / "tokenizer.json"
    path.write_text(texts.huggingface_json(template=template))
    oracle = Tokenizer.from_str(path.read_text())
    tokenizer = load_tokenizer(str(path))
    end, begin = tokenizer.id.end, tokenizer.id.begin
    assert (begin, end) == ((0, 1) if template else (None, 0))
    found = tokenizer.encode(texts.documents())
    for text, tokens in zip(texts.documents(), found, strict=True):
        ids = oracle.encode(text, add_special_tokens=False).ids
        assert tokens.tolist() == [*([0] if template else []), *ids, end]
        assert oracle.decode(ids) == text
    forged = tokenizer.encode([TEXT])[0]
    assert (forged == end).sum() == 1, "a text that spells the end of a document does not end it"
    assert tokenizer.id.vocabulary == max(oracle.get_vocab().values()) + 1


def test_huggingface_file_that_truncates_and_pads(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(texts.huggingface_json(hampered=True))
    tokens = load_tokenizer(str(path)).encode([texts.documents()[0], "a"])
    assert len(tokens[0]) > 16
    assert len(tokens[1]) == 2


@pytest.mark.parametrize("declared", ["<halt>", {"content": "<halt>"}])
def test_huggingface_end_is_read_beside_the_file_or_given(declared, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(texts.huggingface_json(end="<halt>"))
    with pytest.raises(UserError, match="give it with --eos"):
        load_tokenizer(str(path))
    assert load_tokenizer(str(path), "<halt>").id.end == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": declared}))
    assert load_tokenizer(str(path)).id.end == 0
    with pytest.raises(UserError, match="has no token '<stop>'"):
        load_tokenizer(str(path), "<stop>")


def test_hash_is_of_the_file(model, tokenizer_json):
    import hashlib

    for path in (model, tokenizer_json):
        assert load_tokenizer(str(path)).id.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words", None, "is not known; use byte, a SentencePiece .model"),
        ("missing.model", None, "cannot be read .*check the path"),
        ("empty.model", b"", "is empty"),
        ("broken.model", b"not a model", "is not a SentencePiece model"),
        ("broken.json", b"{", "is not a tokenizers file"),
        ("other.json", b'{"a": 1}', "is not a tokenizers file"),
        ("binary.json", b"\xff\xfe", "is not a tokenizers file"),
    ],
)
def test_bad_files_are_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path / name) if "." in name else name)


@pytest.mark.parametrize("charsmap", [None, "", "AAAA"])
def test_a_panic_of_the_library_is_a_message(charsmap, tmp_path, capfd):
    """As in files on the hub whose SentencePiece model had no table of characters."""
    described = json.loads(texts.huggingface_json())
    described["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    (tmp_path / "t.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"t.json' is not a tokenizers file \(Precompiled: .*\); check it, or fetch"):
        load_tokenizer(str(tmp_path / "t.json"))
    assert capfd.readouterr().err == ""


def test_failures_at_a_text_are_messages(tmp_path):
    from tokenizers import Tokenizer, models

    path = tmp_path / "t.json"
    path.write_text(Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="[UNK]")).to_str())
    with pytest.raises(UserError, match=r"t.json' failed at a text \(WordLevel error: Missing \[UNK\]"):
        load_tokenizer(str(path)).encode(["b"])


@pytest.mark.parametrize(("number", "taken"), [(4_000_000_000, False), (60_000, False), (402, True)])
def test_numbers_far_from_all_others_are_refused(number, taken, tmp_path):
    described = json.loads(texts.huggingface_json())
    described["model"]["vocab"]["zzzz"] = number
    path = tmp_path / "t.json"
    path.write_text(json.dumps(described))
    if taken:
        assert load_tokenizer(str(path)).id.vocabulary == number + 1
    else:
        with pytest.raises(UserError, match=rf"t.json' has 4\d\d tokens with numbers up to {number:,}: .*without gaps"):
            load_tokenizer(str(path))


def test_byte_tokenizer_has_its_own_end():
    with pytest.raises(UserError, match="cannot be chosen for the byte tokenizer"):
        load_tokenizer("byte", "</s>")


def test_wide_vocabularies_take_four_bytes():
    from dataclasses import replace

    identity = load_tokenizer("byte").id
    assert replace(identity, vocabulary=1 << 16).dtype == np.uint16
    assert replace(identity, vocabulary=(1 << 16) + 1).dtype == np.uint32


def test_mistral_model(tmp_path):
    """Mistral's 32,000 entries, a file of Llama 2's format, from the package that brings it; the id of a known word."""
    found = importlib.util.find_spec("mistral_common")
    if found is None or found.origin is None:
        pytest.skip("mistral-common, which brings a 32,000-entry SentencePiece model, is not installed")
    path = tmp_path / "mistral.model"
    path.write_bytes((Path(found.origin).parent / "data" / "tokenizer.model.v1").read_bytes())
    tokenizer = load_tokenizer(str(path))
    assert (tokenizer.id.vocabulary, tokenizer.id.begin, tokenizer.id.end) == (32_000, 1, 2)
    assert tokenizer.encode(["Hello"])[0].tolist() == [1, 22557, 2]


@pytest.mark.parametrize("content", [b"{", b"[]", b'\xff{"eos_token": "<halt>"}'])
def test_damaged_file_beside_a_tokenizer_is_no_file(content, tmp_path):
    """Passing over it could end documents with another token than the model's."""
    path = tmp_path / "tokenizer.json"
    path.write_text(texts.huggingface_json(end="</s>"))
    load_tokenizer(str(path))
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer_config.json .*; give the token that ends a document with --eos"):
        load_tokenizer(str(path))
    assert load_tokenizer(str(path), "</s>").id.end == 0
