"""The file format: named arrays and JSON, written whole or not at all.

A file is in the safetensors format. Its metadata hold the JSON text, what kind of
object it describes, the version of the format, and a checksum of everything.
"""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import zlib

import numpy as np
import safetensors
import safetensors.numpy

FORMAT_VERSION = 1
"""Version of the files of estimators. A change of any state needs a new one."""

_DTYPES = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = {"format_version", "kind", "model", "sha256"}


def dump(kind, version, model, arrays):
    """Return the bytes of a file.

    Parameters
    ----------
    kind : str
        What the file describes.
    version : int
        Version of what `model` and `arrays` mean.
    model : dict
        Made of dicts with names, lists, strings, finite numbers, bools and None.
    arrays : dict of str to ndarray
        Of float64, float32, int64, uint32 or uint8.

    Returns
    -------
    content : bytes

    Raises
    ------
    ValueError
        If `model` holds an infinity or NaN.
    """
    arrays = {name: _little_endian(array) for name, array in arrays.items()}
    text = json.dumps(model, allow_nan=False, separators=(",", ":"))
    metadata = {"format_version": str(version), "kind": kind, "model": text}
    metadata["sha256"] = _digest(metadata, arrays)
    return safetensors.numpy.save(arrays, metadata)


def parse(content, kind, newest):
    """Check the bytes of a file, and return what it holds.

    Parameters
    ----------
    content : bytes
    kind : str
        What the file has to describe.
    newest : int
        Highest version of the format that the caller understands.

    Returns
    -------
    version : int
    model : dict
    arrays : dict of str to ndarray
        Little-endian.

    Raises
    ------
    ValueError
        If the file is damaged, newer, of another kind or no such file at all.
    """
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        if _is_pickle(content):
            raise ValueError(
                "it is a pickle, of pickle or joblib, and no file of skjko's save. "
                "Load it with what wrote it, if you trust it, and then save it"
            ) from None
        raise ValueError(f"it is no whole safetensors file ({error})") from error
    # The library has the arrays; the metadata it hands out only for files on disk.
    n_header = int.from_bytes(content[:8], "little")
    metadata = _metadata(_strict_json(content[8 : 8 + n_header]))
    if metadata["kind"] != kind:
        raise ValueError(f"it holds a {metadata['kind']}, not a {kind}")
    version = _version(metadata["format_version"], newest)
    arrays = {name: _array(name, **tensor) for name, tensor in found}
    if metadata.pop("sha256") != _digest(metadata, arrays):
        raise ValueError("its checksum does not fit its content: the file is damaged")
    return version, _strict_json(metadata["model"]), arrays


def read_header(path, newest):
    """Return what a file says of itself, without reading its arrays.

    Parameters
    ----------
    path : str or path-like
    newest : int
        Highest version of the format that the caller understands.

    Returns
    -------
    kind : str
        What the file describes.
    version : int
    model : dict
    shapes : dict of str to tuple of int
        Of the arrays.
    sizes : (int, int)
        Bytes that the file has, and bytes that it should have. The checksum is not
        compared, as it is that of the arrays too.

    Raises
    ------
    ValueError
        If the file is no such file, or newer.
    OSError
        If it cannot be read.
    """
    n_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        n_header = int.from_bytes(start, "little")
        if _is_pickle(start):
            raise ValueError("it is a pickle, and no file of skjko's save")
        if len(start) < 8 or n_header > n_bytes - 8:
            raise ValueError("it is no safetensors file, or its start is damaged")
        header = _strict_json(file.read(n_header))
    metadata = _metadata(header)
    version = _version(metadata["format_version"], newest)
    model = _strict_json(metadata["model"])
    del header["__metadata__"]
    try:
        shapes = {name: tuple(map(int, one["shape"])) for name, one in header.items()}
        ends = [0]
        for name, one in header.items():
            start, end = map(int, one["data_offsets"])
            if end - start != math.prod(shapes[name]) * _DTYPES[one["dtype"]].itemsize:
                raise ValueError(f"the place of {name!r} is not as long as its values")
            ends.append(end)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError("the list of its arrays cannot be read") from error
    expected = 8 + n_header + max(ends)
    return metadata["kind"], version, model, shapes, (n_bytes, expected)


def _metadata(header):
    """The metadata of a header, checked to be those of a model."""
    metadata = header.get("__metadata__")
    if (
        not isinstance(metadata, dict)
        or metadata.keys() != _METADATA
        or not all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError("its metadata are not those of a skjko model")
    return metadata


def _version(text, newest):
    """The version of the format, as a number, checked to be understood."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise ValueError(f"its format_version is {text!r}")
    if int(text) > newest:
        raise ValueError(
            f"it has format version {text}, and this version of skjko reads none "
            f"above {newest}. Load it with a newer skjko"
        )
    return int(text)


def write(path, content):
    """Write bytes to a file, so that it has all of them or stays as it was.

    Parameters
    ----------
    path : str or path-like
        A file that is there is replaced, and keeps its permissions.
    content : bytes

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    # A link stays one: what it points to is replaced, by a file in the same folder.
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            errno.ENOENT, "There is no such folder to write to. Make it first", folder
        )
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def _is_pickle(content):
    """Whether bytes are a pickle of protocol 2 or later, compressed by zlib or not."""
    start = content[:2]
    with contextlib.suppress(zlib.error):
        # Of gzip as well, by joblib.
        start = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, 2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 9


def _little_endian(array):
    array = np.asarray(array, order="C")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _array(name, dtype, shape, data):
    if dtype not in _DTYPES:
        raise ValueError(f"the array {name!r} has dtype {dtype}")
    # A product of sizes with a zero among them has not been checked for overflow.
    if math.prod(shape) == 0 and max(shape) >= 2**31:
        raise ValueError(f"the array {name!r} has shape {shape}")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def _digest(metadata, arrays):
    """SHA-256 of all that a file says."""
    digest = hashlib.sha256()
    parts = [metadata["format_version"], metadata["kind"], metadata["model"]]
    digest.update(json.dumps(parts).encode())
    for name, array in sorted(arrays.items()):
        head = [name, _NAMES[array.dtype], array.shape]
        digest.update(json.dumps(head).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _strict_json(text):
    """Parse a JSON object, without the liberties that Python's parser takes."""
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_without_duplicates,
            parse_int=_short_int,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"its JSON cannot be read ({error})") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("its JSON is no object")
    return value


def _without_duplicates(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("its JSON has the same name twice in one object")
    return value


def _short_int(text):
    # Python refuses to convert very long integers, and all others cost time.
    if len(text) > 19:
        raise ValueError(f"its JSON has an integer of {len(text)} digits")
    return int(text)


def _finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"its JSON has the number {text[:20]}")
    return value


def _no_constant(text):
    raise ValueError(f"its JSON has the number {text}")
