"""The folder format: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman import folder as folder_module
from pointsman.errors import InvalidRouterError
from pointsman.folder import ARRAYS, MANIFEST, content_hash, read_folder, write_folder

MANIFEST_VALUES: dict[str, Any] = {
    "arms": [{"name": "small", "cost_factor": 1.0}, {"name": "größer-模型", "cost_factor": 0.30000000000000004}],
    "method": "auto",
    "nothing": None,
    "seed": 0,
    "train": {"n_rounds": 1890, "logged": True},
}
ARRAY_VALUES = {
    "weights": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
    "known": np.array([True, False]),
    "scale": np.array(0.25, dtype=np.float32),
    "empty": np.zeros((0, 4)),
    "gaps": np.array([np.nan, np.inf, -0.0]),
}


def save(path: Path) -> Path:
    """Write the example router and return its folder."""
    write_folder(path, manifest=MANIFEST_VALUES, arrays=ARRAY_VALUES)
    return path


def reseal(path: Path, *, change: Any = None, binary: bytes | None = None) -> None:
    """Do what a careful forger does: change the content, then make every hash of the manifest right again."""
    sealed = json.loads((path / MANIFEST).read_text())
    if change is not None:
        change(sealed)
    if binary is not None:
        (path / ARRAYS).write_bytes(binary)
        sealed["arrays_file"] = {"sha256": hashlib.sha256(binary).hexdigest(), "size_bytes": len(binary)}
    sealed["content_hash"] = folder_module._hash_of(sealed)
    (path / MANIFEST).write_text(json.dumps(sealed))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Manifest, names, dtypes, shapes and bits survive, and the arrays can be written to."""
    manifest, arrays = read_folder(save(tmp_path / "router"))

    assert manifest == MANIFEST_VALUES
    assert sorted(arrays) == sorted(ARRAY_VALUES)
    for name, array in arrays.items():
        assert array.dtype == ARRAY_VALUES[name].dtype
        assert array.shape == ARRAY_VALUES[name].shape
        assert array.tobytes() == ARRAY_VALUES[name].tobytes()
        assert array.flags.writeable


def test_a_router_without_arrays_is_a_router(tmp_path: Path) -> None:
    """A policy that learns nothing has no arrays."""
    write_folder(tmp_path / "router", manifest={}, arrays={})

    assert read_folder(tmp_path / "router") == ({}, {})


def test_same_input_same_bytes(tmp_path: Path) -> None:
    """Neither the order of keys, nor memory layout, nor byte order, nor the clock shows in the files."""
    save(tmp_path / "a")
    weights = np.asfortranarray(ARRAY_VALUES["weights"]).astype(">f8")
    write_folder(
        tmp_path / "b",
        manifest=dict(reversed(MANIFEST_VALUES.items())),
        arrays=dict(reversed({**ARRAY_VALUES, "weights": weights}.items())),
    )

    for name in (MANIFEST, ARRAYS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_content_hash_is_known_before_writing_and_moves_with_any_value(tmp_path: Path) -> None:
    """The hash of values in memory is the hash in the file; another seed or another bit gives another."""
    written = write_folder(tmp_path / "router", manifest=MANIFEST_VALUES, arrays=ARRAY_VALUES)

    assert written == content_hash(manifest=MANIFEST_VALUES, arrays=ARRAY_VALUES)
    assert written == json.loads((tmp_path / "router" / MANIFEST).read_text())["content_hash"]
    manifest, arrays = read_folder(tmp_path / "router")
    assert written == content_hash(manifest=manifest, arrays=arrays)
    assert written != content_hash(manifest={**MANIFEST_VALUES, "seed": 1}, arrays=ARRAY_VALUES)
    assert written != content_hash(manifest=MANIFEST_VALUES, arrays={**ARRAY_VALUES, "gaps": np.array([0.0])})


def test_manifest_is_for_people(tmp_path: Path) -> None:
    """One value a line, keys in order, and the format named."""
    text = (save(tmp_path / "router") / MANIFEST).read_text()

    sealed = json.loads(text)
    assert list(sealed) == sorted(sealed)
    assert sealed["format"] == "pointsman-router"
    assert sealed["format_version"] == 1
    assert sealed["arrays"]["weights"]["shape"] == [2, 3]
    assert sealed["arrays"]["weights"]["dtype"] == "float64"
    assert '\n  "method": "auto",\n' in text


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"a": {"b": [1.0, float("nan")]}}, r"manifest\['a'\]\['b'\]\[1\] must be finite"),
        ({"a": float("inf")}, "must be finite"),
        ({"a": np.float32(1)}, "JSON-ready; got float32"),
        ({1: "a"}, "keys must be str; got 1"),
        ({"format": "mine"}, r"got \['format'\]"),
        ({"content_hash": "0"}, "leave the keys"),
        ([], "manifest must be a dict; got list"),
        ({"a": "x" * (16 * 2**20)}, "at most 16777216 bytes"),
    ],
    ids=["nan", "inf", "numpy", "int-key", "format", "hash", "list", "huge"],
)
def test_a_manifest_that_json_cannot_hold_is_refused(tmp_path: Path, manifest: Any, message: str) -> None:
    """The error names the place and the rule, and nothing is left on disk."""
    with pytest.raises(InvalidRouterError, match=message):
        write_folder(tmp_path / "router", manifest=manifest, arrays={})
    assert list(tmp_path.iterdir()) == []


def test_an_endless_manifest_is_refused(tmp_path: Path) -> None:
    """A value that holds itself ends at the depth limit, not at the end of the stack."""
    manifest: dict[str, Any] = {}
    manifest["self"] = manifest

    with pytest.raises(InvalidRouterError, match="64 levels deep"):
        write_folder(tmp_path / "router", manifest=manifest, arrays={})


@pytest.mark.parametrize(
    "array",
    [np.array([{}], dtype=object), np.array(["a"]), np.array([1j]), np.array([0], dtype="M8[s]"), [1.0]],
    ids=["object", "text", "complex", "date", "list"],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, array: Any) -> None:
    """Objects above all: they could only be written as pickles."""
    with pytest.raises(InvalidRouterError, match="'a' must hold booleans, integers or floats"):
        write_folder(tmp_path / "router", manifest={}, arrays={"a": array})


@pytest.mark.parametrize("name", ["", "__metadata__", "a\nb"])
def test_array_names_the_file_could_not_hold_are_refused(tmp_path: Path, name: str) -> None:
    """Empty, reserved and unprintable names."""
    with pytest.raises(InvalidRouterError, match="array names"):
        write_folder(tmp_path / "router", manifest={}, arrays={name: np.zeros(1)})


def test_names_that_look_like_paths_stay_names(tmp_path: Path) -> None:
    """An array called ../../x opens and writes no other file."""
    arrays = {"../../x": np.zeros(2), "/etc/passwd": np.ones(1)}
    write_folder(tmp_path / "in" / "router", manifest={"../y": "../z"}, arrays=arrays)

    assert sorted(read_folder(tmp_path / "in" / "router")[1]) == sorted(arrays)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [ARRAYS, "in", MANIFEST, "router"]


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    """Nothing there, a file, an empty folder, and a folder of something else."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / MANIFEST).write_text('{"manifest_version": 3}')
    (tmp_path / "foreign" / ARRAYS).write_text("")

    for path, message in [
        ("nowhere", "does not exist"),
        ("file", "is not a folder"),
        ("empty", f"has no {MANIFEST}"),
        ("foreign", "this is not a router"),
        ("null\0", "cannot be read"),
    ]:
        with pytest.raises(InvalidRouterError, match=message):
            read_folder(tmp_path / path)


@pytest.mark.parametrize("name", [MANIFEST, ARRAYS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """Half a router is not a router."""
    (save(tmp_path / "router") / name).unlink()

    with pytest.raises(InvalidRouterError, match=f"has no {name}"):
        read_folder(tmp_path / "router")


@pytest.mark.parametrize("name", [MANIFEST, ARRAYS])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_plain_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    """A link that leads elsewhere, a pipe that never ends, and a folder are refused at once."""
    file = save(tmp_path / "router") / name
    shutil.move(file, tmp_path / name)
    if kind == "link":
        file.symlink_to(tmp_path / name)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()

    with pytest.raises(InvalidRouterError, match=f"cannot be read: {name}"):
        read_folder(tmp_path / "router")


DEEP = 200_000
VALID_HEAD = b'{"format": "pointsman-router", "format_version": 1, "a": '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"\xff\xfe{}", "malformed"),
        (b"[" * DEEP, "nested too deeply"),
        (VALID_HEAD + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
        (VALID_HEAD + b'{"b":' * 80 + b"1" + b"}" * 81, "64 levels deep"),
        (VALID_HEAD + b"NaN}", "JSON has no NaN"),
        (VALID_HEAD + b"-Infinity}", "JSON has no -Infinity"),
        (VALID_HEAD + b"1e999}", "must be finite"),
        (VALID_HEAD + b"9" * 5000 + b"}", "malformed"),
        (VALID_HEAD + b'1, "a": 2}', "stands twice"),
        (VALID_HEAD + b" " * (16 * 2**20) + b"1}", "larger than 16777216 bytes"),
        (b"null", "this is not a router"),
        (b'"pointsman-router"', "this is not a router"),
        (b'{"format": "pointsman-router"}', "format_version must be an integer"),
        (b'{"format": "pointsman-router", "format_version": true}', "format_version must be an integer"),
        (b'{"format": "pointsman-router", "format_version": "1"}', "format_version must be an integer"),
        (b'{"format": "pointsman-router", "format_version": 2}', "upgrade pointsman"),
        (b'{"format": "pointsman-router", "format_version": 1' + b"0" * 400 + b"}", "upgrade pointsman"),
        (b'{"format": "pointsman-router", "format_version": 1}', "must list its arrays"),
        (b'{"format": "pointsman-router", "format_version": 1, "arrays": []}', "must list its arrays"),
        (b'{"format": "pointsman-router", "format_version": 1, "arrays": {"a": 1}}', "must list its arrays"),
        (b'{"format": "pointsman-router", "format_version": 1, "arrays": {}}', "truncated or was replaced"),
        (b'{"format": "pointsman-router", "format_version": 1, "arrays": {}, "arrays_file": 1}', "the manifest says"),
    ],
    ids=lambda value: None if isinstance(value, str) else hashlib.sha256(value).hexdigest()[:6],
)
def test_a_bad_manifest_gets_one_clear_error(tmp_path: Path, text: bytes, message: str) -> None:
    """Malformed, endless, foreign and newer manifests: an InvalidRouterError of one short line, whatever it holds."""
    (save(tmp_path / "router") / MANIFEST).write_bytes(text)

    with pytest.raises(InvalidRouterError, match=message) as error:
        read_folder(tmp_path / "router")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_truncated_arrays(tmp_path: Path) -> None:
    """Any prefix of the arrays file is refused as truncated."""
    file = save(tmp_path / "router") / ARRAYS
    binary = file.read_bytes()

    for size in (0, 7, 8, len(binary) // 2, len(binary) - 1):
        file.write_bytes(binary[:size])
        with pytest.raises(InvalidRouterError, match="truncated"):
            read_folder(tmp_path / "router")


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    """A hand-edited price and a swapped arrays file both fail their hash."""
    path = save(tmp_path / "router")
    manifest = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(manifest.replace('"cost_factor": 1.0', '"cost_factor": 0.5'))
    with pytest.raises(InvalidRouterError, match="content_hash does not match"):
        read_folder(path)

    (path / MANIFEST).write_text(manifest)
    binary = (path / ARRAYS).read_bytes()
    (path / ARRAYS).write_bytes(binary[:-1] + bytes([binary[-1] ^ 1]))
    with pytest.raises(InvalidRouterError, match="sha256 does not match"):
        read_folder(path)


def test_arrays_must_be_those_of_the_manifest(tmp_path: Path) -> None:
    """With every file hash forged, missing, extra and exchanged arrays are still refused by name."""
    path = save(tmp_path / "router")

    reseal(path, change=lambda sealed: sealed["arrays"].pop("known"))
    with pytest.raises(InvalidRouterError, match=r"missing \[\], extra \['known'\]"):
        read_folder(path)

    save(path)
    reseal(path, change=lambda sealed: sealed["arrays"].update(more=sealed["arrays"]["known"]))
    with pytest.raises(InvalidRouterError, match=r"missing \['more'\], extra \[\]"):
        read_folder(path)

    save(path)
    reseal(path, change=lambda sealed: sealed["arrays"]["weights"].update(shape=[3, 2]))
    with pytest.raises(InvalidRouterError, match="'weights' is not the one"):
        read_folder(path)


class Bomb:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "npz", "npy", "safetensors"])
def test_a_pickle_is_never_run(tmp_path: Path, kind: str) -> None:
    """Pickles bare, in an npz, in an npy and as a safetensors entry are refused, every hash being right."""
    trap = tmp_path / "ran"
    bomb = np.array([Bomb(trap)], dtype=object)
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump(Bomb(trap), buffer)
    elif kind == "npz":
        np.savez(buffer, weights=bomb)
    elif kind == "npy":
        np.save(buffer, bomb, allow_pickle=True)
    else:
        content = pickle.dumps(Bomb(trap))
        header = json.dumps({"weights": {"dtype": "O", "shape": [1], "data_offsets": [0, len(content)]}}).encode()
        buffer.write(len(header).to_bytes(8, "little") + header + content)
    path = save(tmp_path / "router")
    reseal(path, binary=buffer.getvalue())

    with pytest.raises(InvalidRouterError, match="not a safetensors file"):
        read_folder(path)
    assert not trap.exists()
    with contextlib.suppress(AttributeError, ModuleNotFoundError):
        pickle.loads(pickle.dumps(Bomb(trap)))  # noqa: S301
    assert trap.exists(), "the trap itself works"


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}},
        {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}},
        {"a": {"dtype": "F64", "shape": [2**61], "data_offsets": [0, 2]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [-1, 1]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [100, 102]}},
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
        {"a": 1},
        [],
    ],
    ids=["bf16", "f8", "overflow", "negative", "beyond", "gap", "no-entry", "list"],
)
def test_a_forged_arrays_header_is_refused(tmp_path: Path, header: Any) -> None:
    """Types numpy lacks, sizes that overflow and offsets outside the file raise our error, every hash being right."""
    text = json.dumps(header).encode()
    path = save(tmp_path / "router")
    reseal(path, binary=len(text).to_bytes(8, "little") + text + b"\0\0")

    with pytest.raises(InvalidRouterError):
        read_folder(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example router, to be copied and damaged."""
    return save(tmp_path_factory.mktemp("template") / "router")


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
@pytest.mark.parametrize("name", [MANIFEST, ARRAYS])
def test_no_flipped_byte_goes_unnoticed(template: Path, tmp_path: Path, name: str, draw: st.DataObject) -> None:
    """Any byte of either file set to any other value is an error, or (in the manifest) leaves the content the same."""
    path = tmp_path / "router"
    shutil.copytree(template, path, dirs_exist_ok=True)
    content = bytearray((path / name).read_bytes())
    place = draw.draw(st.integers(0, len(content) - 1))
    content[place] ^= draw.draw(st.integers(1, 255))
    (path / name).write_bytes(content)

    try:
        manifest, arrays = read_folder(path)
    except InvalidRouterError:
        return
    assert name == MANIFEST
    assert manifest == MANIFEST_VALUES
    assert content_hash(manifest=manifest, arrays=arrays) == content_hash(manifest=MANIFEST_VALUES, arrays=ARRAY_VALUES)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(garbage=st.binary(max_size=200))
def test_garbage_arrays_with_right_hashes_are_refused(template: Path, tmp_path: Path, garbage: bytes) -> None:
    """Whatever the forger writes, the reader answers with our error."""
    path = tmp_path / "router"
    shutil.copytree(template, path, dirs_exist_ok=True)
    reseal(path, binary=garbage)

    with pytest.raises(InvalidRouterError):
        read_folder(path)


def test_only_routers_are_overwritten(tmp_path: Path) -> None:
    """A router and an empty folder are replaced; a file, another program's folder and a router with guests are not."""
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")
    write_folder(tmp_path / "empty", manifest={"seed": 2}, arrays={})
    assert read_folder(tmp_path / "empty") == ({"seed": 2}, {})

    (tmp_path / "file").write_text("keep")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("keep")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / MANIFEST).write_text("{}")
    (save(tmp_path / "guest") / "notes.txt").write_text("keep")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, message in [
        ("file", "is a file"),
        ("photos", "one.jpg"),
        ("foreign", "is not a router"),
        ("guest", "notes.txt"),
    ]:
        with pytest.raises(InvalidRouterError, match=message):
            save(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_or_newer_router_can_be_replaced(tmp_path: Path) -> None:
    """Saving again is what the errors advise."""
    path = save(tmp_path / "router")
    (path / ARRAYS).write_bytes(b"")
    save(path)
    reseal(path, change=lambda sealed: sealed.update(format_version=9))
    save(path)

    assert read_folder(path)[0] == MANIFEST_VALUES


def test_a_link_to_a_router_stays_a_link(tmp_path: Path) -> None:
    """Writing through a link replaces the router it leads to."""
    save(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")

    write_folder(tmp_path / "current", manifest={"seed": 2}, arrays={})

    assert (tmp_path / "current").is_symlink()
    assert read_folder(tmp_path / "v1") == read_folder(tmp_path / "current") == ({"seed": 2}, {})


def test_a_refusing_disk_is_one_error_and_the_old_router_stands(tmp_path: Path) -> None:
    """A parent that is a file, and a name too long."""
    (tmp_path / "file").write_text("x")

    for path in (tmp_path / "file" / "router", tmp_path / ("x" * 300), tmp_path / "null\0"):
        with pytest.raises(InvalidRouterError):
            save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_exchange_by_renames_restores_the_old_router(tmp_path: Path) -> None:
    """Where folders cannot be swapped at once: two renames, and the old name comes back if the second fails."""
    save(tmp_path / "old")
    write_folder(tmp_path / "staged", manifest={"seed": 2}, arrays={})

    folder_module._exchange_by_renames(tmp_path / "staged", tmp_path / "old")
    assert read_folder(tmp_path / "old")[0] == {"seed": 2}
    assert read_folder(tmp_path / "staged")[0] == MANIFEST_VALUES

    shutil.rmtree(tmp_path / "staged")
    with pytest.raises(FileNotFoundError):
        folder_module._exchange_by_renames(tmp_path / "staged", tmp_path / "old")
    assert read_folder(tmp_path / "old")[0] == {"seed": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_readers_see_whole_routers_while_two_writers_write(tmp_path: Path) -> None:
    """Every read gives manifest and arrays of the same write, and never an error."""
    path = tmp_path / "router"

    def write(number: int) -> None:
        write_folder(path, manifest={"number": number}, arrays={"number": np.full(1000, number)})

    write(0)
    writers = [
        threading.Thread(target=lambda first=first: [write(first + i) for i in range(0, 60, 2)]) for first in (1, 2)
    ]
    for writer in writers:
        writer.start()
    n_reads = 0
    while any(writer.is_alive() for writer in writers) or n_reads < 10:
        manifest, arrays = read_folder(path)
        assert (arrays["number"] == manifest["number"]).all()
        n_reads += 1
    for writer in writers:
        writer.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["router"]


def test_a_killed_writer_leaves_the_old_router(tmp_path: Path) -> None:
    """A process that dies between staging and renaming changes nothing a reader sees."""
    path = save(tmp_path / "router")
    script = (
        "import os, sys\n"
        "from pointsman import folder\n"
        "folder._put_in_place = lambda staged, target: os._exit(3)\n"
        "folder.write_folder(sys.argv[1], manifest={'seed': 5}, arrays={})\n"
    )

    died = subprocess.run([sys.executable, "-c", script, str(path)], check=False)  # noqa: S603

    assert died.returncode == 3
    assert read_folder(path)[0] == MANIFEST_VALUES
