"""Losses of a tokenizer are said, and refused where they are many; changes by its normaliser are none."""

import io
import json
from functools import cache

import pytest
from etils import epath
from support import texts

from capscale.cli import main
from capscale.data.fidelity import ENOUGH, Sample, compare, is_sampled
from capscale.data.manifest import Manifest
from capscale.data.tokenize import Job, Split, tokenize
from capscale.data.tokenizer import load_tokenizer
from capscale.errors import UserError

PLAIN = tuple(f"{number} the quick brown fox (number {number * 7}), jumps over it; lazy dogs!" for number in range(300))
CHINESE = tuple(f"\u4e2d\u6587\u5b57\u7b26\u4e32{text[:6]}" for text in PLAIN)
NORMALISED = (
    "The QUICK Brown Fox  jumps\tover\n\nthe lazy dog",
    "\uff34\uff48\uff45 \uff11\uff12\uff13 \ufb01ne \u2460 \u2026",
    "\u00e9l\u00e8ve na\u00efve e\u0301 zero\u200bwidth soft\u00adhyphen",
)
"""Case and blanks; full width, a ligature, a number in a ring, an ellipsis; accents and what is not seen."""


@cache
def sentencepiece(**options) -> bytes:
    import sentencepiece as library

    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(PLAIN), model_writer=model, vocab_size=120, model_type="bpe", minloglevel=2, **options
    )
    return model.getvalue()


@cache
def huggingface(model: str = "BPE", unknown: str | None = None, *, special: bool = False, folds: bool = False) -> str:
    """A tokenizer over the characters of `PLAIN`: others are dropped, or become its token for what is unknown."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    kinds = {"BPE": (models.BPE, trainers.BpeTrainer), "WordPiece": (models.WordPiece, trainers.WordPieceTrainer)}
    kind, trainer = kinds[model]
    tokenizer = Tokenizer(kind(unk_token=unknown) if unknown else kind())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["<|endoftext|>", *([unknown] if unknown else [])]
    tokenizer.train_from_iterator(PLAIN, trainer(vocab_size=200, special_tokens=names, show_progress=False))
    if folds:
        steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        tokenizer.normalizer = normalizers.Sequence(steps)
    described = json.loads(tokenizer.to_str())
    for token in described["added_tokens"]:
        token["special"] = special or token["content"] != unknown
    return json.dumps(described)


def sample_of(path, documents) -> Sample:
    tokenizer = load_tokenizer(str(path))
    found = Sample()
    for text, tokens in zip(documents, tokenizer.encode(documents), strict=True):
        found += compare(text, tokenizer.decode(tokens))
    return found


BLIND = {
    "sentencepiece": ("m.model", sentencepiece),
    "dropped": ("t.json", huggingface),
    "unknown, special": ("t.json", lambda: huggingface(unknown="[UNK]", special=True)),
    "unknown, not special": ("t.json", lambda: huggingface(unknown="\u4e2d\u6587\u5b57\u7b26\u4e32")),
    "words": ("t.json", lambda: huggingface("WordPiece", "[UNK]")),
}


def written(tmp_path, blind):
    name, content = blind
    (tmp_path / name).write_bytes(made.encode() if isinstance(made := content(), str) else made)
    return tmp_path / name


@pytest.mark.parametrize("blind", BLIND.values(), ids=BLIND.keys())
def test_what_is_dropped_or_unknown_is_lost(blind, tmp_path):
    path = written(tmp_path, blind)
    found = sample_of(path, CHINESE)
    assert found.documents == len(CHINESE)
    assert found.lost >= 5 * len(CHINESE)
    assert set("\u4e2d\u6587\u5b57\u7b26\u4e32") <= set(found.missing)
    assert sample_of(path, PLAIN).lost == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.model", texts.sentencepiece_model),
        ("m.model", lambda: texts.sentencepiece_model(normalization_rule_name="nmt_nfkc_cf")),
        ("t.json", texts.huggingface_json),
        ("t.json", lambda: texts.huggingface_json(template=True)),
        ("t.json", lambda: json.dumps(json.loads(texts.huggingface_json()) | {"decoder": None})),
    ],
)
def test_tokenizers_over_bytes_lose_nothing(name, content, tmp_path):
    path = written(tmp_path, (name, content))
    assert sample_of(path, (*NORMALISED, *CHINESE, *texts.documents())).lost == 0


def test_what_normalisers_change_is_no_loss(tmp_path):
    folding = huggingface(folds=True)
    path = written(tmp_path, ("t.json", lambda: folding))
    known = ("The QUICK  Brown\tFox", "\uff54\uff48\uff45 \uff17", "th\u00e9 fo\u0301x")
    assert sample_of(path, known).lost == 0
    assert sample_of(written(tmp_path, ("b.model", sentencepiece)), ("The  \uff51uick fox\n7",)).lost == 1, "T"
    cased = sentencepiece(normalization_rule_name="nmt_nfkc_cf")
    assert sample_of(written(tmp_path, ("c.model", lambda: cased)), ("The  \uff51uick fox\n7",)).lost == 0


def test_the_marks_that_stand_for_the_unknown_are_no_text(tmp_path):
    """SentencePiece decodes it to a double question mark."""
    assert sample_of(written(tmp_path, BLIND["sentencepiece"]), ("the fox?",)).missing == "?"


def test_counts_are_of_characters_that_are_not_blank():
    assert compare("a b\n", "ab") == Sample(1, 2, 0, "")
    assert compare("aab\u4e2d", "xab") == Sample(1, 4, 2, "a\u4e2d")
    assert (compare("ab", "a") + compare("cd", "d")) == Sample(2, 4, 2, "bc")
    assert Sample().share == 0


def test_the_sample_goes_on_after_the_first_documents():
    later = [text for number, text in enumerate(PLAIN * 10, 1000) if is_sampled(number, f"{number}{text}".encode())]
    assert 3000 / 64 / 2 < len(later) < 3000 / 64 * 2
    assert all(is_sampled(number, b"any") for number in range(8))


def prepare(tmp_path, path, documents, *options):
    if not (tmp_path / "in.jsonl").exists():  # a file that has changed is another input
        (tmp_path / "in.jsonl").write_bytes(texts.json_lines(documents))
    out = ["--out", str(tmp_path / "out"), "--validation-share", "0.2", "--workers", "1"]
    return main(["data", "prepare", str(tmp_path / "in.jsonl"), "--tokenizer", str(path), *out, *options])


def test_a_text_that_cannot_be_spelled_is_refused_and_can_be_allowed(tmp_path, capsys):
    path = written(tmp_path, BLIND["dropped"])
    assert prepare(tmp_path, path, CHINESE) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "t.json' cannot spell this text: " in err
    assert "do not come back from their tokens, such as '" in err
    assert "--most-lost (now 0.01)" in err
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert prepare(tmp_path, path, CHINESE, "--most-lost", "1") == 0
    sample = Manifest.read(epath.Path(tmp_path / "out")).sample
    assert sample is not None
    assert f"lost by the tokenizer: {sample.share:.2%} (" in capsys.readouterr().out
    assert 0.3 < sample.share < 1


def test_a_little_is_said_and_taken(tmp_path, capsys):
    path = written(tmp_path, BLIND["dropped"])
    assert prepare(tmp_path, path, (PLAIN[0] + "\u4e2d", *PLAIN[1:])) == 0
    assert "('\u4e2d') of" in capsys.readouterr().out
    assert Manifest.read(epath.Path(tmp_path / "out")).sample.lost == 1


def test_nothing_lost_is_said(tmp_path, capsys):
    assert prepare(tmp_path, "byte", CHINESE) == 0
    assert "lost by the tokenizer: none of " in capsys.readouterr().out


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_that_is_none_is_refused(share, tmp_path, capsys):
    assert prepare(tmp_path, "byte", PLAIN, "--most-lost", share) == 2
    assert f"most_lost={float(share)} must be" in capsys.readouterr().err


def test_a_part_stops_early(tmp_path):
    """Not when all is put together: here the end of the text would bring the share below the bound."""
    path = written(tmp_path, BLIND["dropped"])
    (tmp_path / "out" / ".parts").mkdir(parents=True)
    tokenizer = load_tokenizer(str(path))
    job = Job(str(tmp_path / "out"), str(path), None, tokenizer.id, Split(0.5, 1000), most_lost=0.5)
    read: list[str] = []

    class Long:
        def documents(self):
            for text in ["\u4e2d" * ENOUGH, *["plain" * ENOUGH] * 10]:
                read.append(text)
                yield text

    with pytest.raises(UserError, match=r"100.00% of 16,384 characters in 1 documents"):
        tokenize(job, 0, (Long(),))
    assert len(read) < 10
