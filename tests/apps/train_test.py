#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse train` from outside: what it writes, how it goes on, and what it says when it cannot."""
import json
import os
import pathlib
import resource
import signal
import subprocess
import tempfile
import time
import unittest

from program import PROGRAM, RESULTS, contents, run, tiny_training


class Train(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def assert_done(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def assert_fails(self, result, *parts, status=1):
        """With this status, and one sentence that has all `parts`."""
        self.assertEqual(result.returncode, status, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)
        if status == 1:
            self.assertEqual(result.stderr.splitlines()[-1][:8], "elapse: ")

    def undisturbed(self, *more, **options):
        self.assert_done(run(*tiny_training(self.folder / "whole", *more, **options)))
        return contents(self.folder / "whole")


class Runs(Train):
    def test_writes_the_model_and_what_resuming_needs(self):
        result = self.assert_done(run(*tiny_training(self.folder / "run", steps=30)))
        self.assertEqual(sorted(contents(self.folder / "run")), sorted(RESULTS))
        self.assertIn("step 30 of 30: held-out loss", result.stdout)
        config = json.loads((self.folder / "run/config.json").read_text())
        self.assertEqual(config["model_type"], "mamba")
        self.assertEqual(config["hidden_size"], 8)

    def test_trains_on_text(self):
        (self.folder / "text").write_text("to be or not to be " * 40)
        command = [PROGRAM, "train", "--text", self.folder / "text", "--out", self.folder / "run",
                   "--device", "ref", "--d-model", 8, "--layers", 1, "--batch-tokens", 64,
                   "--length", 16, "--steps", 5, "--schedule", "constant", "--eval-length", 16]
        result = self.assert_done(run(*command))
        self.assertIn("over 75 targets in sequences of up to 16 tokens", result.stdout)

    def test_trains_mamba2_which_the_other_verbs_read(self):
        out, text = self.folder / "run", self.folder / "text"
        text.write_text("to be or not to be " * 40)
        self.assert_done(run(PROGRAM, "train", "--text", text, "--out", out, "--mixer", "mamba2",
                             "--d-model", 8, "--layers", 1, "--d-state", 16, "--batch-tokens", 64,
                             "--length", 16, "--steps", 5, "--warmup", 2, "--eval-length", 16))
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["model_type"], config["num_heads"], config["head_dim"]),
                         ("mamba2", 1, 16))
        said = self.assert_done(run(PROGRAM, "info", out)).stdout
        self.assertIn("mamba2, transformers layout", said)
        for verb in (("generate", "--prompt", "to be", "--max-tokens", 5), ("eval", "--text", text)):
            self.assert_done(run(PROGRAM, verb[0], "--model", out, *verb[1:], errors="replace"))

    def test_logs_an_object_a_step(self):
        log = self.folder / "run/log"
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--eval-every", 20)))
        steps = [json.loads(line) for line in log.read_text().splitlines()]
        self.assertEqual([s["step"] for s in steps], list(range(1, 61)))
        self.assertEqual([s["length"] for s in steps], [4] * 20 + [8] * 40)
        self.assertEqual([s["step"] for s in steps if "eval_loss" in s], [20, 40, 60])
        for key in ("loss", "lr", "gradient_norm", "tokens", "seconds"):
            self.assertIn(key, steps[0])


class Resuming(Train):
    def interrupted(self, command, log, number):
        """A process that got a signal after some steps."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (log.exists() and log.stat().st_size > 1000):
            time.sleep(0.001)
        process.send_signal(number)
        process.messages = process.communicate()[1]
        return process

    def test_ctrl_c_saves_and_resuming_gives_the_bytes_of_an_undisturbed_run(self):
        whole = self.undisturbed("--save-every", 0, steps=3000)
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                out, log = self.folder / number.name, self.folder / f"{number.name}.log"
                command = tiny_training(out, "--log", log, "--save-every", 0, steps=3000)
                process = self.interrupted(command, log, number)
                self.assertEqual(process.returncode, 0)
                self.assertRegex(process.messages, r"stopped and saved after step \d+")
                self.assertNotEqual(contents(out), whole)
                self.assertIn("resuming after step", self.assert_done(run(*command, "--resume")).stderr)
                self.assertEqual(contents(out), whole)
                steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
                self.assertEqual(steps, list(range(1, 3001)))

    def test_the_log_goes_on_from_the_checkpoint(self):
        log = self.folder / "log"
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log)))
        lines = log.read_text().splitlines(keepends=True)
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--resume")))
        self.assertEqual(log.read_text(), "".join(lines))
        # As a process killed after it had logged more than it had saved, and amid a line, left it.
        log.write_text("".join(lines) + '{"step": 61}\n{"st')
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--resume")))
        self.assertEqual(log.read_text(), "".join(lines))

    def test_with_nothing_there_it_starts(self):
        result = self.assert_done(run(*tiny_training(self.folder / "run", "--resume")))
        self.assertIn("nothing to resume yet", result.stderr)
        self.assertEqual(contents(self.folder / "run"), self.undisturbed())

    def test_a_constant_learning_rate_can_be_continued_further(self):
        constant = ("--schedule", "constant", "--curriculum", "")
        self.assert_done(run(*tiny_training(self.folder / "run", *constant, steps=30)))
        self.assert_done(run(*tiny_training(self.folder / "run", *constant, "--resume")))
        self.assert_done(run(*tiny_training(self.folder / "whole", *constant)))
        self.assertEqual(contents(self.folder / "run"), contents(self.folder / "whole"))

    def test_other_settings_are_an_error_that_names_them(self):
        self.assert_done(run(*tiny_training(self.folder / "run")))
        before = contents(self.folder / "run")
        for flag, value, name in (("--lr", 0.5, "lr"), ("--d-state", 3, "d_state"),
                                  ("--seed", 9, "data"), ("--clip", 2, "clip")):
            result = run(*tiny_training(self.folder / "run", flag, value, "--resume"))
            self.assert_fails(result, "resume.safetensors: ", f'"{name}" was "', 'found "')
        self.assertEqual(contents(self.folder / "run"), before)


class Errors(Train):
    def test_a_run_is_not_replaced_by_accident(self):
        whole = self.undisturbed()
        self.assert_fails(run(*tiny_training(self.folder / "whole")), "--resume continues it")
        self.assertEqual(contents(self.folder / "whole"), whole)

    def test_a_model_is_not_replaced_by_accident(self):
        (self.folder / "model.safetensors").write_text("precious")
        for more in ((), ("--resume",)):
            self.assert_fails(run(*tiny_training(self.folder, *more)), "training would replace it")
        self.assertEqual(contents(self.folder), {"model.safetensors": b"precious"})

    def test_a_loss_that_is_not_finite_stops_the_run(self):
        command = tiny_training(self.folder / "run", "--schedule", "constant", "--lr", "1e30",
                                "--warmup", 0)
        result = run(*command)
        self.assert_fails(result, "training stopped at step 2: the loss is ",
                          'the first tensor that is not finite: point "layers.0.',
                          "run/resume.safetensors of step 0")
        self.assertEqual(sorted(contents(self.folder / "run")), sorted(RESULTS))

    def test_a_disk_full_at_the_first_checkpoint(self):
        result = self.run_with_little_space(tiny_training(self.folder / "run"))
        self.assert_fails(result, "run/resume.safetensors: ", "after 4096 of ")
        self.assertEqual(contents(self.folder / "run"), {})

    def test_a_disk_full_later_loses_nothing(self):
        constant = ("--schedule", "constant")
        command = tiny_training(self.folder / "run", *constant, steps=30)
        self.assert_done(run(*command))
        before = contents(self.folder / "run")
        command = tiny_training(self.folder / "run", *constant, "--resume", "--curriculum", "4:10")
        self.assert_fails(self.run_with_little_space(command), "resume.safetensors: ")
        self.assertEqual(contents(self.folder / "run"), before)

    @staticmethod
    def run_with_little_space(command):
        """As on a disk on which no file can grow above 4096 bytes."""
        limit = (4096, 4096)
        return run(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))

    def test_a_folder_that_cannot_be_written(self):
        (self.folder / "file").write_text("x")
        self.assert_fails(run(*tiny_training(self.folder / "file/run")), "file/run: cannot make")
        self.assert_fails(run(*tiny_training("/proc/run")), "/proc/run: cannot make the folder")
        if os.geteuid() == 0:
            return  # root may write anywhere
        (self.folder / "locked").mkdir(mode=0o500)
        self.assert_fails(run(*tiny_training(self.folder / "locked")), "cannot write beside it")

    def test_a_log_that_cannot_be_written(self):
        (self.folder / "file").write_text("x")
        result = run(*tiny_training(self.folder / "run", "--log", self.folder / "file/log"))
        self.assert_fails(result, "file/log: cannot make its folder")
        self.assertFalse((self.folder / "run").exists())
        result = run(*tiny_training(self.folder / "run", "--log", "/dev/full"))
        self.assert_fails(result, "/dev/full: cannot write step 1: No space left on device")

    def test_bad_texts(self):
        (self.folder / "empty").write_text("")
        (self.folder / "short").write_text("short")
        for name, sentence in (("empty", "empty: expected text, found an empty file"),
                               ("short", "short: too short for sequences of 256 tokens"),
                               ("none", "none: cannot open")):
            command = [PROGRAM, "train", "--text", self.folder / name, "--out",
                       self.folder / "run", "--device", "ref"]
            self.assert_fails(run(*command), sentence)
        self.assertFalse((self.folder / "run").exists())

    def test_impossible_sizes(self):
        for flag, value, part in (("--d-model", 0, "--d-model: expected 1 to"),
                                  ("--layers", -1, "--layers: expected 1 to"),
                                  ("--d-state", 10**12, "--d-state: expected 1 to"),
                                  ("--d-model", 10**7, "needs at least"),
                                  ("--layers", 10**7, "needs at least"),
                                  ("--length", 7, "multiple of the length 7"),
                                  ("--batch-tokens", 0, "batch tokens"),
                                  ("--accumulate", 0, "accumulate"),
                                  ("--steps", 0, "steps: expected"),
                                  ("--eval-length", 0, "--eval-length"),
                                  ("--lr", "nan", "learning rate"),
                                  ("--min-lr", -1, "least learning rate"),
                                  ("--beta1", 1, "beta1")):
            with self.subTest(flag=flag, value=value):
                self.assert_fails(run(*tiny_training(self.folder / "run", f"{flag}={value}")), part)
        self.assertFalse((self.folder / "run").exists())

    def test_an_unknown_device(self):
        result = run(*tiny_training(self.folder / "run", "--device", "abacus"))
        self.assert_fails(result, 'unknown device "abacus"')

    def test_wrong_usage(self):
        text = ["--text", "file"]
        for arguments in ([], ["unknown"], ["train"], ["train", *text],
                          ["train", "--out", "run"],
                          ["train", *text, "--task", "induction", "--out", "run"],
                          ["train", *text, "--out", "run", "--steps", "many"],
                          ["train", *text, "--out", "run", "--schedule", "steep"],
                          ["train", *text, "--out", "run", "--curriculum", "16"],
                          ["train", *text, "--out", "run", "--curriculum", "16:1,"],
                          ["train", *text, "--out", "run", "--unknown"]):
            with self.subTest(arguments):
                self.assert_fails(run(PROGRAM, *arguments), status=2)

    def test_help_and_version(self):
        self.assertIn("elapse train --text", self.assert_done(run(PROGRAM, "--help")).stdout)
        self.assertIn("Examples:", self.assert_done(run(PROGRAM, "train", "--help")).stdout)
        self.assertRegex(self.assert_done(run(PROGRAM, "--version")).stdout, r"^elapse \d+\.\d+")


if __name__ == "__main__":
    unittest.main()
