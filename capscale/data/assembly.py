"""Parts that are done, joined to one text."""

from typing import Any

import numpy as np
from etils import epath

from capscale.data.fidelity import Sample
from capscale.data.manifest import Manifest, Shard
from capscale.data.tokenize import REMEDY, WORK, Job, held_out_files, save_shard, shards_of
from capscale.errors import UserError
from capscale.files import read_json


def assemble(job: Job, parts: int, name: str, recipe: dict[str, Any], versions: dict[str, str]) -> Manifest:
    """Joins what the parts held out, as much as the validation set may have, and writes the manifest.

    Raises `UserError` when there is nothing to train on, too little to validate on, or too much lost in tokens.
    """
    out = epath.Path(job.out)
    train: list[Shard] = []
    tokens: list[np.ndarray] = []
    held = {"documents": 0, "tokens": 0, "text_bytes": 0}
    unused = {"documents": 0, "tokens": 0}
    sample = Sample()
    for number in range(parts):
        path = out / WORK / f"{number:05d}.json"
        record = read_json(path, REMEDY)
        train += shards_of(record, path)
        of_tokens, of_documents = held_out_files(number)
        documents = _load(out / WORK / of_documents)
        fitting = held["tokens"] + np.cumsum(documents[:, 0]) <= job.split.cap
        count = 0 if any(unused.values()) else int(fitting.sum())
        taken, left = documents[:count], documents[count:]
        tokens.append(_load(out / WORK / of_tokens)[: taken[:, 0].sum()])
        held["documents"] += count
        held["tokens"] += int(taken[:, 0].sum())
        held["text_bytes"] += int(taken[:, 1].sum())
        unused["documents"] += record["unused"]["documents"] + len(left)
        unused["tokens"] += record["unused"]["tokens"] + int(left[:, 0].sum())
        sample += Sample(**record["sample"])
    sample.check(job.most_lost, job.tokenizer)
    if not train:
        raise UserError(f"nothing to train on: the input holds no documents, or all are held out; {REMEDY}")
    if held["documents"] < 2 and unused["documents"]:
        raise UserError(f"the first 2 documents held out exceed {job.split.cap:,} tokens; raise --validation-tokens")
    if held["documents"] < 2:
        raise UserError(
            f"{held['documents']} of {held['documents'] + sum(shard.documents for shard in train):,} documents are "
            f"held out with a share of {job.split.share}, too few for a standard error; raise --validation-share, or "
            "give a --separator that makes more documents"
        )
    validation = Shard("validation.npy", **held, **save_shard(out / "validation.npy", np.concatenate(tokens)))
    manifest = Manifest(
        name, job.identity.dtype.name, job.identity, recipe, tuple(train), validation, unused, versions, sample
    )
    manifest.write(out)
    return manifest


def _load(path: epath.Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
