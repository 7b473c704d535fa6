#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets, tests/fuzz/corpus/<target>/<seed>: small valid files.

Usage: tools/make_fuzz_corpus.py (from the repository's root). The same bytes every time.
"""
import io
import json
import pathlib
import struct
import zipfile

CORPUS = pathlib.Path(__file__).resolve().parent.parent / "tests/fuzz/corpus"


def safetensors(tensors, metadata=None):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, elements) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(elements)]}
        data += elements
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(storage, key, numel, sizes, strides, offset=0):
    """Pickle opcodes that build a view of an archive's storage, as torch.save writes them."""
    def integers(values):
        return b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"
    persistent = (b"(" + text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text(key) +
                  text("cpu") + b"K" + bytes([numel]) + b"tQ")
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K" + bytes([offset]) +
            integers(sizes) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR")


def pickled(opcodes):
    return b"\x80\x02" + opcodes + b"."


def archive(pickle, storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        def add(name, data):
            file.writestr(zipfile.ZipInfo("m/" + name), data)
        add("data.pkl", pickle)
        add("byteorder", b"little")
        for key, data in storages.items():
            add("data/" + key, data)
    return out.getvalue()


def seeds():
    numbers = bytes(range(24))
    tensors = {"a": ("F32", [2, 3], numbers), "b": ("BF16", [], b"ab"), "c": ("U8", [0, 3], b"")}
    yield "safetensors/typical", safetensors(tensors, {"format": "pt"})
    yield "safetensors/empty", safetensors({})
    yield "safetensors/misaligned", safetensors({"x": ("U8", [1], b"x"), "y": ("I64", [3], numbers)})

    config = {"d_model": 24, "rate": 1.5e-3, "tied": True, "none": None,
              "limits": [0.0, float("inf")], "inner": {"text": "caf\u00e9 \U0001f600 \" \\ \n"}}
    yield "json/config", json.dumps(config).encode()
    yield "json/utf8", json.dumps(config, ensure_ascii=False, indent=1).encode()
    yield "json/numbers", b"[0, -0, -0.0, 1e300, 9223372036854775808, -9223372036854775808, 1E-5]"

    pairs = [{"context": "To be, or not", "continuation": "to be"},
             {"domain": [1], "continuation": " caf\u00e9", "context": "\"x\" \n"}]
    yield "continuations/pairs", "".join(json.dumps(pair) + "\n" for pair in pairs).encode()
    yield "continuations/utf8", b"\r\n" + json.dumps(pairs[1], ensure_ascii=False).encode()

    plain = pickled(b"}" + text("a") + tensor("FloatStorage", "0", 6, [2, 3], [3, 1]) + b"s")
    strided = pickled(
        b"ccollections\nOrderedDict\n)Rq\x01(" +
        text("a") + b"q\x02" + tensor("HalfStorage", "0", 12, [3, 2], [1, 3], offset=2) +
        text("b") + b"ctorch._utils\n_rebuild_parameter\n(" +
        tensor("LongStorage", "0", 3, [], []) + b"\x88ccollections\nOrderedDict\n)RtR" +
        text("c") + tensor("ByteStorage", "1", 0, [0, 2], [2, 1]) +
        b"u}" + text("_metadata") + b"h\x02sb")
    opcodes = pickled(
        b"](NK\x01M\x02\x02J\x01\x00\x00\x00\x8a\x02\xff\x00G" + struct.pack(">d", 1.5) +
        b"\x88\x89)N\x85NN\x86NNN\x87e}q\x00j" + struct.pack("<I", 0) + b"r" +
        struct.pack("<I", 9) + b"h\x00\x87a")
    yield "pytorch/archive", archive(plain, {"0": numbers})
    yield "pytorch/plain.pkl", plain
    yield "pytorch/strided.pkl", strided
    yield "pytorch/opcodes.pkl", opcodes


def main():
    for path, data in seeds():
        target = CORPUS / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    main()
