#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse experiment` from outside: what it says before it begins. What it finds, tests/experiments
look at."""
import json
import pathlib
import signal
import subprocess
import tempfile
import time
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

    def test_wrong_usage_of_comparisons(self):
        for name in ("selective-copying", "mqar"):
            for more in (["--seeds", 0], ["--mixer", "grue"], ["--mixer", "mamba,grue"],
                         ["--steps", 0], ["--out", ""]):
                self.assertEqual(run(PROGRAM, "experiment", name, *more).returncode, 2, more)
        for more in ([], ["--text", ""], ["--text", "t", "--seeds", 0]):
            self.assertEqual(run(PROGRAM, "experiment", "ablations", *more).returncode, 2, more)
        for name, *more in (("selective-copying", "--lr", 0), ("mqar", "--lr", "1e-3,-1"),
                            ("gradients", "--mixer", "attention"), ("induction", "--lr", 0),
                            ("mqar", "--sequences", 0)):
            self.assertEqual(run(PROGRAM, "experiment", name, *more).returncode, 2, more)

    def test_an_unknown_experiment(self):
        result = run(PROGRAM, "experiment", "inductoin")
        self.assertEqual(result.returncode, 2)
        self.assertIn('found "inductoin"; did you mean "induction"', result.stderr)


class SeveralRuns(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    @staticmethod
    def command(out, steps, rates="0.005"):
        return [PROGRAM, "experiment", "selective-copying", "--quick", "--length", "32",
                "--mixer", "gru,mamba", "--seeds", "2", "--seed", "4", "--steps", str(steps),
                "--lr", rates, "--threads", "1", "--out", str(out)]

    @staticmethod
    def rows(out):
        """Those of result.json, without the times."""
        rows = json.loads((out / "result.json").read_text())["rows"]
        return [{name: value for name, value in row.items() if "seconds" not in name}
                for row in rows]

    def test_what_is_finished_is_not_run_again(self):
        out = self.folder / "out"
        first = run(*self.command(out, 2))
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("Mamba (S6), published", first.stdout)
        self.assertIn("Of 2 seeds the median", first.stdout)
        self.assertIn("report.html", [file.name for file in out.iterdir()])
        self.assertEqual(sorted(folder.name for folder in (out / "runs").iterdir()),
                         sorted(f"{name}-lr-0.005-seed-{seed}" for name in (
                             "gru", "mamba", "mamba-no-gate", "mamba-nothing-selective")
                                for seed in (4, 5)))
        report = (out / "report.html").read_bytes()
        again = run(*self.command(out, 2))
        self.assertEqual(again.stdout, first.stdout)
        self.assertEqual((out / "report.html").read_bytes(), report)
        other = run(*self.command(out, 3))
        self.assertEqual(other.returncode, 1)
        self.assertIn('was "2", is "3"', other.stderr)

    def test_what_diverges_is_told_and_the_rest_goes_on(self):
        out = self.folder / "out"
        first = run(*self.command(out, 8, rates="1e38"))
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("diverged", first.stdout)
        self.assertTrue(any("diverged_at_step" in row for row in self.rows(out)))
        again = run(*self.command(out, 8, rates="1e38"))
        self.assertEqual(again.stdout, first.stdout)

    def test_a_stopped_and_a_killed_experiment_go_on(self):
        whole, out = self.folder / "whole", self.folder / "out"
        self.assertEqual(run(*self.command(whole, 40)).returncode, 0)
        for number in (signal.SIGINT, signal.SIGKILL):
            process = subprocess.Popen(self.command(out, 40), stderr=subprocess.PIPE, text=True)
            while process.poll() is None and not list(out.glob("runs/*/run.json")):
                time.sleep(0.01)
            time.sleep(0.2)
            process.send_signal(number)
            said = process.communicate()[1]
            if number == signal.SIGINT and process.returncode != 0:  # else it was done by then
                self.assertEqual(process.returncode, 128 + signal.SIGINT, said)
                self.assertIn("the same command goes on", said)
        self.assertEqual(run(*self.command(out, 40)).returncode, 0)
        self.assertEqual(self.rows(out), self.rows(whole))


if __name__ == "__main__":
    unittest.main()
