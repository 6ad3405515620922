"""Data sets of the hub, through `datasets` itself: directories of the same layout stand for them."""

import gzip

import pytest
from etils import epath
from support import texts

from capscale.data.hub import Dataset, Share
from capscale.data.manifest import Manifest
from capscale.data.prepare import Request, prepare
from capscale.data.tokenize import Split
from capscale.errors import UserError

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

C4 = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
- config_name: realnewslike
  data_files: realnewslike/*.json.gz
---
"""
CLIMBMIX = """---
configs:
- config_name: default
  data_files: '*.jsonl'
---
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and no cache outside of the test; what the libraries leave open is theirs."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def c4(tmp_path):
    """The layout of allenai/c4: three shards of training text, one of validation, gzipped JSON lines."""
    root = tmp_path / "c4"
    (root / "en").mkdir(parents=True)
    (root / "realnewslike").mkdir()
    (root / "README.md").write_text(C4)
    for number in range(3):
        content = gzip.compress(texts.json_lines(texts.documents()[number::3]))
        (root / "en" / f"c4-train.{number:05d}-of-00003.json.gz").write_bytes(content)
    (root / "en" / "c4-validation.00000-of-00001.json.gz").write_bytes(gzip.compress(texts.json_lines(("held out",))))
    (root / "realnewslike" / "news.json.gz").write_bytes(gzip.compress(texts.json_lines(("news",))))
    return root


def documents(dataset):
    count = len(dataset.shards())
    return [text for index in range(count) for text in Share(dataset, index, count).documents()]


def test_c4(c4):
    in_order = [text for number in range(3) for text in texts.documents()[number::3]]
    assert [name.rsplit("/", 1)[1] for name in Dataset(str(c4), "en").shards()] == [
        f"c4-train.{number:05d}-of-00003.json.gz" for number in range(3)
    ]
    assert documents(Dataset(str(c4), "en")) == in_order
    assert documents(Dataset(str(c4), "en", "validation")) == ["held out"]
    assert documents(Dataset(str(c4), "realnewslike")) == ["news"]


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_climbmix(layout, tmp_path):
    """The layout of the text version of ClimbMix: parts of JSON lines, or Parquet, with a field `text`."""
    root = tmp_path / "climbmix"
    root.mkdir()
    if layout == "jsonl":
        (root / "README.md").write_text(CLIMBMIX)
    for number in range(2):
        half = texts.documents()[number * 100 : (number + 1) * 100]
        if layout == "jsonl":
            (root / f"part_{number}.jsonl").write_bytes(texts.json_lines(half))
        else:
            datasets.Dataset.from_dict({"text": list(half)}).to_parquet(str(root / f"part_{number}.parquet"))
    assert documents(Dataset(str(root))) == list(texts.documents())


def test_prepared_from_the_data_set_or_from_its_files_the_tokens_are_the_same(c4, tmp_path):
    split = Split(0.2, 1 << 20)
    by_name = Request("byte", dataset=Dataset(str(c4), "en"), split=split, name="c4")
    by_file = Request("byte", inputs=tuple(map(str, sorted((c4 / "en").glob("c4-train*")))), split=split, name="c4")
    found = [prepare(by_name, epath.Path(tmp_path / f"by-name-{workers}"), workers) for workers in (1, 2)]
    assert found[0] == found[1] == Manifest.read(epath.Path(tmp_path / "by-name-1"))
    assert len(found[0].train) == 3, "a part a file"
    prepare(by_file, epath.Path(tmp_path / "by-file"), 1)
    tokens = {
        out: b"".join(path.read_bytes()[128:] for path in sorted((tmp_path / out).glob("*.npy")))
        for out in ("by-name-1", "by-file")
    }
    assert tokens["by-name-1"] == tokens["by-file"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "allenai/c4"}, r"data set 'allenai/c4' \(subset 'en', split 'train'\) cannot be opened"),
        ({"subset": "de"}, "BuilderConfig 'de' not found. Available: .*en"),
        ({"split": "trane"}, "Bad split: trane. Available splits: .*train.*check the names"),
    ],
)
def test_what_is_not_there_is_named(changes, message, c4):
    with pytest.raises(UserError, match=message):
        Dataset(**{"name": str(c4), "subset": "en"} | changes).shards()


def test_damaged_shard_is_named(c4):
    path = c4 / "en" / "c4-train.00001-of-00003.json.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="shard 1 of 3 cannot be read"):
        documents(Dataset(str(c4), "en"))


def test_data_set_of_tokens_is_refused(tmp_path):
    """As nvidia/ClimbMix is, whose tokens are GPT-2's."""
    root = tmp_path / "tokens"
    root.mkdir()
    (root / "part.jsonl").write_text('{"tokens": [1, 2], "token_count": 2}\n')
    with pytest.raises(UserError, match="record 0 has no field 'text'; its fields: tokens, token_count"):
        documents(Dataset(str(root)))
    with pytest.raises(UserError, match=r"field 'tokens' holds list, not text; .* turn tokens back into text first"):
        list(Share(Dataset(str(root)), 0, 1, "tokens").documents())
