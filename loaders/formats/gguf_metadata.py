"""Keys and values of a GGUF header, and the cursor that reads it.

Unusual: arrays are decoded lazily. The tokenizer of a language model is 300,000 strings; they are
skipped in one loop over their lengths, and `decode_array` decodes them on demand. Every length is
compared with a limit and with the rest of the file before it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from ...errors import InkstoneError
from .safetensors_header import MAX_NAME, show

MAX_HEADER = 32 * 2**20  # bytes; that of a language model with its tokenizer has 6 MB
MAX_TEXT = 8 * 2**20  # bytes of all names, keys and values, arrays apart
MAX_VALUE = 2**20  # bytes of one value; a chat template has 3 KB
MAX_ELEMENTS = 16 * 2**20  # of all arrays together
FIRST = 2**20  # bytes of the first read; doubled where the header is longer
CUT = "The download is not complete: download it again"

ARCHITECTURE = "general.architecture"
ZERO_COND_MARK = "__index_timestep_zero__"  # a key of Comfy single files of Edit-2511

# types of values: id -> letter of the struct module
U32, BOOL, STRING, ARRAY, U64 = 4, 7, 8, 9, 10
INTEGER_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
NUMBERS = INTEGER_LETTERS | {6: "f", 7: "B", 12: "d"}
INTEGERS = tuple(INTEGER_LETTERS)
_STRUCTS = {kind: Struct("<" + letter) for kind, letter in NUMBERS.items()}
_LENGTH = _STRUCTS[U64]

ArrayValue = list[str] | list[int] | list[float] | list[bool]


@dataclass(frozen=True)
class Array:
    """The position of an array's elements in the file."""

    kind: int
    count: int
    begin: int
    end: int


# fetch(view, offset): fills `view` with the bytes of the file from `offset`
Fetch = Callable[[memoryview, int], None]


class Cursor:
    """A position in a file of `size` bytes; the beginning of the file is read as far as needed."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self.size = fetch, size
        self.buffer, self.at, self.text = bytearray(), 0, 0

    def need(self, count: int, what: str) -> None:
        """Makes sure that `count` bytes from here are in the buffer."""
        end = self.at + count
        if end <= len(self.buffer):
            return
        if end > self.size:
            raise InkstoneError(
                f"it ends inside its header: {what} needs {end} bytes, the file has {self.size}. "
                f"{CUT}"
            )
        if end > MAX_HEADER:
            raise InkstoneError(f"the header is longer than {MAX_HEADER >> 20} MiB (at {what})")
        have = len(self.buffer)
        grown = bytearray(min(self.size, MAX_HEADER, max(FIRST, 2 * have, end)))
        grown[:have] = self.buffer
        self._fetch(memoryview(grown)[have:], have)
        self.buffer = grown

    def number(self, kind: int, what: str) -> int | float:
        """The next number, of any type."""
        form = _STRUCTS[kind]
        self.need(form.size, what)
        value: int | float = form.unpack_from(self.buffer, self.at)[0]
        self.at += form.size
        return value

    def integer(self, kind: int, what: str) -> int:
        """The next number, of one of the types INTEGERS."""
        return int(self.number(kind, what))

    def string(self, most: int, what: str) -> str:
        """The next string, of at most `most` bytes."""
        count = self.integer(U64, what)
        if count > most:
            raise InkstoneError(f"{what} has {count} bytes, at most {most} are allowed")
        self.text += count
        if self.text > MAX_TEXT:
            most = MAX_TEXT >> 20
            raise InkstoneError(f"names and values have more than {most} MiB (at {what})")
        self.need(count, what)
        try:
            value = self.buffer[self.at : self.at + count].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InkstoneError(f"{what} is not UTF-8 (byte {self.at + error.start})") from None
        self.at += count
        return value

    def name(self, what: str) -> str:
        """The next string, which must be a printable name."""
        text = self.string(MAX_NAME, what)
        if not text or not text.isprintable():
            raise InkstoneError(f"{what} is {show(text)}, expected printable text")
        return text

    def skip_strings(self, count: int, what: str) -> None:
        """Skips the strings of an array: only their lengths are read."""
        at, buffer, unpack = self.at, self.buffer, _LENGTH.unpack_from
        for _ in range(count):
            if at + 8 > len(buffer):
                self.at = at
                self.need(8, what)
                buffer = self.buffer
            at += 8 + unpack(buffer, at)[0]
        self.at = at
        self.need(0, what)


def _array(cursor: Cursor, key: str, elements: int) -> Array:
    """Skips one array; `elements` are left of the limit for all arrays."""
    what = f"the array {show(key)}"
    kind, count = cursor.integer(U32, what), cursor.integer(U64, what)
    if kind != STRING and kind not in NUMBERS:
        word = "arrays inside" if kind == ARRAY else f"elements of the unknown type {kind}"
        raise InkstoneError(f"{what} has {word}, which no such file needs")
    least = 8 if kind == STRING else _STRUCTS[kind].size
    if count * least > cursor.size - cursor.at:
        raise InkstoneError(
            f"{what} should have {count} elements, which need more than the {cursor.size} bytes "
            f"of the file. {CUT}"
        )
    if count > elements:
        raise InkstoneError(f"{what} makes more than {MAX_ELEMENTS} elements in all arrays")
    begin = cursor.at
    if kind == STRING:
        cursor.skip_strings(count, what)
    else:
        cursor.need(count * least, what)
        cursor.at += count * least
    return Array(kind, count, begin, cursor.at)


def _scalar(cursor: Cursor, kind: int, key: str) -> str:
    what = f"the value of {show(key)}"
    if kind == STRING:
        return cursor.string(MAX_VALUE, what)
    if kind not in NUMBERS:
        raise InkstoneError(f"{what} has the unknown type {kind}")
    value = cursor.number(kind, what)
    if kind == BOOL:
        if value > 1:
            raise InkstoneError(f"{what} should be true or false (1 or 0), got {value}")
        return "true" if value else "false"
    return repr(value)


def read_values(
    cursor: Cursor, count: int, until: str = ""
) -> tuple[dict[str, str], dict[str, Array]]:
    """(values as text, arrays) of all keys, or as far as the key `until`."""
    values: dict[str, str] = {}
    arrays: dict[str, Array] = {}
    elements = MAX_ELEMENTS
    for number in range(count):
        key = cursor.name(f"key {number + 1} of {count}")
        if key in values or key in arrays:
            raise InkstoneError(f"the key {show(key)} occurs twice")
        kind = cursor.integer(U32, f"the type of {show(key)}")
        if kind == ARRAY:
            arrays[key] = array = _array(cursor, key, elements)
            elements -= array.count
        else:
            values[key] = _scalar(cursor, kind, key)
        if key == until:
            break
    return values, arrays


def decode_array(array: Array, data: bytes | bytearray) -> ArrayValue:
    """The elements of an array from its bytes."""
    if array.kind != STRING:
        values = Struct(f"<{array.count}{NUMBERS[array.kind]}").unpack(data)
        return list(map(bool, values)) if array.kind == BOOL else list(values)
    strings: list[str] = []
    at = 0
    for number in range(array.count):
        end = at + 8 + _LENGTH.unpack_from(data, at)[0]
        try:
            strings.append(str(data[at + 8 : end], "utf-8"))
        except UnicodeDecodeError:
            raise InkstoneError(f"element {number} is not UTF-8") from None
        at = end
    return strings
