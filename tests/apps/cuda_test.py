#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the program does on a GPU, in float32 and in bf16: training, evaluation, generation, looking
inside, experiments. Skipped where there is none."""
import json
import pathlib
import re
import tempfile
import unittest

from program import PROGRAM, run

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)
TEXT = FOLDER / "text"
DTYPES = ("f32", "bf16")


def on_gpu(*arguments, dtype):
    result = run(PROGRAM, *arguments, "--device", "cuda", "--dtype", dtype)
    if re.search("no usable NVIDIA GPU|no CUDA toolkit", result.stderr):
        raise unittest.SkipTest(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return result.stdout


def setUpModule():
    TEXT.write_text("to be or not to be, that is the question: " * 100)
    for dtype in DTYPES:
        on_gpu("train", "--text", TEXT, "--out", FOLDER / dtype, "--d-model", 32, "--layers", 2,
               "--batch-tokens", 512, "--length", 64, "--steps", 60, "--lr", 1e-2, "--warmup", 5,
               "--eval-every", 0, "--eval-length", 64, dtype=dtype)


class OneModel(unittest.TestCase):
    def test_evaluation_finds_the_same_loss_in_both(self):
        found = {}
        for model in DTYPES:
            for dtype in DTYPES:
                out = FOLDER / "eval.json"
                on_gpu("eval", "-m", FOLDER / model, "--text", TEXT, "--json", out, dtype=dtype)
                found[model, dtype] = json.loads(out.read_text())["nats_per_token"]
        for model in DTYPES:
            self.assertLess(found[model, "f32"], 1.0)  # of log 256 at first
            self.assertNotEqual(found[model, "f32"], found[model, "bf16"])
            self.assertAlmostEqual(found[model, "f32"], found[model, "bf16"], delta=0.02)

    def test_generation_goes_on_with_the_text(self):
        for dtype in DTYPES:
            said = on_gpu("generate", "-m", FOLDER / dtype, "-p", "to be or not ", "--temp", 0,
                          "-n", 20, dtype=dtype)
            self.assertIn("to be, that is", said)

    def test_methods_look_inside(self):
        prompts = FOLDER / "prompts.jsonl"
        prompts.write_text(json.dumps({"clean": "to be or not to b", "corrupt": "to be or not to x",
                                       "answer": "e", "wrong": "q"}) + "\n")
        for method in ("patch", "attribute", "lens", "dla", "circuit"):
            for dtype in DTYPES:
                on_gpu("inspect", method, "-m", FOLDER / dtype, "--prompts", prompts, dtype=dtype)


class Experiments(unittest.TestCase):
    def run_in_both(self, name, *more):
        """The folder of each dtype."""
        folders = {}
        for dtype in DTYPES:
            folders[dtype] = FOLDER / f"{name}-{dtype}"
            on_gpu("experiment", name, *more, "--out", folders[dtype], dtype=dtype)
            self.assertTrue("cuda (" in (folders[dtype] / "report.html").read_text())
        return folders

    def test_trainings_say_what_they_computed_in(self):
        common = ("--quick", "--steps", 3, "--mixer", "mamba,gla")
        for name, *more in (("mqar", *common), ("selective-copying", *common),
                            ("ablations", "--quick", "--steps", 3, "--text", TEXT)):
            for dtype, folder in self.run_in_both(name, *more).items():
                for file in (folder / "runs").glob("*/run.json"):
                    said = json.loads(file.read_text())
                    self.assertEqual(said["settings"]["dtype"], dtype)
                    self.assertEqual(said["device"].endswith(" in bf16"), dtype == "bf16")

    def test_identification(self):
        self.run_in_both("ioi", "--steps", 560)  # 50 warm up, 500 decay


if __name__ == "__main__":
    unittest.main()
