#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse info` from outside: folders, files of weights, indices, saved states."""
import json
import pathlib
import tempfile
import time
import unittest

from checkpoints import FALCON, MAMBA2, MAMBA2_PICKLE, PICKLE, UNTIED, make_large
from program import PROGRAM, assert_needs_output, run

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)


def info(*more):
    result = run(PROGRAM, "info", *more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def facts(*more):
    return json.loads(info(*more, "--json"))


class Folders(unittest.TestCase):
    def test_original_pickle(self):
        said = facts(PICKLE)
        self.assertEqual(said["architecture"], "mamba")
        self.assertEqual(said["layout"], "original")
        self.assertEqual((said["vocab_size"], said["padded_vocab_size"]), (17, 24))
        # The tied head's second copy in the file is no parameter.
        self.assertEqual(said["parameters"], 2574)
        self.assertEqual(said["bytes"], 4 * 2574)
        self.assertEqual(said["dtypes"], {"f32": 2574})
        self.assertEqual(said["state_bytes"], 3 * 18 * (3 + 2) * 4)
        self.assertEqual(said["files"], ["pytorch_model.bin"])
        self.assertEqual(said["tokenizer"], [])
        self.assertNotIn("tensors", said)

    def test_falcon_mamba(self):
        said = info(FALCON)
        self.assertIn("falcon_mamba, transformers layout", said)
        self.assertIn("its own", said)

    def test_mamba2(self):
        self.assertIn("6 of 4 channels, in 3 groups", info(MAMBA2))
        said = facts(MAMBA2_PICKLE)
        self.assertEqual((said["architecture"], said["layout"]), ("mamba2", "original"))
        self.assertEqual((said["heads"], said["head_dim"], said["groups"]), (6, 5, 1))
        self.assertEqual(said["padded_vocab_size"], 32)
        self.assertEqual(said["state_bytes"], 2 * (30 * 6 + 42 * 3) * 4)
        self.assertNotIn("dt_rank", said)

    def test_shards_and_a_tokenizer(self):
        folder = FOLDER / "shards"
        made = run(PROGRAM, "convert", UNTIED, folder, "--dtype", "bf16", "--max-shard-size", "3kB")
        self.assertEqual(made.returncode, 0, made.stderr)
        for name in ("tokenizer.json", "added_tokens.json"):
            (folder / name).write_text("{}")
        said = facts(folder, "--tensors")
        self.assertEqual(said["tokenizer"], ["tokenizer.json", "added_tokens.json"])
        self.assertGreater(len(said["files"]), 1)
        self.assertEqual(list(said["dtypes"]), ["bf16"])
        by_name = {t["name"]: t for t in said["tensors"]}
        self.assertEqual(by_name["backbone.embeddings.weight"],
                         {"name": "backbone.embeddings.weight", "dtype": "bf16",
                          "shape": [23, 12], "file": said["files"][0]})
        index = facts(folder / "model.safetensors.index.json")
        self.assertEqual(index["files"], said["files"])
        self.assertEqual(index["parameters"], said["parameters"])

    def test_tensors_for_people(self):
        lines = info(FALCON, "--tensors").splitlines()
        self.assertTrue(any(line.split() == ["lm_head.weight", "f32", "(19,", "10)",
                                             "model.safetensors"] for line in lines))

    def test_a_large_one_takes_no_longer(self):
        folder = make_large(FOLDER / "large", d_model=2560, n_layers=64, vocab=50280)
        begin = time.monotonic()
        said = info(folder)
        self.assertLess(time.monotonic() - begin, 5)  # milliseconds, where nothing else runs
        self.assertIn("2768345600 (2.8B)", said)
        self.assertIn("11073382400 (11.1 GB)", said)


class Files(unittest.TestCase):
    def test_weights_alone(self):
        self.assertEqual(facts(FALCON / "model.safetensors")["parameters"], 2850)
        said = facts(PICKLE / "pytorch_model.bin", "--tensors")
        self.assertIn("lm_head.weight", [t["name"] for t in said["tensors"]])
        self.assertNotIn("architecture", said)

    def test_saved_states(self):
        state = FOLDER / "a.state"
        made = run(PROGRAM, "generate", "-m", FALCON, "--device", "ref", "--prompt-tokens", "1,2,3",
                   "-n", 0, "--save-state", state)
        self.assertEqual(made.returncode, 0, made.stderr)
        said = facts(state)
        self.assertEqual(said["positions"], [3])
        self.assertEqual(len(said["state_of"]), 16)
        self.assertIn(f"of the model {said['state_of']}", info(state))


class Mistakes(unittest.TestCase):
    def assert_fails(self, path, says):
        result = run(PROGRAM, "info", path)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(says, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertEqual(result.stdout, "")

    def test_are_named(self):
        self.assert_fails(FOLDER / "missing", "missing: cannot open")
        self.assert_fails(FOLDER, "found none")
        (FOLDER / "text").write_text("no weights, but long enough")
        self.assert_fails(FOLDER / "text", 'text: expected tensors in a safetensors file, a '
                          'pytorch_model.bin or an index of either (.index.json), found a file '
                          'that begins with "no weights, but long eno"')
        for name, data, says in (("m.gguf", b"GGUF\3\0\0\0\x53\1", r'with "GGUF\x03\x00\x00\x00S'),
                                 ("config.json", b'{"model_type": "mamba"}', 'with "{"model_ty'),
                                 ("empty", b"", "found an empty file"),
                                 ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1",
                                  'in a file that begins with "version "')):
            (FOLDER / name).write_bytes(data)
            self.assert_fails(FOLDER / name, says)
        (FOLDER / "m.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
        self.assert_fails(FOLDER / "m.index.json", "plain name of a file beside the index")

    def test_output_that_cannot_be_written(self):
        assert_needs_output(self, PROGRAM, "info", FALCON, "--tensors")
        assert_needs_output(self, PROGRAM, "info", FALCON, "--json")

    def test_unknown_architectures(self):
        folder = FOLDER / "other"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "mamba3"}')
        self.assert_fails(folder, '"mamba", "mamba2", "falcon_mamba", "llama" or "mistral" (the '
                                  'architectures known), found "mamba3"')


if __name__ == "__main__":
    unittest.main()
