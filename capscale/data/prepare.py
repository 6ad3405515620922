"""Files of text to token shards: side by side, begun again where it stopped, the same bytes whatever happened."""

import fcntl
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from etils import epath

from capscale.checks import check_finite
from capscale.data.assembly import assemble
from capscale.data.documents import LONGEST, STRETCH
from capscale.data.fidelity import MOST_LOST
from capscale.data.hub import Dataset, Share
from capscale.data.inputs import Part, find_files, is_text, share_out
from capscale.data.manifest import NAME, Manifest
from capscale.data.tokenize import REMEDY, WORK, Job, Split, is_done
from capscale.data.tokenizer import load_tokenizer
from capscale.data.workers import tokenize_all
from capscale.errors import UserError
from capscale.files import read_json, refuse_link, write_json, writing
from capscale.storage import children, is_object_storage, make_directory
from capscale.store import TEMPORARY

PLAN = "plan.json"
LOCK = ".lock"
DEFAULT_SPLIT = Split(share=0.01, cap=1 << 21)


@dataclass(frozen=True)
class Request:
    """Settings of the shards to make.

    Attributes:
      inputs: files and directories; or none, with a data set.
      dataset: on the Hugging Face Hub.
      tokenizer: see `load_tokenizer`.
      end: token after every document, where the tokenizer's file does not say it.
      separator: what stands between documents in text files; None cuts them at line ends into stretches of 64 KiB.
      field: field of the text in JSON lines, Parquet and data sets.
      split: which documents are held out.
      name: of the text, in run files; that of the directory if not given.
      most_lost: largest share of characters that may not come back from their tokens.
    """

    tokenizer: str
    inputs: tuple[str, ...] = ()
    dataset: Dataset | None = None
    end: str | None = None
    separator: str | None = None
    field: str = "text"
    split: Split = DEFAULT_SPLIT
    name: str | None = None
    most_lost: float = MOST_LOST

    def __post_init__(self):
        check_finite(self, "most_lost", least=0, most=1)


class Progress(NamedTuple):
    """Report to an observer after every part: those done, of how many; and the most memory a process has used."""

    done: int
    parts: int
    peak_bytes: int


def prepare(
    request: Request, out: epath.Path, workers: int, observe: Callable[[Progress], None] = lambda progress: None
) -> Manifest:
    """Makes the shards and their manifest in `out`, or what is missing of them.

    The result does not depend on `workers`, nor on how often it was stopped. A process needs memory for a shard and for
    the longest documents and lines, whatever the size of the input.

    Raises:
      UserError: an input that cannot be read or is not text, an unknown tokenizer, nothing to hold out or to train on,
        another text's directory, or a disk that refuses.
    """
    if workers < 1:
        raise UserError(f"--workers {workers} must be at least 1")
    tokenizer = load_tokenizer(request.tokenizer, request.end)
    parts, files = _parts(request, out)
    name = request.name or out.resolve().name
    recipe = {
        "inputs": [[name, size] for name, size, _ in files],
        "separator": request.separator,
        "field": request.field,
        "longest_document": LONGEST,
        "stretch": STRETCH,
        "split": asdict(request.split),
    }
    versions = {library: importlib.metadata.version(library) for library in ("capscale", *tokenizer.libraries)}
    identity = {"name": name, "recipe": recipe, "tokenizer": asdict(tokenizer.id)}
    with _held(out):
        refuse_link(out / WORK)
        if (out / NAME).exists():
            found = Manifest.read(out)
            _same(out, {"name": found.name, "recipe": found.recipe, "tokenizer": asdict(found.tokenizer)}, identity)
        else:
            _begin(out, identity | {"versions": versions, "changed": [time for *_, time in files]})
            job = Job(str(out), request.tokenizer, request.end, tokenizer.id, request.split, request.most_lost)
            missing = [number for number in range(len(parts)) if not is_done(out, number)]
            done = len(parts) - len(missing)
            for peak in tokenize_all(job, parts, missing, min(workers, len(missing))):
                done += 1
                observe(Progress(done, len(parts), peak))
            found = assemble(job, len(parts), name, recipe, versions)
        _tidy(out, found)
    return found


def _parts(request: Request, out: epath.Path) -> tuple[list[Part], list[tuple[str, int, int]]]:
    """The parts of the input; and of its files the name, size and time of change."""
    if request.dataset is not None and request.inputs:
        raise UserError(
            f"both inputs {', '.join(request.inputs)} and --dataset {request.dataset.name} are given; drop one"
        )
    if request.dataset is not None and request.separator is not None:
        raise UserError(
            f"--separator {request.separator!r} is for text files; a data set has a document a record: drop it"
        )
    if request.dataset is not None:
        shards = request.dataset.shards()
        shares = [Share(request.dataset, number, len(shards), request.field) for number in range(len(shards))]
        return [(share,) for share in shares], [(shard, 0, 0) for shard in shards]
    if not request.inputs:
        raise UserError("no input is given; name files or directories, or a Hugging Face data set by --dataset")
    if request.separator == "":
        raise UserError("--separator is empty; give the text between documents, or none at all")
    files = [(name, path) for name, path in find_files(request.inputs) if out.resolve() not in path.resolve().parents]
    if request.separator is not None and not any(is_text(path) for _, path in files):
        raise UserError(
            f"--separator {request.separator!r} is for text files; {', '.join(request.inputs)} has a document a "
            "record: drop it"
        )
    stats = [(name, path.stat()) for name, path in files]
    parts = share_out([path for _, path in files], request.separator, request.field)
    return parts, [(name, stat.length, stat.mtime) for name, stat in stats]


def _begin(out: epath.Path, plan: dict[str, Any]) -> None:
    """Makes `out` the directory of this plan, or checks that it is; a plan of which no part is done is dropped."""
    path = out / WORK / PLAN
    if not (out / WORK).exists():
        occupied = [child.name for child in children(out) if not child.name.startswith(".")]
        if occupied:
            raise UserError(f"{out} holds no {NAME} but {occupied[0]!r}; choose an empty or new --out")
        with writing(path):
            make_directory(path.parent)
    if not path.exists() or not any((out / WORK).glob("[0-9]*.json")):
        write_json(path, plan)
    _same(out, read_json(path, REMEDY), plan)


def _same(out: epath.Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            _same(out, found[name], value)
        elif found.get(name) != value:
            known, asked = (repr(side)[:100] for side in (found.get(name), value))
            raise UserError(f"{out} was begun with another {name}: {known}, now {asked}; {REMEDY}")


@contextmanager
def _held(out: epath.Path) -> Iterator[None]:
    """Makes `out` and holds it, where the file system has locks; `UserError` while another process does."""
    with writing(out):
        make_directory(out)
    with ExitStack() as stack:
        try:
            if is_object_storage(out):
                raise OSError("object storage has no locks")
            file = stack.enter_context(open(out / LOCK, "w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:
                raise BlockingIOError("its holder has just ended, and removed the file that is locked here")
        except BlockingIOError as error:
            raise UserError(f"{out} is being prepared by another process; wait for it or stop it") from error
        except OSError:
            pass
        else:
            stack.callback(lambda: (out / LOCK).unlink(missing_ok=True))
        yield


def _tidy(out: epath.Path, manifest: Manifest) -> None:
    """Removes what only the making needed, and shards of a plan that was dropped."""
    listed = {shard.file for shard in manifest.shards}
    stale = [path for path in out.glob("train-*.npy") if path.name not in listed]
    with writing(out):
        if (out / WORK).exists():
            (out / WORK).rmtree()
        for path in [*stale, *out.glob(f".*{TEMPORARY}")]:
            path.unlink(missing_ok=True)
