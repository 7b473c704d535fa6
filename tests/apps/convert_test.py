#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse convert` from outside: what it writes, what it leaves when it cannot, what it says."""
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import pathlib

from checkpoints import FALCON, MAMBA2, MAMBA2_PICKLE, PICKLE, UNTIED, make_large, tensors_of
from program import PROGRAM, assert_needs_output, contents, open_terminal, run, tiny_training

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)
LARGE = make_large(FOLDER / "large")


def convert(*more, **options):
    return run(PROGRAM, "convert", *more, **options)


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.to = FOLDER / "to"
        self.addCleanup(shutil.rmtree, self.to, ignore_errors=True)

    def made(self, *more):
        result = convert(*more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def assert_fails(self, *more, says, status=1, **options):
        result = convert(*more, **options)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertIn(says, result.stderr)
        if status == 1:
            self.assertEqual(result.stderr[:8], "elapse: ")
            self.assertEqual(result.stderr.count("\n"), 1)


class Results(ConvertTest):
    def test_both_layouts_and_back(self):
        hf, back = self.to / "hf", self.to / "back"
        said = self.made(PICKLE, hf, "--layout", "transformers")
        self.assertEqual(said, f"{hf}: transformers layout, 10.3 kB in 1 file\n")
        self.made(hf, back, "--layout", "original")
        there, again = tensors_of(hf / "model.safetensors"), tensors_of(back / "model.safetensors")
        self.assertIn("backbone.embeddings.weight", there)
        there["backbone.embedding.weight"] = there.pop("backbone.embeddings.weight")
        self.assertEqual(there, again)

    def test_mamba2_in_both_layouts_and_back(self):
        original, back = self.to / "original", self.to / "back"
        self.made(MAMBA2, original, "--layout", "original")
        self.assertIn(b'"dt_limit": [0.1, 0.9]', (original / "config.json").read_bytes())
        self.made(original, back, "--layout", "transformers")
        self.assertEqual(tensors_of(back / "model.safetensors"),
                         tensors_of(MAMBA2 / "model.safetensors"))
        self.assert_fails(MAMBA2_PICKLE, self.to / "hf", "--layout", "transformers",
                          says="a model with D_has_hdim stays in the original layout")

    def test_dtypes(self):
        self.made(UNTIED, self.to / "half", "--dtype", "f16")
        self.assertEqual({t[0] for t in tensors_of(self.to / "half/model.safetensors").values()},
                         {"F16"})
        self.assertIn(b'"float16"', (self.to / "half/config.json").read_bytes())
        self.made(self.to / "half", self.to / "wide", "--dtype", "f32")
        self.made(self.to / "wide", self.to / "again", "--dtype", "f16")
        self.assertEqual(contents(self.to / "again"), contents(self.to / "half"))

    def test_shards(self):
        said = self.made(UNTIED, self.to / "shards", "--max-shard-size", "4kB")
        names = sorted(contents(self.to / "shards"))
        self.assertIn(f"in {len(names) - 2} files", said)
        self.assertIn("model.safetensors.index.json", names)
        self.assertIn("model-00001-of-", names[1])
        self.made(self.to / "shards", self.to / "whole", "--max-shard-size", "1GB")
        self.assertEqual(tensors_of(self.to / "whole/model.safetensors"),
                         tensors_of(UNTIED / "model.safetensors"))

    def test_the_text_generated_is_the_same(self):
        def text(model):
            result = run(PROGRAM, "generate", "-m", model, "--device", "ref", "--temp", 0,
                         "--prompt-tokens", "1,2,3", "-n", 12)
            self.assertEqual(result.returncode, 0, result.stderr)
            return result.stdout

        for model in (PICKLE, FALCON):
            to = self.to / model.name
            self.made(model, to, "--layout", "transformers", "--max-shard-size", "3kB")
            self.assertEqual(text(to), text(model))

    def test_progress_on_a_terminal(self):
        ours, its = open_terminal(self)
        with subprocess.Popen([PROGRAM, "convert", LARGE, self.to], stdout=subprocess.DEVNULL,
                              stderr=its) as process:
            os.close(its)
            shown = b""
            try:
                while piece := os.read(ours, 4096):
                    shown += piece
            except OSError:
                pass  # its end is closed
            self.assertEqual(process.wait(), 0)
        os.close(ours)
        self.assertRegex(shown, rb"MB \d+/\d+  written  .* left")


class Failures(ConvertTest):
    def begun(self, *more):
        """A conversion that has begun to write."""
        process = subprocess.Popen([PROGRAM, "convert", LARGE, self.to, *more],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (self.to / ".convert-tmp").exists() and process.poll() is None:
            time.sleep(0.001)
        return process

    def test_interrupted(self):
        for stop in (signal.SIGINT, signal.SIGTERM):
            with self.begun() as process:
                process.send_signal(stop)
                message = process.stderr.read()
                self.assertEqual(process.wait(), 128 + stop)
            self.assertIn("interrupted", message)
            self.assertFalse(self.to.exists())

    def test_interrupted_or_killed_while_replacing(self):
        self.made(FALCON, self.to)
        before = contents(self.to)
        with self.begun("--force") as process:
            process.send_signal(signal.SIGINT)
        self.assertEqual(contents(self.to), before)
        with self.begun("--force") as process:
            process.kill()
        left = {p.name for p in self.to.iterdir()}
        self.assertEqual(left, set(before) | {".convert-tmp"})
        shutil.copytree(self.to, self.to / "copy", ignore=lambda *_: [".convert-tmp", "copy"])
        self.assertEqual(contents(self.to / "copy"), before)
        shutil.rmtree(self.to / "copy")
        self.made(UNTIED, self.to, "--force")  # which clears up
        self.assertEqual({p.name for p in self.to.iterdir()}, set(before))

    def test_no_room(self):
        def little_room():
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))

        self.assert_fails(LARGE, self.to, says=".convert-tmp/model.safetensors: ",
                          preexec_fn=little_room)
        self.assertFalse(self.to.exists())
        self.made(FALCON, self.to)
        before = contents(self.to)
        self.assert_fails(LARGE, self.to, "--force", says="after", preexec_fn=little_room)
        self.assertEqual(contents(self.to), before)

    def test_a_checkpoint_that_is_there_already(self):
        self.made(FALCON, self.to)
        before = contents(self.to)
        self.assert_fails(PICKLE, self.to, says="there is a checkpoint or a part of one already")
        self.assertEqual(contents(self.to), before)
        self.made(PICKLE, self.to, "--force")
        self.assertNotEqual(contents(self.to), before)

    def test_a_training_run_is_not_replaced(self):
        made = run(*tiny_training(self.to, steps=3))
        self.assertEqual(made.returncode, 0, made.stderr)
        before = contents(self.to)
        for more in ((), ("--force",)):
            self.assert_fails(PICKLE, self.to, *more, says="there is a training run, which would go "
                              "on as another model's: expected a folder without resume.safetensors")
        self.assertEqual(contents(self.to), before)
        (self.to / "resume.safetensors").unlink()
        self.made(PICKLE, self.to, "--force")

    def test_a_folder_that_another_process_holds(self):
        self.made(FALCON, self.to)
        before = contents(self.to)
        held = os.open(self.to, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.assert_fails(PICKLE, self.to, "--force", says="another process is at work in this")
        os.close(held)
        self.assertEqual(contents(self.to), before)
        with self.begun("--force") as process:
            self.assert_fails(PICKLE, self.to, "--force", says="another process is at work in this")
            self.assertEqual(process.wait(), 0)

    def test_output_that_cannot_be_written(self):
        assert_needs_output(self, PROGRAM, "convert", FALCON, self.to)

    def test_what_cannot_be(self):
        self.assert_fails(FALCON, self.to, "--layout", "original", says="weightless norms")
        self.assert_fails(FOLDER / "nothing", self.to, says="config.json, found none")
        self.assert_fails(PICKLE, PICKLE, "--force", says="is the one read from")
        self.assertFalse(self.to.exists())

    def test_wrong_usage(self):
        self.assert_fails(PICKLE, says="TO is required", status=2)
        self.assert_fails(PICKLE, self.to, "--dtype", "f8", says="--dtype", status=2)
        self.assert_fails(PICKLE, self.to, "--layout", "gguf", says="--layout", status=2)
        for size in ("0", "-1", "5XB", "", "020kb", "kB", "1.5GB", "9999999999TB"):
            self.assert_fails(PICKLE, self.to, "--max-shard-size", size, status=2,
                              says="--max-shard-size: expected a size such as 5GB or 200MB, found "
                              f'"{size}"')


if __name__ == "__main__":
    unittest.main()
