#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse eval` from outside: what it measures, and what it says when it cannot."""
import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from checkpoints import FIXTURES, make_large
from program import PROGRAM, assert_needs_output, open_terminal, run, tiny_training

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)
BYTES = FOLDER / "bytes"  # a model of bytes
HEADS = FOLDER / "heads"  # a model of 16 classes
TEXT = FOLDER / "text"
PAIRS = FOLDER / "pairs"
TOKENIZER = FIXTURES / "tokenizers/llama3/tokenizer.json"
LENGTH = 16  # of the sequences the model was trained and evaluated on
held_out_loss = None  # nats a byte, as training said at its end


def setUpModule():
    global held_out_loss
    words = "to be or not to be " * 40
    TEXT.write_text(words)
    made = run(PROGRAM, "train", "--text", TEXT, "--out", BYTES, "--device", "ref", "--d-model", 8,
               "--layers", 1, "--batch-tokens", 64, "--length", LENGTH, "--steps", 100,
               "--schedule", "constant", "--lr", 3e-2, "--warmup", 2, "--eval-every", 0,
               "--eval-length", LENGTH)
    assert made.returncode == 0, made.stderr
    held_out_loss = float(re.search(r"held-out loss (\S+) nats", made.stdout)[1])
    made = run(*tiny_training(HEADS, steps=3))
    assert made.returncode == 0, made.stderr
    pairs = [("to be or not to", "be"), ("to be or", "not"), ("or not ", "to"), ("not to", "do")]
    PAIRS.write_text("".join(
        json.dumps({"context": context, "continuation": continuation}) + "\n"
        for context, continuation in pairs))


def command(*more, model=BYTES, device="ref"):
    return [str(c) for c in (PROGRAM, "eval", "-m", model, "--device", device, *more)]


def measured(*more, device="ref", model=BYTES, **options):
    """The numbers of the JSON file; the table must have been printed too."""
    file = FOLDER / "result.json"
    result = run(*command(*more, "--json", file, device=device, model=model), **options)
    assert result.returncode == 0, result.stderr
    assert "perplexity" in result.stdout, result.stdout
    numbers = json.loads(file.read_text())
    assert f"{numbers['perplexity']:.4f}" in result.stdout, result.stdout
    return numbers


class Text(unittest.TestCase):
    def test_measures_follow_from_each_other(self):
        found = measured("--text", TEXT)
        self.assertEqual((found["window"], found["stride"], found["windows"]), (1024, 1024, 1))
        self.assertEqual(found["tokens"], TEXT.stat().st_size - 1)
        self.assertEqual(found["bytes"], found["tokens"])
        self.assertAlmostEqual(found["perplexity"], math.exp(found["nats_per_token"]))
        self.assertAlmostEqual(found["bits_per_token"], found["nats_per_token"] / math.log(2))
        self.assertAlmostEqual(found["bits_per_byte"], found["bits_per_token"])

    def test_loss_is_the_one_that_training_found(self):
        size = TEXT.stat().st_size
        held_out = FOLDER / "held_out"
        held_out.write_bytes(TEXT.read_bytes()[size - (size + 9) // 10:])
        found = measured("--text", held_out, "--window", LENGTH + 1, "--stride", LENGTH)
        self.assertEqual(found["tokens"], held_out.stat().st_size - 1)
        self.assertAlmostEqual(found["nats_per_token"], held_out_loss, delta=1e-4)

    def test_numbers_are_the_same_whatever_the_batch_and_the_device(self):
        for window in (("--window", 100), ("--window", 50, "--stride", 20), ("--window", 0)):
            whole = measured("--text", TEXT, *window)
            for device, batch_tokens in (("ref", 7), ("ref", 100), ("cpu", 64), ("cpu", 4096)):
                with self.subTest(window=window, device=device, batch_tokens=batch_tokens):
                    found = measured("--text", TEXT, *window, "--batch-tokens", batch_tokens,
                                     device=device)
                    self.assertEqual(found["windows"], whole["windows"])
                    self.assertEqual(found["tokens"], whole["tokens"])
                    self.assertAlmostEqual(found["nats_per_token"], whole["nats_per_token"],
                                           delta=1e-5)

    def test_window_zero_is_one_window_of_the_whole(self):
        found = measured("--text", TEXT, "--window", 0)
        longest = measured("--text", TEXT, "--window", TEXT.stat().st_size)
        self.assertEqual(found["windows"], 1)
        self.assertEqual(found["nats_per_token"], longest["nats_per_token"])

    def test_from_standard_input_up_to_a_limit(self):
        expected = FOLDER / "beginning"
        expected.write_bytes(TEXT.read_bytes()[:50])
        whole = measured("--text", expected)
        found = measured("--text", "-", "--limit", 50, input=TEXT.read_text())
        self.assertEqual(found["nats_per_token"], whole["nats_per_token"])
        self.assertEqual(measured("--text", TEXT, "--limit", 10**12)["tokens"],
                         TEXT.stat().st_size - 1)


    def test_a_limit_reads_no_more_than_it_needs(self):
        with subprocess.Popen(command("--text", "-", "--limit", 50), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              bufsize=0) as process:
            with contextlib.suppress(BrokenPipeError):  # it has read enough
                process.stdin.write(b"to be or not to be " * 50_000)
            try:  # with standard input still open
                self.assertEqual(process.wait(timeout=60), 0)
            finally:
                process.kill()
            self.assertIn(b" 49 ", process.stdout.read())

    def test_a_limit_takes_the_tokens_of_the_whole(self):
        model = make_large(FOLDER / "words", d_model=8, n_layers=1, vocab=1008)
        shutil.copy(TOKENIZER, model)
        sentence = "The river rose in the night, and in the morning it was gone. "
        long, short = FOLDER / "long_words", FOLDER / "short_words"
        long.write_text(sentence * 5000)
        short.write_text(sentence * 2)
        pieces = run(PROGRAM, "tokenize", "-m", model, "-f", short, "--pieces").stdout.splitlines()
        sizes = [len(piece.split('"')[1]) for piece in pieces]
        self.assertGreater(len(sizes), 20)
        for limit in (2, 13, 20):
            found = measured("--text", long, "--limit", limit, model=model)
            self.assertEqual((found["tokens"], found["bytes"]),
                             (limit - 1, sum(sizes[1:limit])))
        for limit in (len(sizes) - 1, len(sizes), 10**12):
            found = measured("--text", short, "--limit", limit, model=model)
            self.assertEqual(found["bytes"], sum(sizes[1:limit]))

    def test_from_a_pipe_the_shell_names(self):
        found = run("bash", "-c", '"$@" --text <(printf "to be or not")', "bash", *command())
        self.assertIn("perplexity", found.stdout)


class Lambada(unittest.TestCase):
    def test_measures(self):
        found = measured("--task", "lambada", PAIRS)
        self.assertEqual((found["task"], found["examples"]), ("lambada", 4))
        self.assertEqual(found["tokens"], len(" be not to do"))
        self.assertIn(found["accuracy"], (0, 0.25, 0.5, 0.75))  # " do" is not what follows
        part = found["accuracy"]
        self.assertAlmostEqual(found["accuracy_stderr"], math.sqrt(part * (1 - part) / 3))

    def test_perplexity_is_of_continuations_as_texts_have_them(self):
        examples = [json.loads(line) for line in PAIRS.read_text().splitlines()]
        file = FOLDER / "one"

        def nats(text):
            file.write_text(text)
            found = measured("--text", file, "--window", 0)
            return found["nats_per_token"] * found["tokens"]

        total = 0
        for example in examples:
            context = example["context"].rstrip()
            total += nats(f"{context} {example['continuation']}") - nats(context)
        found = measured("--task", "lambada", PAIRS)
        self.assertAlmostEqual(math.log(found["perplexity"]), total / 4, delta=1e-4)

    def test_limit(self):
        self.assertEqual(measured("--task", "lambada", PAIRS, "--limit", 2)["examples"], 2)
        found = measured("--task", "lambada", PAIRS, "--limit", 1)
        self.assertIsNone(found["accuracy_stderr"])


class Mistakes(unittest.TestCase):
    def assert_fails(self, more, *parts, status=1, **options):
        result = run(*command(*more, **options))
        self.assertEqual(result.returncode, status, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)
        if status == 1:
            self.assertEqual(result.stderr[:8], "elapse: ")
            self.assertEqual(result.stderr.count("\n"), 1)
            self.assertEqual(result.stdout, "")

    def test_wrong_usage(self):
        for more in ([], ["--text", TEXT, "--task", "lambada", PAIRS], ["--task", "lambada"],
                     ["--task", "other", PAIRS], ["--text", TEXT, "--window", 1],
                     ["--text", TEXT, "--window", -1], ["--text", TEXT, "--stride", 0],
                     ["--text", TEXT, "--window", 8, "--stride", 9],
                     ["--text", TEXT, "--window", 0, "--stride", 9],
                     ["--text", TEXT, "--batch-tokens", 0], ["--text", TEXT, "--limit", 0],
                     ["--task", "lambada", PAIRS, "--window", 8]):
            with self.subTest(more):
                self.assert_fails(more, status=2)
        self.assert_fails(["--text", TEXT, "--limit", 0],
                          '--limit: expected a whole number of at least 1, found "0"', status=2)
        for paths in (["--text", ""], ["--task", "lambada", ""], ["--text", TEXT, "--json", ""],
                      ["--text", TEXT, "-m", ""], ["--text", TEXT, "--tokenizer", ""]):
            self.assert_fails(paths, "expected a path, found an empty one", status=2)
        self.assert_fails(["--text", TEXT, "--window", 8, "--stride", 9],
                          "stride: expected 1 to 8 tokens (the window), found 9", status=2)

    def test_a_text_that_is_too_short(self):
        short = FOLDER / "short"
        for text in ("", "x"):
            short.write_text(text)
            self.assert_fails(["--text", short], short, "at least 2 tokens", f"found {len(text)}")

    def test_pairs_that_are_none(self):
        wrong = FOLDER / "wrong"
        for line, part in (("{", "line 5: not JSON"), ("[]", "line 5: expected an object"),
                           ('{"context": "a"}', 'line 5: expected a field "continuation"'),
                           ('{"context": "a", "continuation": 1}',
                            'line 5: field "continuation": expected text, found 1')):
            wrong.write_text(PAIRS.read_text() + line)
            self.assert_fails(["--task", "lambada", wrong], wrong, part)
        wrong.write_text("")
        self.assert_fails(["--task", "lambada", wrong], wrong, "found an empty file")

    def test_a_vocabulary_that_is_not_bytes(self):
        for more in (["--text", TEXT], ["--task", "lambada", PAIRS]):
            self.assert_fails(more, HEADS, "expected tokenizer.json", '"vocab_size" of 256',
                              "found neither file and 16", model=HEADS)

    def test_files_that_are_not_there(self):
        missing = FOLDER / "missing"
        self.assert_fails(["--text", missing], missing)
        self.assert_fails(["--task", "lambada", missing], missing)
        self.assert_fails(["--text", TEXT], missing, model=missing)

    def test_numbers_that_cannot_be_kept_are_not_measured(self):
        for path, says in ((FOLDER / "missing/result.json", "the folder to write it to is not"),
                           (FOLDER, "expected a file to write, found a folder"),
                           ("/dev/null", "expected a regular file or none")):
            self.assert_fails(["--text", TEXT, "--json", path], path, says)

    def test_no_input_is_replaced(self):
        tokenizer = FOLDER / "a_tokenizer.json"
        shutil.copy(TOKENIZER, tokenizer)
        os.link(BYTES / "config.json", FOLDER / "linked.json")
        text, pairs = ["--text", TEXT], ["--task", "lambada", PAIRS]
        for more, file, flag in ((text, TEXT, "--text reads"), (pairs, PAIRS, "--task reads"),
                                 (text + ["--tokenizer", tokenizer], tokenizer, "--tokenizer reads"),
                                 (text + ["--tokenizer", TOKENIZER.parent],
                                  TOKENIZER.parent / "tokenizer.json", "a file of --tokenizer"),
                                 (text, BYTES / "config.json", f"a file of --model {BYTES}"),
                                 (text, BYTES / "../bytes/model.safetensors", "a file of --model"),
                                 (text, BYTES / "resume.safetensors", "a file of --model"),
                                 (text, BYTES / "tokenizer.json", "a file of --model"),
                                 (text, FOLDER / "linked.json", "a file of --model")):
            before = file.read_bytes() if file.exists() else None
            self.assert_fails([*more, "--json", file],
                              f"--json: {file} would be replaced, ", flag, status=2)
            self.assertEqual(file.read_bytes() if file.exists() else None, before)
        self.assertEqual(measured(*text, "--limit", 9)["tokens"], 8)  # replaces its own result
        result = run(*command(*text, "--limit", 9, "--json", BYTES / "result.json"))
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_ends_of_texts_beyond_the_vocabulary(self):
        model = FOLDER / "ends"
        shutil.copytree(BYTES, model)
        (model / "generation_config.json").write_text('{"eos_token_id": 256}')
        self.assert_fails(["--text", TEXT], model / "generation_config.json", '"eos_token_id": '
                          "expected a token of the vocabulary, 0 to 255, found 256", model=model)

    def test_texts_that_may_have_no_end_are_refused(self):
        pipe = FOLDER / "named_pipe"
        os.mkfifo(pipe)
        for path, found in ((pipe, "a pipe with a name"), ("/dev/zero", "a device")):
            for more in (["--text", path], ["--text", path, "--limit", 9],
                         ["--task", "lambada", path]):
                self.assert_fails(more, f"{path}: expected a regular file or a shell's pipe, "
                                  f"found {found}")
            for verb in ("tokenize", "generate"):
                said = run(PROGRAM, verb, "-m", BYTES, "-f", path).stderr
                self.assertIn(f"found {found}", said)

    def test_files_that_are_pipes_are_refused_and_not_waited_for(self):
        model = FOLDER / "piped"
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copytree(BYTES, model)
            (model / name).unlink(missing_ok=True)
            os.mkfifo(model / name)
            self.assert_fails(["--text", TEXT], model / name, "expected a regular file, found a "
                              "device or pipe", model=model)
            shutil.rmtree(model)

    def test_interrupted(self):
        long = FOLDER / "long"
        long.write_bytes(TEXT.read_bytes() * 10_000)
        here, there = open_terminal(self)  # on a terminal progress shows at once
        with subprocess.Popen(command("--text", long, "--window", 0), stdout=subprocess.PIPE,
                              stderr=there) as process:
            os.close(there)
            shown = b""
            while b"perplexity" not in shown:
                shown = os.read(here, 1 << 16)
            process.send_signal(signal.SIGINT)
            while b"elapse: " not in shown:
                shown = os.read(here, 1 << 16)
            self.assertEqual(process.stdout.read(), b"")
        os.close(here)
        self.assertEqual(process.returncode, 128 + signal.SIGINT)
        self.assertRegex(
            shown, rb"elapse: interrupted after \d+ of \d+ tokens: perplexity \S+ so far")

    def test_output_that_cannot_be_written(self):
        assert_needs_output(self, *command("--text", TEXT, "--limit", 20))


if __name__ == "__main__":
    unittest.main()
