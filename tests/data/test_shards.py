"""Token shards as a source: batches are a function of (seed, step), and what is not whole stops a run ahead of it."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath
from support import texts, tiny

from capscale.artifacts import sealed
from capscale.data import inputs, manifest
from capscale.data.load import load_source
from capscale.data.shards import Shards
from capscale.data.tokenize import Split
from capscale.errors import UserError

CONTEXTS = (5, 16, 64)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A dozen shards of a few thousand bytes."""
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PART", 4096)
        texts.shards(root / "out", texts.write_text(root / "book.txt"), split=Split(0.2, 1 << 20))
    return root / "out"


@pytest.fixture
def shards(directory):
    return Shards(epath.Path(directory))


@pytest.fixture
def copy(directory, tmp_path):
    """The shards in a directory that may be spoiled."""
    for path in directory.glob("[!.]*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def windows(directory, context):
    """Every training window, by brute force."""
    return [
        tuple(tokens[first : first + context + 1].tolist())
        for tokens in (np.load(path) for path in sorted(directory.glob("train-*.npy")))
        for first in range(0, len(tokens) - context, context)
    ]


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_epoch_visits_every_window_once(context, shards, directory):
    every = windows(directory, context)
    count = len(every)
    found = shards.batches(context, count, seed=3, first_step=0, steps=2)
    assert found.shape == (2, count, context + 1)
    assert found.dtype == np.uint16
    for epoch in found:
        assert sorted(map(tuple, epoch.tolist())) == sorted(every)
    assert (found[0] != found[1]).any()
    assert list(map(tuple, found[0].tolist())) != every


@pytest.mark.parametrize("split", [1, 3, 7])
def test_any_split_of_steps_and_rows_gives_the_same_batches(split, shards):
    whole = shards.batches(64, 80, seed=5, first_step=0, steps=14)  # more than two epochs, in reads of 64
    parts = [shards.batches(64, 80, 5, first, min(split, 14 - first)) for first in range(0, 14, split)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    rows = [shards.batches(64, 80, 5, 9, 4, rows=slice(first, first + 20)) for first in range(0, 80, 20)]
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole[9:13])
    assert shards.batches(64, 80, 5, 9, 4, rows=slice(0, 0)).shape == (4, 0, 65)


def test_another_reader_gives_the_same_batches(shards, directory):
    again = Shards(epath.Path(directory)).batches(16, 8, seed=5, first_step=90, steps=3)
    np.testing.assert_array_equal(again, shards.batches(16, 8, seed=5, first_step=90, steps=3))


def test_neighbouring_seeds_share_no_epoch(shards, directory):
    count = len(windows(directory, 64))
    epochs = {epoch.tobytes() for seed in range(4) for epoch in shards.batches(64, count, seed, 0, 4)}
    assert len(epochs) == 16


def test_golden_batches(shards):
    """Written down once: another grain that shuffled otherwise would silently train another run under the same id."""
    found = shards.batches(16, 4, seed=0, first_step=7, steps=2)[:, :, :3]
    assert found.tolist() == [
        [[169, 32, 110], [105, 110, 110], [114, 32, 110], [172, 32, 116]],
        [[130, 172, 32], [117, 226, 130], [226, 130, 172], [240, 157, 132]],
    ]


@pytest.mark.parametrize("context", CONTEXTS)
def test_validation_by_brute_force(context, shards, directory):
    tokens = np.load(directory / "validation.npy")
    found, blocks = shards.validation(context)
    expected = [tokens[first : first + context + 1].tolist() for first in range(0, len(tokens) - context, context)]
    assert found.tolist() == expected
    document = [0]
    for token in tokens:
        document.append(document[-1] + (token == 256))
    assert blocks.tolist() == [document[number * context] for number in range(len(expected))]
    assert blocks.dtype == np.int32


def test_validation_documents_are_in_no_training_window(shards):
    trained = shards.batches(64, 100, 0, 0, 5).reshape(-1, 65)  # each of them, and some of the next epoch
    held_out = {stretch.tobytes() for stretch in shards.validation(32)[0] if 256 not in stretch}
    found = {row[first : first + 33].tobytes() for row in trained for first in range(33)}
    assert held_out
    assert len(found) > 10_000
    assert not held_out & found


def test_shards_are_opened_by_one_thread_at_a_time(directory, monkeypatch):
    """Whichever threads read them, and whichever object."""
    inside, most, load = [], [], np.load

    def slow(path, **options):
        inside.append(path)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return load(path, **options)

    monkeypatch.setattr(np, "load", slow)
    both = [Shards(epath.Path(directory)) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: both[n % 2].batches(32, 16, n, 0, 8), range(4)))
    assert len(most) >= 2 * 2
    assert max(most) == 1
    assert found[0].shape == (8, 16, 33)


def test_bits_per_byte_count_the_text_alone(shards, directory):
    tokens = np.load(directory / "validation.npy")
    assert shards.bytes_per_symbol == (tokens != 256).sum() / len(tokens)


@pytest.mark.parametrize("side", ["train", "validation"])
def test_context_that_nothing_has_room_for_is_refused(side, shards):
    with pytest.raises(UserError, match=f"context=100000 does not fit the {side} shards of 'texts': the longest has"):
        shards.validation(100_000) if side == "validation" else shards.batches(100_000, 1, 0, 0, 1)


def test_identity_follows_from_the_tokens_alone(directory, tmp_path):
    book, other = (
        texts.write_text(tmp_path / "elsewhere.txt"),
        texts.write_text(tmp_path / "o.txt", texts.documents(150)),
    )
    first = texts.shards(tmp_path / "a", book)
    assert texts.shards(tmp_path / "b", book, workers=2).data_id == first.data_id
    assert texts.shards(tmp_path / "c", other).data_id.sha256 != first.data_id.sha256
    assert texts.shards(tmp_path / "d", book, split=Split(0.2, 1 << 20)).data_id.sha256 != first.data_id.sha256
    assert texts.shards(tmp_path / "e", book, name="renamed").data_id.sha256 == first.data_id.sha256
    assert first.data_id.vocabulary == 257
    (tmp_path / "a").rename(tmp_path / "moved")
    assert load_source(str(tmp_path / "moved")).id == first.data_id


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        kept = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


@pytest.mark.parametrize("before", [False, True], ids=["never verified", "verified before"])
@pytest.mark.parametrize("name", ["train-00000-000.npy", "train-00003-000.npy", "validation.npy"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"{name} is missing \(No such file or directory\); fetch it again"),
        ("cut", r"{name} has [\d,]+ bytes, not [\d,]+; fetch it again"),
        ("altered", r"{name} was altered: its sha256 is \w{{12}}, not \w{{12}}; fetch it again"),
    ],
)
def test_what_is_not_whole_is_named(how, message, name, before, copy):
    source = load_source(str(copy))
    if before:
        source.check()
    spoil(copy / name, how)
    with pytest.raises(UserError, match=message.format(name=name)):
        source.check()


@pytest.mark.parametrize("how", ["missing", "cut", "altered"])
def test_no_step_is_made_on_what_is_not_whole(how, copy, tmp_path_factory):
    from dataclasses import replace

    from capscale.train.loop import train

    source = load_source(str(copy))
    run = tiny.run(data=source.id, model=replace(tiny.MODEL, vocabulary=257))
    spoil(copy / "train-00002-000.npy", how)
    out = epath.Path(tmp_path_factory.mktemp("run"))
    with pytest.raises(UserError, match=r"shard .*train-00002-000.npy"):
        train([run], source, [out / "run"], tiny.one_device(run), intervals=tiny.SHORT)
    assert not (out / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_trains_to_a_result(directory, tmp_path):
    from dataclasses import replace

    from capscale.train.loop import train

    source = load_source(str(directory))
    run = tiny.run(data=source.id, model=replace(tiny.MODEL, vocabulary=257))
    (result,) = train([run], source, [epath.Path(tmp_path / "run")], tiny.one_device(run), intervals=tiny.SHORT)
    assert result["status"] == "ok"
    assert 0 < result["row"]["loss"] < np.log(300)


def test_model_of_a_smaller_vocabulary_is_refused(directory):
    with pytest.raises(UserError, match="data 'texts' has 257 symbols, the model only 96"):
        tiny.run(data=load_source(str(directory)).id)


def test_contents_are_hashed_once(copy, monkeypatch):
    source, real, hashed = load_source(str(copy)), manifest.sha256, []
    monkeypatch.setattr(manifest, "sha256", lambda path: hashed.append(path.name) or real(path))
    source.check()
    assert len(hashed) == len(source.manifest.shards)
    source.check()
    load_source(str(copy)).check()
    assert len(hashed) == len(source.manifest.shards), "the stamp is believed"
    (copy / "validation.npy").write_bytes((copy / "validation.npy").read_bytes())
    source.check()
    assert hashed[len(source.manifest.shards) :] == ["validation.npy"]
    source.check(again=True)
    assert len(hashed) == 2 * len(source.manifest.shards) + 1


@pytest.mark.parametrize("stamp", ["", "[]", "{", '{"validation.npy": 3}'])
def test_bad_stamps_are_not_believed(stamp, copy):
    (copy / ".verified.json").write_text(stamp)
    spoil(copy / "validation.npy", "altered")
    with pytest.raises(UserError, match="was altered"):
        load_source(str(copy)).check()


def test_directory_that_may_only_be_read(copy, monkeypatch):
    """Is hashed once in a process, also where many runs ask at once, as those of a sweep do."""
    source, real, hashed = load_source(str(copy)), manifest.sha256, []

    def refuse(*args, **options):
        raise UserError("read-only")

    monkeypatch.setattr(manifest, "write_text", refuse)
    monkeypatch.setattr(manifest, "sha256", lambda path: hashed.append(path.name) or real(path))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: source.check(), range(4)))
    assert len(hashed) == len(source.manifest.shards)
    assert not (copy / ".verified.json").exists()
    spoil(copy / "validation.npy", "altered")
    with pytest.raises(UserError, match="was altered"):
        source.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"vocabulary": 257', '"vocabulary": 96'), "was altered after it was written"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, not 1; prepare the data again"),
        (lambda text: text[:100], "is not readable JSON"),
        (lambda text: "[]", "holds list, not a JSON object"),
        (lambda text: "{}", "has schema None"),
    ],
)
def test_manifest_that_was_altered_is_refused(change, message, copy):
    path = copy / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        load_source(str(copy))


def forged(copy, change):
    """A manifest as anyone can write one: its digest is of itself."""
    content = json.loads((copy / "manifest.json").read_text())
    del content["sha256"]
    change(content)
    (copy / "manifest.json").write_text(json.dumps(sealed(content)))


ELSEWHERE = ["./../../../.bashrc", "../evil.py", "/etc/cron.d/x", "..", "", ".verified.json", "a\\b", "a/b", "a\0b"]


@pytest.mark.parametrize("side", ["train", "validation"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_shards_that_name_files_elsewhere_are_refused(name, side, copy, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    forged(copy, lambda content: (content["train"][0] if side == "train" else content["validation"]).update(file=name))
    with pytest.raises(
        UserError, match=r"manifest.json: file of a shard is .*, and not the plain name .*; prepare the"
    ):
        load_source(str(copy))
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("train"), "manifest.json is described incompletely"),
        (lambda content: content.update(train=3), "manifest.json is described incompletely"),
        (lambda content: content.update(train=[3]), "manifest.json describes a shard by 3, not by "),
        (lambda content: content["validation"].pop("file"), "manifest.json describes a shard by "),
        (lambda content: content["validation"].update(more=1), "manifest.json describes a shard by "),
        (lambda content: content["validation"].update(size="large"), "manifest.json: size of a shard is 'large'"),
        (lambda content: content["tokenizer"].update(more=1), "manifest.json is described incompletely"),
    ],
)
def test_manifest_that_describes_no_shards_is_refused(change, message, copy):
    forged(copy, change)
    with pytest.raises(UserError, match=f"{message}.*; prepare the data again"):
        load_source(str(copy))


def test_directory_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no manifest.json; make token shards with `capscale data prepare`"):
        load_source(str(tmp_path))


def test_text_files_and_no_path_are_byte_corpora(tmp_path, monkeypatch):
    monkeypatch.setattr("capscale.data.corpus.standard_library_text", tiny.text)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    assert load_source(str(tmp_path / "text.txt")).id.vocabulary == 96
    assert load_source(None).id.name == "python-standard-library"
