"""Commands for text: data prepare, data show."""

import os
import re
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from capscale.errors import UserError

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
"""Escapes for separators that are awkward to write in a shell."""


@dataclass
class Prepare:
    """Make token shards of text files, or of a data set of the Hugging Face Hub.

    Inputs are .txt, .jsonl, .json (an object a line) and .parquet files, the first three also as .gz, .bz2, .xz or
    .zst, and directories of them. Stopped at any moment and started again, it goes on; the shards are the same.

    Examples:
      capscale data prepare books.txt --separator '\\n\\n<|endoftext|>\\n' --tokenizer byte --out shards
      capscale data prepare c4/en --tokenizer llama2.model --out c4
      capscale data prepare --dataset allenai/c4 --subset en --tokenizer llama2.model --out c4
    """

    out: str
    """Directory of the shards: made if absent, continued if it was begun with the same input."""
    tokenizer: str
    """byte, a SentencePiece .model file or a Hugging Face tokenizer.json file."""
    inputs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files and directories; or none, with --dataset."""
    eos: str | None = None
    """Token after every document, where the tokenizer's file does not say it."""
    separator: str | None = None
    r"""Text between the documents of text files; \n, \t, \r and \\ are understood. Without it they are cut at line ends
    into stretches of 64 KiB."""
    field: str = "text"
    """Field that holds the text, in JSON lines, Parquet and data sets."""
    dataset: str | None = None
    """Data set of the Hugging Face Hub, or a directory of the same layout."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    validation_share: float = 0.01
    """Share of the documents held out, by a hash of their text."""
    validation_tokens: int = 1 << 21
    """Most tokens of the validation set, 33,554,432 at most."""
    name: str | None = None
    """Name of the text in run files; that of the directory if not given."""
    most_lost: float = 0.01
    """Largest share of the text's characters, in a sample, that may not come back from their tokens."""
    workers: int | None = None
    """Processes; as many as there are cores if not given. The shards do not depend on it. Each does parts of about
    64 MiB of files, so that small inputs keep few of them busy."""

    def __call__(self) -> int:
        """Prepares, and prints the table of `Show`."""
        from etils import epath
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from capscale.data.documents import LONGEST
        from capscale.data.hub import Dataset
        from capscale.data.inputs import PART
        from capscale.data.prepare import Request, prepare
        from capscale.data.tokenize import Split

        request = Request(
            tokenizer=self.tokenizer,
            inputs=self.inputs,
            dataset=None if self.dataset is None else Dataset(self.dataset, self.subset, self.split, self.revision),
            end=self.eos,
            separator=None if self.separator is None else unescaped(self.separator),
            field=self.field,
            split=Split(self.validation_share, self.validation_tokens),
            name=self.name,
            most_lost=self.most_lost,
        )
        if self.dataset is None and (self.subset is not None or self.revision is not None):
            raise UserError("--subset and --revision belong to --dataset, which is not given; add it or drop them")
        columns = (TextColumn("parts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        workers = self.workers if self.workers is not None else os.cpu_count() or 1
        peak = parts = 0
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("parts", total=None)

            def observe(progress) -> None:
                nonlocal peak, parts
                parts = progress.parts
                peak = max(peak, progress.peak_bytes)
                bar.update(task, completed=progress.done, total=progress.parts)

            manifest = prepare(request, epath.Path(self.out), workers, observe)
        print_table(manifest)
        mean = sum(shard.text_bytes for shard in manifest.train) / sum(shard.documents for shard in manifest.train)
        if self.separator is not None and mean > LONGEST / 2:
            print(
                f"capscale: documents have {mean:,.0f} bytes on average, as if cut at their longest, {LONGEST:,}: see "
                f"that --separator {self.separator!r} is what stands between them",
                file=sys.stderr,
            )
        if self.workers is not None and 0 < parts < self.workers:
            print(
                f"capscale: --workers {self.workers}: the input makes {parts} part{'s' * (parts > 1)} of about "
                f"{PART >> 20} MiB, which as many processes have done",
                file=sys.stderr,
            )
        if peak:
            print(f"peak memory of a process: {peak / 2**20:,.0f} MiB")
        return 0


@dataclass
class Show:
    """Show what a directory of token shards holds, and whether it is all there.

    Example:
      capscale data show shards --verify
    """

    directory: Annotated[str, tyro.conf.Positional]
    """Directory with a manifest.json."""
    verify: bool = False
    """Hash every shard again, whatever is remembered of earlier checks."""

    def __call__(self) -> int:
        """Prints the manifest's table, and checks the shards."""
        from etils import epath

        from capscale.cli.waiting import waiting
        from capscale.data.manifest import Manifest
        from capscale.data.shards import Shards

        shards = Shards(epath.Path(self.directory))
        print_table(Manifest.read(epath.Path(self.directory)))
        with waiting("hashing the shards"):
            shards.check(again=self.verify)
        print(f"{len(shards.manifest.shards)} shards are whole" + (" (hashed now)" if self.verify else ""))
        return 0


@dataclass
class Data:
    """Make token shards of text, and look at them."""

    command: Annotated[
        Annotated[Prepare, tyro.conf.subcommand("prepare", prefix_name=False)]
        | Annotated[Show, tyro.conf.subcommand("show", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def __call__(self) -> int:
        """Does what was asked."""
        return self.command()


def unescaped(text: str) -> str:
    r"""A separator as it was meant: `\n`, `\t`, `\r` and `\\` stand for what they do in Python."""
    return re.sub(r"\\[ntr\\]", lambda found: ESCAPES[found.group()], text)


def print_table(manifest) -> None:
    """Prints what the shards hold."""
    from rich.console import Console
    from rich.table import Table

    data, tokenizer = manifest.data_id, manifest.tokenizer
    print(f"{data.name}: sha256 {data.sha256}")
    print(
        f"tokenizer {tokenizer.name} ({tokenizer.kind}, sha256 {tokenizer.sha256[:16]}): "
        f"{tokenizer.vocabulary:,} tokens, {tokenizer.end} ends a document, stored as {manifest.dtype}"
    )
    if (sample := manifest.sample) is not None:
        lost = f"{sample.share:.2%} ({', '.join(map(repr, sample.missing))})" if sample.lost else "none"
        print(
            f"lost by the tokenizer: {lost} of {sample.characters:,} characters in {sample.documents:,} documents, "
            "case, accents and blanks aside"
        )
    table = Table(*("part", "shards", "documents", "tokens", "bytes of text", "bytes per token"), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for side, shards in (("train", manifest.train), ("validation", (manifest.validation,))):
        documents, tokens, text = (
            sum(getattr(shard, field) for shard in shards) for field in ("documents", "tokens", "text_bytes")
        )
        table.add_row(side, f"{len(shards):,}", f"{documents:,}", f"{tokens:,}", f"{text:,}", f"{text / tokens:.3f}")
    unused = manifest.unused
    table.add_row("held out, unused", "", f"{unused['documents']:,}", f"{unused['tokens']:,}", "", "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
