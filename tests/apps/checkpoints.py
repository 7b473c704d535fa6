# SPDX-License-Identifier: Apache-2.0
"""Checkpoints for the tests of this folder: the small fixtures, and a large one made of holes."""
import json
import pathlib
import struct

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
PICKLE = FIXTURES / "original-pickle"
FALCON = FIXTURES / "falcon-mamba"
MAMBA2 = FIXTURES / "mamba2"
MAMBA2_PICKLE = FIXTURES / "mamba2-original"
UNTIED = FIXTURES / "transformers-bias-untied"


def tensors_of(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"],
                   data[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in header.items()}


def write_header(file, tensors):
    """tensors: {name: shape}, of f32. Returns the whole file's size."""
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, size = end, 4
        for n in shape:
            size *= n
        end += size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    return 8 + len(text) + end


def make_large(folder, d_model=512, n_layers=40, vocab=8192):
    """Some 75 million zeros, which take no room on the disk."""
    e, n, r = 2 * d_model, 16, (d_model + 15) // 16
    tensors = {"backbone.embedding.weight": [vocab, d_model], "backbone.norm_f.weight": [d_model]}
    for i in range(n_layers):
        mixer = {"A_log": [e, n], "D": [e], "in_proj.weight": [2 * e, d_model],
                 "conv1d.weight": [e, 1, 4], "conv1d.bias": [e], "x_proj.weight": [r + 2 * n, e],
                 "dt_proj.weight": [e, r], "dt_proj.bias": [e], "out_proj.weight": [d_model, e]}
        layer = f"backbone.layers.{i}."
        tensors[layer + "norm.weight"] = [d_model]
        tensors.update({layer + "mixer." + name: shape for name, shape in mixer.items()})
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(write_header(file, tensors))
    (folder / "config.json").write_text(json.dumps(
        {"d_model": d_model, "n_layer": n_layers, "vocab_size": vocab}))
    return folder
