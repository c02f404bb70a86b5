"""The byte-level BPE of Qwen2.5 on the light `tokenizers` package, and the search for its files.

Unlike the reference no transformers import is needed; ids are equal to those of its Qwen2Tokenizer.
Special tokens inside the text (`<|im_start|>`) become single ids, as templates need it.

A tokenizer.json describes a whole pipeline, and a few bytes of one end the process inside the
library. So only its vocabulary, merges and added tokens are read; the pipeline is always Qwen's.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError, shorten
from ...files.json_text import parse_json
from ...files.paths import kind_of, read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

log = logging.getLogger(__name__)

MAX_FILE = 64 * 2**20  # bytes; the published tokenizer.json has 7 MB
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
NEEDED = ("<|im_start|>", "<|im_end|>")  # without them no Qwen-Image template can be encoded
HOST_FOLDER = Path("text_encoders") / "qwen25_tokenizer"  # inside the host's `comfy` package

# Words of Qwen2.5: contractions, letters with one leading mark, single digits, punctuation, breaks.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Added:
    """A token outside the BPE vocabulary."""

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


FIELDS = frozenset(Added.__dataclass_fields__)


@contextmanager
def _library(source: Path) -> Iterator[None]:
    """Within it the package `tokenizers` works on what `source` holds; its faults are errors that
    name the file. A panic of its Rust is no Exception.
    """
    try:
        yield
    except InkstoneError:
        raise
    except ImportError:
        raise InkstoneError(
            "the package `tokenizers` is missing. Install it with `pip install tokenizers`."
        ) from None
    except Exception as error:  # noqa: BLE001 (the tokenizers package raises bare Exception)
        raise InkstoneError(
            f"{source}: not a usable tokenizer: {shorten(str(error))}. Download it again."
        ) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InkstoneError(
            f"{source}: not a usable tokenizer: the package `tokenizers` fails on it. Download it "
            "again."
        ) from None


class Tokenizer:
    """Turns text into ids. Built by load_tokenizer."""

    def __init__(self, backend: Backend, source: Path) -> None:
        self._backend, self.source = backend, source
        self._special: frozenset[int] | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of a text: special tokens become single ids, nothing is added before or after."""
        with _library(self.source):
            try:
                return self._backend.encode(text, add_special_tokens=False).ids
            except (TypeError, UnicodeEncodeError):
                raise InkstoneError(
                    f"the text {ascii(text)[:80]} cannot be tokenised: expected valid Unicode "
                    f"text, got {type(text).__name__}. Remove the broken characters."
                ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        with _library(self.source):
            return self._backend.decode(list(ids), skip_special_tokens=False)

    def token_id(self, token: str) -> int:
        """The id of one token, e.g. `<|image_pad|>`; InkstoneError where there is none."""
        number = self._backend.token_to_id(token)
        if number is None:
            raise InkstoneError(
                f"{self.source}: the tokenizer has no {token}. Use the tokenizer "
                "files of Qwen-Image or Qwen2.5-VL."
            )
        return number

    def find(self, token: str) -> int | None:
        """The id of one token; None where there is none."""
        return self._backend.token_to_id(token)

    def word(self, number: int) -> str | None:
        """A token as the vocabulary writes it; None for special tokens and unused numbers."""
        if self._special is None:
            added = self._backend.get_added_tokens_decoder()
            self._special = frozenset(n for n, token in added.items() if token.special)
        return None if number in self._special else self._backend.id_to_token(number)

    def to_json(self) -> str:
        """The whole tokenizer as a tokenizer.json."""
        with _library(self.source):
            return self._backend.to_str()

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)


def _text(path: Path) -> str:
    try:
        return read_regular(path, MAX_FILE).decode("utf-8")
    except FileNotFoundError:
        raise InkstoneError(f"{path} is missing. Put {', '.join(FILES)} into one folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InkstoneError(
            f"{path} cannot be read as text: {reason}. Download it again."
        ) from None


def _object(path: Path) -> dict:  # of a JSON file: its values are of any kind
    try:
        value = parse_json(_text(path))
    except ValueError as error:
        raise InkstoneError(f"{path} is not JSON: {error}. Download it again.") from None
    if not isinstance(value, dict):
        raise InkstoneError(
            f"{path}: expected a JSON object, got {type(value).__name__}. Download it again."
        )
    return value


def _merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise InkstoneError(
                f"{path}: line {number} should hold two tokens, got "
                f"{line[:60]!a}. Download it again."
            )
        merges.append((pair[0], pair[1]))
    return merges


def _added(folder: Path) -> list[Added]:
    """Added tokens of tokenizer_config.json, else of added_tokens.json, by id."""
    config, plain = folder / "tokenizer_config.json", folder / "added_tokens.json"
    tokens: dict[str, Added] = {}
    if config.is_file():
        for number, entry in _object(config).get("added_tokens_decoder", {}).items():
            flags = {k: v for k, v in entry.items() if k in FIELDS}
            tokens[entry["content"]] = Added(**(flags | {"id": int(number)}))
    if plain.is_file():
        for content, number in _object(plain).items():
            tokens.setdefault(content, Added(content, number))
    return sorted(tokens.values(), key=lambda token: token.id)


def _from_parts(folder: Path) -> Backend:
    vocab, merges = _object(folder / FILES[0]), _merges(folder / FILES[1])
    return build(vocab, merges, _added(folder), folder)


def build(
    vocab: Mapping[str, int], merges: list[tuple[str, str]], added: Sequence[Added], source: Path
) -> Backend:
    """The `tokenizers` object for a vocabulary; errors name `source`."""
    from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    vocab = dict(vocab)
    for t in added:  # in the vocabulary itself, so that gaps between ids do not shift them
        if vocab.setdefault(t.content, t.id) != t.id:
            raise InkstoneError(
                f"{source}: {t.content} has the ids {vocab[t.content]} and {t.id}. Use files of "
                "one model."
            )
    backend = Backend(BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    for t in added:
        token = AddedToken(
            t.content,
            single_word=t.single_word,
            lstrip=t.lstrip,
            rstrip=t.rstrip,
            normalized=t.normalized,
            special=t.special,
        )
        (backend.add_special_tokens if t.special else backend.add_tokens)([token])
    return backend


def _from_json(path: Path) -> Backend:
    """The same from a tokenizer.json: its vocabulary, merges and added tokens."""
    whole = _object(path)
    model, added = whole.get("model"), whole.get("added_tokens", [])
    vocab = model.get("vocab") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not (isinstance(vocab, dict) and isinstance(merges, list) and isinstance(added, list)):
        raise InkstoneError(
            f"{path}: expected a `model` with `vocab` and `merges` (byte-level BPE) and a list "
            "`added_tokens`, got another layout. Use the tokenizer files of Qwen-Image or "
            "Qwen2.5-VL."
        )
    other = sorted(p for p in _patterns(whole.get("pre_tokenizer")) if p != PATTERN)
    if other:
        raise InkstoneError(
            f"{path}: it splits words by {other[0][:60]!a}, expected the rule of Qwen2.5: it is of "
            "another model. Use the tokenizer files of Qwen-Image or Qwen2.5-VL."
        )
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    wrong = next((m for m in pairs if len(m) != 2), None)
    if wrong is not None:
        raise InkstoneError(
            f"{path}: a merge should hold two tokens, got {str(wrong)[:60]!a}. Download it again."
        )
    tokens = [Added(**{k: v for k, v in t.items() if k in FIELDS}) for t in added]
    return build(vocab, [(a, b) for a, b in pairs], tokens, path)


def _patterns(pre_tokenizer: object) -> set[str]:
    """The regular expressions in a pre-tokenizer's description."""
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    patterns = set()
    for step in steps if isinstance(steps, list) else [pre_tokenizer]:
        pattern = step.get("pattern") if isinstance(step, dict) else None
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        patterns |= {regex} if isinstance(regex, str) else set()
    return patterns


def load_tokenizer(folder_or_file: str | Path) -> Tokenizer:
    """Loads a tokenizer from tokenizer.json, or from vocab.json + merges.txt (+ added tokens).

    Raises InkstoneError when files are missing, damaged or of a model without Qwen's templates.
    """
    path = Path(folder_or_file)
    if kind_of(path) == "a file" and path.name in (*FILES, "added_tokens.json"):
        path = path.parent
    if kind_of(path) == "a folder":
        path = path / "tokenizer.json" if (path / "tokenizer.json").is_file() else path
    elif not kind_of(path):
        raise InkstoneError(f"{path} does not exist. Name a folder with {', '.join(FILES)}.")
    return checked(lambda: _from_parts(path) if path.is_dir() else _from_json(path), path)


def checked(make: Callable[[], Backend], path: Path) -> Tokenizer:
    """The tokenizer that `make` builds from `path`; InkstoneError where it is not one of Qwen."""
    with _library(path):
        backend = make()
    tokenizer = Tokenizer(backend, path)
    missing = [token for token in NEEDED if backend.token_to_id(token) is None]
    if missing:
        raise InkstoneError(
            f"{path}: the tokenizer lacks {', '.join(missing)}: it is of another model, or "
            "tokenizer_config.json (added_tokens_decoder) is not next to vocab.json. Add it."
        )
    log.debug("tokenizer of %d tokens from %s", len(tokenizer), path)
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    parts = all((folder / name).is_file() for name in FILES[:2])
    return parts or (folder / "tokenizer.json").is_file()


def _comfyui_folders(near: Path | None) -> list[Path]:
    """ComfyUI's own copy: of the host, located without importing it, and of the trees that the
    weights, the current folder and this package are in.
    """
    try:
        spec = importlib.util.find_spec("comfy")
    except (ImportError, ValueError):
        spec = None
    hosts = (spec.submodule_search_locations if spec else None) or ()
    starts = [near, near.resolve()] if near else []
    starts += [Path.cwd() / "here", Path(__file__).resolve()]
    trees = dict.fromkeys(tree for start in starts for tree in start.absolute().parents)
    return [
        *(Path(host) / HOST_FOLDER for host in hosts),
        *(t / "comfy" / HOST_FOLDER for t in trees),
    ]


def find_tokenizer(near: Path | None = None, extra: Sequence[Path] = ()) -> Path:
    """The folder with the tokenizer of the text encoder `near` (a file or folder).

    Order: tokenizer/ in its folder, the folder itself, tokenizer/ next to it, the same for each of
    `extra`, then ComfyUI's files. Raises InkstoneError that names the files and a place for them.
    """
    bases = ([near if kind_of(near) == "a folder" else near.parent] if near else []) + [
        Path(p) for p in extra
    ]
    places = [
        place for base in bases for place in (base / "tokenizer", base, base.parent / "tokenizer")
    ]
    folder = next(filter(_has_tokenizer, (*places, *_comfyui_folders(near))), None)
    if folder is None:
        where = bases[0] / "tokenizer" if bases else "a folder that you name"
        places.append(Path("comfy") / HOST_FOLDER)
        raise InkstoneError(
            f"no tokenizer found; expected {', '.join(FILES)} (or tokenizer.json), looked in "
            f"{', '.join(map(str, places))} of a ComfyUI around the file or the current folder. "
            f"Copy the three files of the folder `tokenizer` of a Qwen-Image repository to {where}."
        )
    return folder
