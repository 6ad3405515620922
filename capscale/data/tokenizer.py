"""Text to tokens, by the tokenizer of a file."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from etils import epath

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.files import read_json

BYTES = 256
"""Values of a byte; the byte tokenizer's end of document comes after them."""
ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|im_end|>")
"""How the end of a document is called in the files of Llama, GPT-2 and OLMo, Llama 3, Gemma, Qwen."""
STDERR = 2
INSTALL = "it comes with `pip install 'capscale[data]'`"


@dataclass(frozen=True)
class TokenizerId:
    """Identity of a tokenizer, as a manifest records it.

    Attributes:
      kind: whose file it is.
      name: the file's name.
      sha256: of the file.
      vocabulary: token numbers lie below it.
      begin: token before every document, if its recipe has one.
      end: token after every document; no text is encoded as it.
    """

    kind: Literal["byte", "sentencepiece", "huggingface"]
    name: str
    sha256: str
    vocabulary: int
    begin: int | None
    end: int

    def __post_init__(self):
        check_choice(self, "kind", ("byte", "sentencepiece", "huggingface"))
        check_whole(self, "vocabulary", least=1)
        check_whole(self, "begin", most=self.vocabulary - 1, optional=True)
        check_whole(self, "end", most=self.vocabulary - 1)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type of at least 16 bits that holds every token."""
        return np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.uint32)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer ready for use.

    Attributes:
      id: what it is.
      encode: texts to token numbers, those that open and close a document included.
      decode: the inverse, as far as there is one: without what opens and closes a document and what is unknown.
      libraries: packages whose version may change what `encode` returns.
    """

    id: TokenizerId
    encode: Callable[[Sequence[str]], list[np.ndarray]] = field(repr=False)
    decode: Callable[[np.ndarray], str] = field(repr=False)
    libraries: tuple[str, ...] = ()


def load_tokenizer(name: str, end: str | None = None) -> Tokenizer:
    """The tokenizer called `byte`, or that of a SentencePiece `.model` or Hugging Face `.json` file.

    Args:
      name: `byte` or a path, local or remote.
      end: the token after every document; found in the file or beside it if not given.

    Raises:
      UserError: there is no such file, it is not what its name says, or its end of document is not known.
    """
    if name == "byte":
        if end is not None:
            raise UserError(f"--eos {end!r} cannot be chosen for the byte tokenizer; its end of document is {BYTES}")
        digest = hashlib.sha256(b"bytes, then the end of a document").hexdigest()
        return Tokenizer(TokenizerId("byte", "byte", digest, BYTES + 1, None, BYTES), _encode_bytes, _decode_bytes)
    path = epath.Path(name)
    loaders = {".model": _sentencepiece, ".json": _huggingface}
    if path.suffix not in loaders:
        raise UserError(
            f"tokenizer {name!r} is not known; use byte, a SentencePiece .model or a Hugging Face .json file"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer {name!r} cannot be read ({error.strerror or error}); check the path") from error
    if not content:
        raise UserError(f"tokenizer {name!r} is empty; fetch it again")
    return loaders[path.suffix](path, content, hashlib.sha256(content).hexdigest(), end)


def _encode_bytes(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.append(np.frombuffer(text.encode(), np.uint8).astype(np.uint16), np.uint16(BYTES)) for text in texts]


def _decode_bytes(tokens: np.ndarray) -> str:
    return tokens[tokens < BYTES].astype(np.uint8).tobytes().decode(errors="ignore")


def _sentencepiece(path: epath.Path, content: bytes, digest: str, end: str | None) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(f"tokenizer {str(path)!r} needs the package sentencepiece; {INSTALL}") from error
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"tokenizer {str(path)!r} is not a SentencePiece model; check the file") from error
    size = model.vocab_size()
    last = model.eos_id() if end is None else model.piece_to_id(end)
    if last < 0 or (end is not None and last == model.unk_id()):
        raise UserError(_no_end(path, end))
    first = None if model.bos_id() < 0 else model.bos_id()
    identity = TokenizerId("sentencepiece", path.name, digest, size, first, last)
    opening = [] if first is None else [first]

    unknown = [model.unk_id(), last, *opening]

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        with _working(path):
            tokens = model.encode(list(texts), out_type=int, num_threads=1)  # processes are what runs side by side
        return [np.array([*opening, *of_text, last], identity.dtype) for of_text in tokens]

    def decode(tokens: np.ndarray) -> str:
        with _working(path):
            return model.decode(tokens[~np.isin(tokens, unknown)].tolist())

    return Tokenizer(identity, encode, decode, ("sentencepiece",))


def _huggingface(path: epath.Path, content: bytes, digest: str, end: str | None) -> Tokenizer:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are what runs side by side
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"tokenizer {str(path)!r} needs the package tokenizers; {INSTALL}") from error
    with _silence(), _working(path, "is not a tokenizers file"):
        model = tokenizers.Tokenizer.from_str(content.decode())
    numbers = model.get_vocab(with_added_tokens=True).values()
    if max(numbers, default=0) >= 2 * len(numbers):  # before it is written, which takes memory for every number below
        raise UserError(
            f"tokenizer {str(path)!r} has {len(numbers):,} tokens with numbers up to {max(numbers):,}: most rows of an "
            "embedding would belong to none; number its tokens from 0 on without gaps, or take out those far off"
        )
    with _silence(), _working(path, "is not a tokenizers file"):
        described = json.loads(model.to_str())
    model.no_truncation()
    model.no_padding()
    model.encode_special_tokens = True  # a text that spells the end of a document does not end it
    name = end if end is not None else _declared_end(path) or _conventional_end(model)
    last = None if name is None else model.token_to_id(name)
    if last is None:
        raise UserError(_no_end(path, name))
    with _working(path):
        empty = model.encode("").ids  # what the file's own recipe puts around a text
    first = empty[0] if empty and empty[0] != last else None
    size = max([*numbers, *empty]) + 1
    identity = TokenizerId("huggingface", path.name, digest, size, first, last)

    unknown = [number for number in (first, last, _unknown(model, described)) if number is not None]
    if described["decoder"] is None and "ByteLevel" in _kinds(described["pre_tokenizer"]):
        model.decoder = tokenizers.decoders.ByteLevel()  # tokens are spelled in letters that stand for bytes

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        with _working(path):
            tokens = [encoding.ids for encoding in model.encode_batch_fast(list(texts))]
        return [np.array(ids if ids[-1:] == [last] else [*ids, last], identity.dtype) for ids in tokens]

    def decode(tokens: np.ndarray) -> str:
        with _working(path):
            return model.decode(tokens[~np.isin(tokens, unknown)].tolist())

    return Tokenizer(identity, encode, decode, ("tokenizers",))


def _unknown(model: Any, described: dict[str, Any]) -> int | None:
    """Number of the token that stands for what has none; Unigram models say the number, others the name."""
    named = described["model"].get("unk_token")
    return described["model"].get("unk_id") if named is None else model.token_to_id(named)


def _kinds(part: dict[str, Any] | None) -> set[str]:
    """Types of a part of a tokenizers file, and of those in it where it is a sequence."""
    if part is None:
        return set()
    return {part["type"]}.union(*map(_kinds, part.get("pretokenizers", [])))


@contextmanager
def _working(path: epath.Path, fault: str = "failed at a text") -> Iterator[None]:
    """Turns whatever a tokenizer's library raises into a `UserError`: it raises nothing narrower.

    A panic in Rust is no `Exception`, and known by its name only.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"tokenizer {str(path)!r} {fault} ({reason}); check it, or fetch it again") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps off the screen what a library writes to the process's stderr itself, such as the stack of a panic."""
    try:
        kept = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


def _declared_end(path: epath.Path) -> str | None:
    """The end-of-document token that the tokenizer_config.json beside a tokenizer names, if there is one."""
    beside = path.parent / "tokenizer_config.json"
    if not beside.exists():
        return None
    found = read_json(beside, "give the token that ends a document with --eos").get("eos_token")
    return found.get("content") if isinstance(found, dict) else found


def _conventional_end(model) -> str | None:
    found = [name for name in ENDS if model.token_to_id(name) is not None]
    return found[0] if len(found) == 1 else None


def _no_end(path: epath.Path, name: str | None) -> str:
    if name is not None:
        return f"tokenizer {str(path)!r} has no token {name!r}; give another --eos"
    return f"tokenizer {str(path)!r} does not say which token ends a document; give it with --eos"
