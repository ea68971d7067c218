"""Routers on disk: a folder of one JSON manifest and one safetensors file, which can be read without running code.

    router/
      manifest.json       what a person may want to know, and the hash of everything
      arrays.safetensors  the numbers

Safetensors rather than npz: its bytes depend on the arrays alone (a zip carries dates), and its reader has no path
to pickle at all (`np.load` has one, behind a flag).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import InvalidRouterError
from pointsman.types import Arrays, State

FORMAT: Final = "pointsman-router"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
ARRAYS: Final = "arrays.safetensors"
MAX_MANIFEST_BYTES: Final = 16 * 2**20
MAX_DEPTH: Final = 64

_OURS: Final = ("format", "format_version", "arrays", "arrays_file", "content_hash")
_DTYPES: Final = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)
_ATTEMPTS: Final = 100
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def content_hash(*, manifest: State, arrays: Arrays) -> str:
    """Return the sha256, in hex, of a router's content: the same before it is written and after it is read.

    Args:
        manifest: JSON-ready values.
        arrays: Named arrays of booleans, integers or floats.

    Raises:
        InvalidRouterError: A value cannot be written; see `write_folder`.
    """
    return str(_sealed(manifest, _plain_arrays(arrays))["content_hash"])


def write_folder(path: str | os.PathLike[str], *, manifest: State, arrays: Arrays) -> str:
    """Write a router folder and return its content hash.

    The same input gives the same bytes. The folder is complete on disk under another name before it takes its own,
    so a reader sees the old router or the new one. A router that stands there is replaced; nothing else is.

    Args:
        path: Folder to write; its parents are made.
        manifest: JSON-ready values: str keys; no NaN or infinity; at most 64 levels deep and 16 MiB as text.
        arrays: Named arrays of booleans, integers or floats; any shape, any values.

    Raises:
        InvalidRouterError: A value cannot be written, `path` holds something that is not a router, or the disk refuses.
    """
    target = Path(path)
    plain = _plain_arrays(arrays)
    sealed = _sealed(manifest, plain)
    binary = _to_safetensors(plain)
    sealed["arrays_file"] = {"sha256": hashlib.sha256(binary).hexdigest(), "size_bytes": len(binary)}
    text = _dump(sealed, indent=2) + b"\n"
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidRouterError(
            f"manifest must be at most {MAX_MANIFEST_BYTES} bytes as JSON; got {len(text)}; keep numbers in arrays"
        )
    if "\0" in str(target):
        raise InvalidRouterError(f"path must not hold a null character; got {str(target)!r}")
    staged: Path | None = None
    try:
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(target)
        staged = target.parent / f".pointsman-{secrets.token_hex(8)}"
        staged.mkdir()
        _write_synced(staged / ARRAYS, binary)
        _write_synced(staged / MANIFEST, text)
        _sync_folder(staged)
        _put_in_place(staged, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InvalidRouterError(f"router folder {target} cannot be written: {_reason(error)}") from error
    finally:
        # After an exchange this name holds the router that was replaced.
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    return str(sealed["content_hash"])


def read_folder(path: str | os.PathLike[str]) -> tuple[State, Arrays]:
    """Return the manifest and arrays given to `write_folder`, after checking every hash.

    Only the two fixed file names inside `path` are ever opened, and nothing in them is run.

    Args:
        path: Router folder.

    Returns:
        The manifest without the keys the format adds, and writable arrays.

    Raises:
        InvalidRouterError: The folder is missing, foreign, truncated, tampered with, or of a newer format.
    """
    folder = Path(path)
    text, binary = _read_both(folder)
    sealed = _parse(text, folder)
    described = _described_arrays(sealed, folder)
    _check_file(binary, sealed.get("arrays_file"), folder)
    claimed = sealed.get("content_hash")
    if claimed != _hash_of(sealed):
        raise InvalidRouterError(
            f"router folder {folder}: {MANIFEST} was changed after it was written (its content_hash does not match);"
            " restore the file or save the router again"
        )
    arrays = _from_safetensors(binary, folder)
    _check_arrays(arrays, described, folder)
    return {key: value for key, value in sealed.items() if key not in _OURS}, arrays


def _plain_arrays(arrays: Arrays) -> Arrays:
    """Return the arrays in C order and little-endian, sorted by name."""
    plain: Arrays = {}
    for name, array in arrays.items():
        if not (isinstance(name, str) and name and name != "__metadata__" and name.isprintable()):
            raise InvalidRouterError(f"array names must be printable and not empty; got {name!r}")
        if not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InvalidRouterError(
                f"array {name!r} must hold booleans, integers or floats of at most 64 bits; got {got};"
                " put text and objects in the manifest"
            )
        plain[name] = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return dict(sorted(plain.items()))


def _sealed(manifest: State, plain: Arrays) -> State:
    """Return the manifest with the format's own keys but the arrays file's, which is not content."""
    if not isinstance(manifest, dict):
        raise InvalidRouterError(f"manifest must be a dict; got {type(manifest).__name__}")
    taken = sorted(set(manifest) & set(_OURS))
    if taken:
        raise InvalidRouterError(f"manifest must leave the keys {list(_OURS)} to the format; got {taken}")
    _check_json(manifest, where="manifest", depth=0)
    sealed: State = {
        **manifest,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "arrays": {name: _described(array) for name, array in plain.items()},
    }
    sealed["content_hash"] = _hash_of(sealed)
    return sealed


def _described(array: NDArray[Any]) -> State:
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest(),
    }


def _hash_of(sealed: State) -> str:
    content = {key: value for key, value in sealed.items() if key not in ("content_hash", "arrays_file")}
    return hashlib.sha256(_dump(content)).hexdigest()


def _dump(value: State, *, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, indent=indent, sort_keys=True, separators=separators, allow_nan=False).encode("ascii")


def _check_json(value: Any, *, where: str, depth: int) -> None:
    """Raise unless `value` comes back from JSON as it is; tuples are allowed and come back as lists."""
    if depth > MAX_DEPTH:
        raise InvalidRouterError(f"manifest must be at most {MAX_DEPTH} levels deep; {where[:200]} is deeper")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidRouterError(f"{where}: keys must be str; got {key!r}")
            _check_json(inner, where=f"{where}[{key!r}]", depth=depth + 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_json(inner, where=f"{where}[{i}]", depth=depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRouterError(f"{where} must be finite, JSON has no {value}; write None, or keep it in an array")
    elif not (value is None or isinstance(value, bool | int | str)):
        raise InvalidRouterError(f"{where} must be JSON-ready; got {type(value).__name__}")


def _parse(text: bytes, folder: Path) -> State:
    """Return the manifest of this format and a version we know, its values checked as those of `write_folder` are."""

    def malformed(why: str) -> InvalidRouterError:
        return InvalidRouterError(f"router folder {folder}: {MANIFEST} is malformed ({why}); it is no router we wrote")

    def refuse_constant(name: str) -> float:
        raise malformed(f"JSON has no {name}")

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> State:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise malformed("a key stands twice in one object")
        return value

    try:
        sealed = json.loads(text.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
    except RecursionError:
        raise malformed("nested too deeply") from None
    except ValueError as error:  # JSON, UTF-8, and integers of more digits than Python reads
        if isinstance(error, InvalidRouterError):
            raise
        raise malformed(str(error)) from None
    if not isinstance(sealed, dict) or sealed.get("format") != FORMAT:
        raise InvalidRouterError(
            f'router folder {folder}: {MANIFEST} does not say "format": "{FORMAT}"; this is not a router'
        )
    version = sealed.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise malformed(f"format_version must be an integer >= 1; got {str(version)[:40]}")
    if version > FORMAT_VERSION:
        raise InvalidRouterError(
            f"router folder {folder} has format_version {str(version)[:20]}; this version of pointsman reads up to"
            f" {FORMAT_VERSION}: upgrade pointsman"
        )
    try:
        _check_json(sealed, where=MANIFEST, depth=0)
    except InvalidRouterError as error:
        raise malformed(str(error)) from None
    return sealed


def _described_arrays(sealed: State, folder: Path) -> dict[str, State]:
    described = sealed.get("arrays")
    if not isinstance(described, dict) or not all(isinstance(entry, dict) for entry in described.values()):
        raise InvalidRouterError(f'router folder {folder}: {MANIFEST} must list its arrays under "arrays"')
    return described


def _check_file(binary: bytes, claimed: Any, folder: Path) -> None:
    claimed = claimed if isinstance(claimed, dict) else {}
    if len(binary) != claimed.get("size_bytes"):
        raise InvalidRouterError(
            f"router folder {folder}: {ARRAYS} has {len(binary)} bytes, the manifest says"
            f" {str(claimed.get('size_bytes'))[:40]}; it is truncated or was replaced: copy or save the router again"
        )
    if hashlib.sha256(binary).hexdigest() != claimed.get("sha256"):
        raise InvalidRouterError(
            f"router folder {folder}: {ARRAYS} was changed after it was written (its sha256 does not match);"
            " restore the file or save the router again"
        )


def _check_arrays(arrays: Arrays, described: dict[str, State], folder: Path) -> None:
    missing, extra = sorted(set(described) - set(arrays)), sorted(set(arrays) - set(described))
    if missing or extra:
        raise InvalidRouterError(
            f"router folder {folder}: {ARRAYS} must hold exactly the arrays of the manifest;"
            f" missing {missing}, extra {extra}"
        )
    for name, array in arrays.items():
        if _described(array) != described[name]:
            raise InvalidRouterError(
                f"router folder {folder}: array {name!r} is not the one the manifest describes (dtype, shape or sha256"
                " differ); restore the file or save the router again"
            )


def _to_safetensors(plain: Arrays) -> bytes:
    from safetensors.numpy import save

    return bytes(save(plain))


def _from_safetensors(binary: bytes, folder: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        # The reader's views are read-only and keep the whole file in memory.
        arrays = {str(name): np.array(view) for name, view in load(binary).items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidRouterError(
            f"router folder {folder}: {ARRAYS} is not a safetensors file of numbers ({error})"
        ) from None
    refused = sorted(name for name, array in arrays.items() if array.dtype.name not in _DTYPES)
    if refused:
        raise InvalidRouterError(
            f"router folder {folder}: arrays must hold booleans, integers or floats; {refused} do not"
        )
    return arrays


def _read_both(folder: Path) -> tuple[bytes, bytes]:
    """Return the bytes of both files of one and the same router, though the folder may be replaced meanwhile."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    for _ in range(_ATTEMPTS):
        try:
            handle = os.open(folder, flags)
        except (FileNotFoundError, NotADirectoryError):
            what = "does not exist" if not os.path.lexists(folder) else "is not a folder"
            raise InvalidRouterError(f"router folder {folder} {what}; give the folder a router was saved to") from None
        except (OSError, ValueError) as error:
            raise InvalidRouterError(f"router folder {folder} cannot be read: {_reason(error)}") from None
        try:
            return _read_file(handle, MANIFEST, limit=MAX_MANIFEST_BYTES), _read_file(handle, ARRAYS, limit=None)
        except FileNotFoundError as error:
            # A writer that has swapped the folder removes the old one's files: look again at what stands there now.
            if _is_same(handle, folder):
                raise InvalidRouterError(
                    f"router folder {folder} has no {error.filename}; this is not a router, or only part of one"
                ) from None
        except OSError as error:
            raise InvalidRouterError(f"router folder {folder} cannot be read: {_reason(error)}") from None
        finally:
            os.close(handle)
    raise InvalidRouterError(f"router folder {folder} is being replaced without pause; try again")


def _read_file(folder: int, name: str, *, limit: int | None) -> bytes:
    # A link could lead anywhere and a pipe would never end: only a plain file of this folder is read.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=folder)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a plain file", name)
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit} bytes", name)
        with open(handle, "rb", closefd=False) as file:
            return file.read(-1 if limit is None else limit)
    finally:
        os.close(handle)


def _is_same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False


def _check_replaceable(target: Path) -> None:
    """Raise unless nothing, an empty folder or a router of any version stands at `target`."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InvalidRouterError(f"{target} is a file; give a folder to save the router to")
    others = sorted(set(os.listdir(target)) - {MANIFEST, ARRAYS})
    if others:
        raise InvalidRouterError(
            f"{target} holds files that are no part of a router ({', '.join(others[:3])});"
            " it is not overwritten: give a new folder"
        )
    if not os.listdir(target):
        return
    try:
        value = json.loads((target / MANIFEST).read_bytes()[:MAX_MANIFEST_BYTES])
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InvalidRouterError(f"{target} is not a router; it is not overwritten: give a new folder")


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(staged: Path, target: Path) -> None:
    """Give `staged` the name `target`; a router that has it gets the name `staged`."""
    for _ in range(_ATTEMPTS):
        if not os.path.lexists(target):
            try:
                os.rename(staged, target)
            except OSError as error:
                # Another writer was faster: replace what it wrote.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
        else:
            _check_replaceable(target)
            try:
                _exchange(staged, target)
            except FileNotFoundError:
                continue
            return
    raise OSError(errno.EBUSY, "others keep replacing it")


def _exchange(staged: Path, target: Path) -> None:
    """Swap the names of two folders: at once where the system can, else by two renames."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        _exchange_by_renames(staged, target)
        return
    if renameat2(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # this file system cannot
        _exchange_by_renames(staged, target)
    else:
        raise OSError(code, os.strerror(code), str(target))


def _exchange_by_renames(staged: Path, target: Path) -> None:
    aside = staged.with_name(f"{staged.name}-old")
    os.rename(target, aside)
    try:
        os.rename(staged, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.rename(aside, target)
        raise
    os.rename(aside, staged)


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    named = f"{error.filename}: " if error.filename else ""
    return f"{named}{error.strerror or error}"
