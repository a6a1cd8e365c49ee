"""Streams of text: x is a window of tokens, y the same window one token later."""

from __future__ import annotations

import gzip
import itertools
import json
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.data.files import AnyPath, damaged, existing, listed, reading, stamp, verified
from widthwise.data.stream import Batch, Stream, endless, in_order

BLOCK = 1 << 20
"""Bytes or characters that are in memory at a time while a corpus is read."""

LONGEST = 1 << 23
"""Bytes or characters of a line at most: of a document of C4, of a line of WikiText."""

SPECIAL = ["<unk>", "<eos>"]
"""The first words of every vocabulary: any other word, and the end of a line."""

Tokens = NDArray[Any]


@checked
def text(
    paths: AnyPath | Sequence[AnyPath] | None = None, *, context: int = 64, tokens: str = "bytes", seed: int = 0
) -> Stream:
    """Random windows of text files; the last tenth of the text is held out.

    Args:
        paths: one file or several, read as one text in that order; by default the modules of Python's standard library.
        context: tokens per window.
        tokens: "bytes" (256 outputs) or "characters" (as many as the text has; files in UTF-8).
        seed: of the windows.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a text too short for one window; not UTF-8.

    Example:
        >>> stream = text(context=32)
        >>> x, y = next(stream.batches(4))
        >>> stream, x.shape, bool((x[:, 1:] == y[:, :-1]).all())
        (Stream('text', tokens, (32,) -> 256), (4, 32), True)
    """
    check.choice("tokens", tokens, ("bytes", "characters"))
    found = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if paths is None else paths
    files = listed(found, "Pass the path of a text file, or a list of them.")
    if tokens == "bytes":
        corpus, num_outputs = _spool(_byte_blocks(files), np.uint8), 256
    else:
        vocabulary = np.array([], dtype="<u4")
        for block in _character_blocks(files):
            vocabulary = np.union1d(vocabulary, block)
        corpus = _spool((np.searchsorted(vocabulary, block) for block in _character_blocks(files)), np.int32)
        num_outputs = len(vocabulary)
    settings = {"files": stamp(files), "tokens": tokens}
    return _windows("text", *_cut(corpus), num_outputs, context, seed, settings)


@checked
def wikitext(path: AnyPath, *, context: int = 64, tokens: str = "words", max_vocab: int = 32_768, seed: int = 0) -> Stream:
    """Random windows of WikiText-103 (or WikiText-2).

    Token numbers are kept in a temporary file, not in memory; to number the words of WikiText-103 takes about a minute.

    Args:
        path: the folder of wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens (or .raw), of which valid, else test, is held
            out; or one such file (or a folder with train alone), of which the last tenth is held out.
        context: tokens per window.
        tokens: "words" between blanks, with "<eos>" at the end of a line, or "bytes".
        max_vocab: the vocabulary is "<unk>", "<eos>" and the most frequent words of the training text, so many in all.
        seed: of the windows.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
        ValueError: a text too short for one window; not UTF-8.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "valid"):
        ...         _ = (Path(folder) / f"wiki.{part}.tokens").write_text(" a b a c \\n" * 30)
        ...     wikitext(folder, context=8, max_vocab=4)
        Stream('wikitext', tokens, (8,) -> 4)
    """
    check.choice("tokens", tokens, ("words", "bytes"))
    check.count("max_vocab", max_vocab, least=len(SPECIAL) + 1)
    cure = "Unpack wikitext-103-v1.zip and pass the folder with wiki.train.tokens."
    files = [existing(path, cure)]
    if files[0].is_dir():
        parts = {part: sorted(files[0].glob(f"wiki.{part}.*"), reverse=True)[:1] for part in ("train", "valid", "test")}
        files = (parts["train"] or [existing(files[0] / "wiki.train.tokens", cure)]) + (parts["valid"] or parts["test"])
    if tokens == "bytes":
        parts_, num_outputs = [_spool(_byte_blocks([file]), np.uint8) for file in files], 256
    else:
        counts = Counter(itertools.chain.from_iterable(_lines(files[0])))
        for word in SPECIAL:
            del counts[word]
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        index = {word: i for i, word in enumerate([*SPECIAL, *ranked][:max_vocab])}
        parts_ = [_spool(_numbered(_lines(file), index), np.int32) for file in files]
        num_outputs = len(index)
    head, tail = parts_ if len(parts_) == 2 else _cut(parts_[0])
    settings = {"files": stamp(files), "tokens": tokens, "max_vocab": max_vocab}
    return _windows("wikitext", head, tail, num_outputs, context, seed, settings)


@checked
def c4(paths: AnyPath | Sequence[AnyPath], *, context: int = 64, num_held_out: int = 1024) -> Stream:
    """One pass over C4's files in order, as bytes: windows of context + 1 bytes, packed across documents.

    A byte 0 ends each document. `start` reads past what came before, at the speed of reading. A file is read to its end once,
    for its checksum, before its first window is given.

    Args:
        paths: files c4-train.*.json.gz, one JSON document with "text" per line, in the order to be read.
        context: bytes per window.
        num_held_out: the first so many windows are held out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: when a batch comes to it, a file cut short or damaged, a line that is not such a document,
            or longer than 8 MiB.
        EndOfStream: after the last whole batch.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "c4-train.json.gz"
        ...     _ = path.write_bytes(gzip.compress(b'{"text": "three words here"}\\n' * 9))
        ...     x, y = next(c4(path, context=3, num_held_out=4).batches(2))
        >>> [bytes(row.astype(np.uint8)) for row in x], [bytes(row.astype(np.uint8)) for row in y]
        ([b'\\x00th', b'ee '], [b'thr', b'e w'])
    """
    check.count("context", context)
    check.count("num_held_out", num_held_out)
    files = listed(paths, "Pass the files c4-train.*.json.gz, in order.")

    def blocks(first: int) -> Generator[Batch, None, int]:
        first += num_held_out
        number = length = 0
        parts: list[bytes] = []
        for document in _documents(files):
            parts.append(document)
            length += len(document)
            if length <= context:
                continue
            rest = b"".join(parts)
            whole = length // (context + 1)
            if skip := min(max(first - number, 0), whole):  # windows before the first
                number, whole, rest = number + skip, whole - skip, rest[skip * (context + 1) :]
            if whole:
                windows = np.frombuffer(rest, np.uint8, whole * (context + 1)).reshape(whole, context + 1)
                number, rest = number + whole, rest[whole * (context + 1) :]
                yield windows[:, :-1], windows[:, 1:]
            parts, length = [rest], len(rest)
        return max(number - num_held_out, 0)

    def held_out(number: int) -> Batch:
        windows = list(itertools.islice(_rows_of(blocks(-num_held_out)), number))
        if len(windows) < number:
            raise ValueError(f"c4's files have {len(windows)} windows in all, got num_points={number}. Take fewer.")
        return np.stack([x for x, _ in windows]), np.stack([y for _, y in windows])

    return in_order(
        blocks,
        held_out,
        name="c4",
        input_shape=(context,),
        num_outputs=256,
        kind="tokens",
        num_held_out=num_held_out,
        settings={"files": stamp(files), "num_held_out": num_held_out},
    )


def _rows_of(blocks: Iterable[Batch]) -> Iterator[Batch]:
    for x, y in blocks:
        yield from zip(x, y, strict=True)


def _documents(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        verified(path, _unzipped)
        number = 0
        with reading(path), gzip.open(path, "rb") as lines:
            while line := lines.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise damaged(path, f"line {number} is longer than {LONGEST} bytes")
                try:
                    document = json.loads(line)["text"].encode(errors="replace") + b"\0"
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    raise damaged(path, f'line {number} is not a JSON document with a "text"') from error
                yield document
        if not number:
            raise damaged(path, "it has no documents")


def _unzipped(path: Path) -> Iterator[gzip.GzipFile]:
    with gzip.open(path, "rb") as file:
        yield file


def _byte_blocks(files: list[Path]) -> Iterator[Tokens]:
    for path in files:
        with reading(path), path.open("rb") as file:
            while block := file.read(BLOCK):
                yield np.frombuffer(block, np.uint8)


def _character_blocks(files: list[Path]) -> Iterator[Tokens]:
    for path in files:
        with _utf8(path), path.open(encoding="utf-8", newline="") as file:
            while block := file.read(BLOCK):
                yield np.frombuffer(block.encode("utf-32-le"), "<u4")


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}. Convert it, or take tokens='bytes'.") from error


def _lines(path: Path) -> Iterator[list[str]]:
    with _utf8(path), path.open(encoding="utf-8", newline="\n") as lines:
        while line := lines.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise ValueError(f"{path} has a line of more than {LONGEST} characters. Break it, or take tokens='bytes'.")
            yield [*line.split(), "<eos>"]


def _numbered(lines: Iterable[list[str]], index: dict[str, int]) -> Iterator[Tokens]:
    for line in lines:
        yield np.array([index.get(word, 0) for word in line])


def _spool(blocks: Iterable[Tokens], dtype: Any) -> Tokens:
    """The blocks one after another, in an unnamed temporary file that is mapped into memory."""
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            file.write(block.astype(dtype, copy=False).tobytes())
        file.flush()
        return np.memmap(file, dtype, "r") if file.tell() else np.array([], dtype)


def _cut(corpus: Tokens) -> tuple[Tokens, Tokens]:
    """All but the last tenth, and the last tenth."""
    at = len(corpus) - len(corpus) // 10
    return corpus[:at], corpus[at:]


def _windows(
    name: str, head: Tokens, tail: Tokens, num_outputs: int, context: int, seed: int, settings: dict[str, Any]
) -> Stream:
    """Windows at random places of `head` for batches, of `tail` for the probe."""
    check.count("context", context)
    for part, what in ((head, "to train on"), (tail, "held out")):
        if len(part) <= context:
            raise ValueError(
                f"{name} must have more than context = {context} tokens {what}, got {len(part)}. Add text or lower context."
            )

    def window(part: Tokens, rng: np.random.Generator, size: int) -> Batch:
        starts = rng.integers(len(part) - context, size=(size, 1))
        taken = part[starts + np.arange(context + 1)]
        return taken[:, :-1], taken[:, 1:]

    return endless(
        lambda rng, size: window(head, rng, size),
        check.seed("seed", seed),
        probe=lambda rng, size: window(tail, rng, size),
        name=name,
        input_shape=(context,),
        num_outputs=num_outputs,
        kind="tokens",
        settings=settings,
    )
