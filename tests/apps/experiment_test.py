#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse experiment` from outside: what it says before it begins. What it finds, tests/experiments
look at."""
import pathlib
import tempfile
import unittest

from program import PROGRAM, run


def experiment(*arguments):
    return run(PROGRAM, "experiment", "induction", *arguments, timeout=60)


class Mistakes(unittest.TestCase):
    def test_wrong_usage(self):
        for more in (["--steps", 0], ["--steps", 10, "--quick"], ["--seed", -1], ["--out", ""],
                     ["--threads", 1025], ["--threads", ""]):
            self.assertEqual(experiment(*more).returncode, 2, more)

    def test_wrong_usage_of_universal_and(self):
        for more in (["--seeds", 0], ["--target", "or"], ["--loss", "l2"],
                     ["--pairs", 19901], ["--steps", 0]):
            self.assertEqual(run(PROGRAM, "experiment", "universal-and", *more).returncode, 2, more)

    def test_a_folder_that_takes_no_files_is_found_out_before_training(self):
        sys_there = pathlib.Path("/sys").is_mount()  # in a bare chroot it is a folder as any
        for folder in ["/proc/none"] + ["/sys"] * sys_there:
            result = experiment("--quick", "--out", folder)
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, f"^elapse: {folder}.*: cannot ")
            self.assertEqual(result.stderr.count("\n"), 1)
            self.assertEqual(result.stdout, "")

    def test_another_model_is_not_replaced(self):
        with tempfile.TemporaryDirectory() as out:
            for name in ("model.safetensors", "tokenizer.json"):
                file = pathlib.Path(out, name)
                file.write_text("precious")
                result = experiment("--quick", "--out", out)
                self.assertEqual(result.returncode, 1)
                self.assertIn(f"{file}: expected a folder without a model", result.stderr)
                self.assertEqual([f.name for f in pathlib.Path(out).iterdir()], [name])
                file.unlink()

    def test_help_has_examples_of_its_own(self):
        for more in ((), ("induction",)):
            said = run(PROGRAM, "experiment", *more, "--help").stdout
            self.assertIn("Example: elapse experiment induction", said)
            self.assertNotIn("elapse tokenize", said)

    def test_wrong_usage_of_superposition(self):
        for more in (["--seeds", 0], ["--seeds", "many"], ["--seed", -1], ["--out", ""]):
            result = run(PROGRAM, "experiment", "superposition", *more, timeout=60)
            self.assertEqual(result.returncode, 2, more)

    def test_an_unknown_experiment(self):
        result = run(PROGRAM, "experiment", "inductoin")
        self.assertEqual(result.returncode, 2)
        self.assertIn('found "inductoin"; did you mean "induction"', result.stderr)


if __name__ == "__main__":
    unittest.main()
