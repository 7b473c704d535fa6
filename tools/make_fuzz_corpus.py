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

    yield "model_config/original", json.dumps({
        "d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba1",
        "d_state": 16, "expand": 2, "dt_rank": "auto"}, "rms_norm": True, "residual_in_fp32": True,
        "fused_add_norm": True, "pad_vocab_size_multiple": 8, "tie_embeddings": True,
        "d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}}).encode()
    hf = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": 768,
          "num_hidden_layers": 24, "vocab_size": 50280, "expand": 2, "intermediate_size": 1536,
          "state_size": 16, "conv_kernel": 4, "time_step_rank": 48, "layer_norm_epsilon": 1e-5,
          "hidden_act": "silu", "d_model": 768, "n_layer": 24, "ssm_cfg": {}, "rms_norm": True}
    yield "model_config/transformers", json.dumps(hf).encode()
    yield "model_config/falcon", json.dumps({
        **hf, "model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"],
        "expand": 16, "mixer_rms_eps": 1e-6, "eos_token_id": [11, 12],
        "tie_word_embeddings": False}).encode()
    mamba2 = json.dumps({
        **hf, "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "num_heads": 24,
        "head_dim": 64, "n_groups": 1, "chunk_size": 256, "norm_before_gate": False, "ssm_cfg": {},
        "time_step_limit": [0.0, float("inf")]})
    yield "model_config/mamba2", mamba2.encode()
    yield "model_config/mamba2_original", json.dumps({
        "d_model": 768, "n_layer": 24, "vocab_size": 50277, "pad_vocab_size_multiple": 16,
        "ssm_cfg": {"layer": "Mamba2", "headdim": 64, "ngroups": 1, "D_has_hdim": True,
                    "dt_limit": [0.01, 10.0]}}).encode()
    yield "model_config/padded", json.dumps({
        **hf, "unpadded_vocab_size": 50277, "pad_vocab_size_multiple": 8}).encode()

    index = {"metadata": {"total_size": 24}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    yield "shard_index/two", json.dumps(index).encode()
    yield "shard_index/outside", b'{"weight_map": {"a": "../a.bin", "b": "/etc/passwd"}}'


    def byte_character(byte):
        shown = 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or 0xae <= byte
        return chr(byte if shown else 0x100 + sum(
            not (0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or 0xae <= b) for b in range(byte)))
    yield from tokenizers([byte_character(byte) for byte in range(256)])
    yield "encode/english", b"It's 1995, isn't it?  \n\n the cat\t<|end|>  !!"
    yield "encode/unicode", "e\u0301 \u1100\u1161 \U0001f600\u200d \u3000x\u0663".encode()
    yield "encode/bytes", b"\xff\xc3(\xe2\x82 \xf0\x9f\x98a\xc0\x80\xed\xa0\x80"


def tokenizers(byte_characters):
    """A tokenizer.json with what steps there are, and one that does the least."""
    vocabulary = {c: i for i, c in enumerate([*byte_characters, "ab", "abc"])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["a b", ["ab", "c"]],
             "ignore_merges": True}
    added = {"id": 300, "content": "<|end|>", "single_word": True, "lstrip": True, "rstrip": True,
             "normalized": True, "special": True}
    least = {"pre_tokenizer": byte_level, "decoder": byte_level,
             "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    regex = r"(?i:'s)|[^\r\n\p{L}]?\w+|\p{N}{1,3}|\s+(?!\S)"
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    steps = [split, byte_level, {"type": "Digits", "individual_digits": False},
             {"type": "Punctuation", "behavior": "Contiguous"}]
    special = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [special, {"Sequence": {"id": "A"}}],
                "pair": [], "special_tokens": {"<|end|>": {"ids": [300]}}}
    most = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added],
            "normalizer": {"type": "Sequence",
                           "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "x"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": template, "decoder": byte_level, "model": model}
    for name, settings in (("least", least), ("most", most)):
        # The vocabulary last, so that what mutations reach first are the settings.
        yield f"tokenizer_json/{name}", json.dumps(settings, ensure_ascii=False).encode()


def main():
    for path, data in seeds():
        target = CORPUS / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    main()
