#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse generate` from outside: what it writes, how it goes on, what it says when it cannot."""
import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

from program import PROGRAM, run, tiny_training

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)
BYTES = FOLDER / "bytes"  # a model of bytes
HEADS = FOLDER / "heads"  # a model of 16 classes
WORDS = FOLDER / "words"  # a model of the tokens of a tokenizer.json
TOKENIZERS = pathlib.Path(__file__).resolve().parents[1] / "fixtures/tokenizers"


def setUpModule():
    (FOLDER / "text").write_text("to be or not to be " * 40)
    made = run(PROGRAM, "train", "--text", FOLDER / "text", "--out", BYTES, "--device", "ref",
               "--d-model", 8, "--layers", 1, "--batch-tokens", 64, "--length", 16, "--steps", 100,
               "--schedule", "constant", "--warmup", 2, "--eval-every", 0, "--eval-length", 16)
    assert made.returncode == 0, made.stderr
    made = run(*tiny_training(HEADS, steps=3))
    assert made.returncode == 0, made.stderr


def command(*more, model=BYTES):
    return [str(c) for c in (PROGRAM, "generate", "-m", model, "--device", "ref", *more)]


def text(*more, **options):
    """The bytes written."""
    result = subprocess.run(command(*more, **options), capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


class Text(unittest.TestCase):
    def test_is_as_long_as_asked_for(self):
        self.assertEqual(len(text("-p", "to be", "-n", 40)), 40)
        self.assertEqual(len(text("-p", "to be")), 256)
        self.assertEqual(text("-p", "to be", "-n", 0), b"")

    def test_is_decided_by_the_seed(self):
        first = text("-p", "to be", "-s", 1)
        self.assertEqual(text("-p", "to be", "-s", 1), first)
        self.assertNotEqual(text("-p", "to be", "-s", 2), first)
        greedy = text("-p", "to be", "--temp", 0)
        self.assertEqual(text("-p", "to be", "--top-k", 1, "-s", 3), greedy)
        self.assertEqual(text("-p", "to be", "--top-p", 0, "-s", 3), greedy)
        self.assertEqual(text("-p", "to be", "--min-p", 1, "-s", 3), greedy)

    def test_continues_a_file_of_any_bytes(self):
        prompt = FOLDER / "prompt"
        prompt.write_bytes(b"to be")
        self.assertEqual(text("-f", prompt, "-n", 9), text("-p", "to be", "-n", 9))
        with open(prompt, "rb") as standard_input:
            piped = subprocess.run(command("-f", "-", "-n", 9), stdin=standard_input,
                                   capture_output=True)
        self.assertEqual(piped.stdout, text("-p", "to be", "-n", 9), piped.stderr)
        prompt.write_bytes(bytes(range(256)) * 3)
        self.assertEqual(len(text("-f", prompt, "-n", 9)), 9)

    def test_ends_where_the_configuration_says(self):
        model = FOLDER / "ending"
        shutil.copytree(BYTES, model)
        config = json.loads((model / "config.json").read_text())
        config["eos_token_id"] = ord(" ")
        (model / "config.json").write_text(json.dumps(config))
        sampling = ("-p", "to be", "--top-k", 4)
        whole = text(*sampling)
        self.assertEqual(text(*sampling, model=model), whole[:whole.index(b" ")])
        self.assertEqual(text(*sampling, "--ignore-eos", model=model), whole)

    def test_ends_before_a_stop_string(self):
        sampling = ("-p", "to be", "--top-k", 4)  # letters, after this little training
        whole = text(*sampling).decode("ascii")
        stops = whole[50:60], whole[100:102]
        end = min(whole.index(stop) for stop in stops)
        found = text(*sampling, "--stop", stops[0], "--stop", stops[1])
        self.assertEqual(found.decode("ascii"), whole[:end])

    def test_numbers_where_the_prompt_is_numbers(self):
        numbers = text("--prompt-tokens", "3,1,14", "-n", 20, model=HEADS).decode()
        self.assertEqual(len(numbers.split(" ")), 20)
        self.assertTrue(numbers.endswith("\n"))
        self.assertLess(max(map(int, numbers.split())), 16)

    def test_speed_goes_to_standard_error(self):
        result = run(*command("-p", "to be", "-n", 3, "--verbose"), errors="replace")
        self.assertIn("at position 8", result.stderr)


class Tokenizers(unittest.TestCase):
    """The same model, its bytes called tokens by a tokenizer's file."""

    @classmethod
    def setUpClass(cls):
        shutil.copytree(BYTES, WORDS)
        made = json.loads((TOKENIZERS / "gpt2/vocab.json").read_text())
        (WORDS / "vocab.json").write_text(json.dumps(
            {token: number for token, number in made.items() if number < 256}))
        (WORDS / "merges.txt").write_text("#version: 0.2\n")
        cls.whole = text("-p", "to be")

    def setUp(self):
        (WORDS / "generation_config.json").unlink(missing_ok=True)

    def test_of_the_models_folder_is_used(self):
        self.assertEqual(text("-p", "to be", model=WORDS), self.whole)
        (FOLDER / "copy").mkdir()
        shutil.copy(WORDS / "vocab.json", FOLDER / "copy")
        (FOLDER / "copy/merges.txt").write_text("")
        self.assertEqual(text("-p", "to be", "--tokenizer", FOLDER / "copy"), self.whole)

    def test_the_text_is_over_at_its_end_token(self):
        end = self.whole[20]
        (WORDS / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
        expected = self.whole[:self.whole.index(end)]
        self.assertEqual(text("-p", "to be", model=WORDS), expected)
        self.assertEqual(text("-p", "to be", "--ignore-eos", model=WORDS), self.whole)

    def test_a_file_that_is_none_is_named(self):
        bad = FOLDER / "bad.json"
        bad.write_text("{}")
        result = run(*command("-p", "x", "--tokenizer", bad))
        self.assertEqual(result.returncode, 1)
        self.assertIn(str(bad), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)


class States(unittest.TestCase):
    state = FOLDER / "state"

    def test_go_on_as_if_never_stopped(self):
        whole = text("-p", "to be", "-s", 4)
        begun = text("-p", "to be", "-s", 4, "-n", 100, "--save-state", self.state)
        rest = text("--load-state", self.state, "-s", 4, "-n", 156)
        self.assertEqual(begun + rest, whole)

    def test_of_a_prompt_alone(self):
        text("-p", "to be", "-n", 0, "--save-state", self.state)
        size = self.state.stat().st_size
        self.assertEqual(text("--load-state", self.state), text("-p", "to be"))
        text("-p", "to be" * 400, "-n", 0, "--save-state", self.state)
        self.assertEqual(self.state.stat().st_size, size)

    def test_are_saved_when_interrupted(self):
        for stop in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(stop), subprocess.Popen(
                    command("-p", "to be", "-n", 10**12, "--save-state", self.state),
                    stdout=subprocess.PIPE) as process:
                begun = process.stdout.read(1)
                process.send_signal(stop)
                begun += process.stdout.read()
                self.assertEqual(process.wait(), 128 + stop)
                rest = text("--load-state", self.state, "-n", 20)
                self.assertEqual(begun + rest, text("-p", "to be", "-n", len(begun) + 20))


class Mistakes(unittest.TestCase):
    def assert_fails(self, more, *parts, status=1, **options):
        result = run(*command(*more, **options), errors="replace")
        self.assertEqual(result.returncode, status, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)
        if status == 1:
            self.assertEqual(result.stderr[:8], "elapse: ")
            self.assertEqual(result.stderr.count("\n"), 1)

    def test_wrong_usage(self):
        for more in ([], ["-p", "x", "-f", "y"], ["-p", "x", "--prompt-tokens", "1"],
                     ["-p", "x", "--temp", "-1"], ["-p", "x", "--temp", "nan"],
                     ["-p", "x", "--top-k", "-1"], ["-p", "x", "--top-p", "1.1"],
                     ["-p", "x", "--min-p", "-0.1"], ["-p", "x", "-n", "-1"],
                     ["--prompt-tokens", "1", "--ignore-eos"],
                     ["--prompt-tokens", "1", "--tokenizer", "x"],
                     ["--prompt-tokens", "1", "--stop", "x"]):
            self.assert_fails(more, status=2)
        for flag, value in (("-s", -1), ("-s", 2**64), ("-s", 1.5), ("-n", 10**19), ("-n", ""),
                            ("--top-k", 10**19), ("--threads", 1025)):
            self.assert_fails(["-p", "x", flag, value], "expected a whole number ",
                              f'found "{value}"', status=2)
        for paths in (["-m", "", "-p", "x"], ["-f", ""], ["-p", "x", "--tokenizer", ""],
                      ["-p", "x", "--save-state", ""], ["--load-state", ""]):
            self.assert_fails(paths, "expected a path, found an empty one", status=2)
        for numbers in ("x", "1,,2", "1,", ",1", "1 2", "1.5", "99999999999999999999"):
            self.assert_fails(["--prompt-tokens", numbers], "--prompt-tokens", status=2)

    def test_nothing_to_continue(self):
        self.assert_fails(["-p", ""], "the prompt is empty")

    def test_a_vocabulary_without_a_tokenizer(self):
        self.assert_fails(["-p", "x"], HEADS, "tokenizer.json", "vocab.json", "256", "and 16",
                          "--tokenizer", "--prompt-tokens", model=HEADS)
        self.assert_fails(["-p", "x", "--tokenizer", TOKENIZERS / "gpt2"], TOKENIZERS / "gpt2",
                          "below 16", HEADS / "config.json", "407 tokens", model=HEADS)
        self.assert_fails(["--prompt-tokens", "3,16"], "token 1", "0 to 15", "found 16",
                          model=HEADS)

    def test_files_that_are_not_there(self):
        missing = FOLDER / "missing"
        self.assert_fails(["-p", "x"], missing, model=missing)
        self.assert_fails(["-f", missing], missing)
        self.assert_fails(["--load-state", missing], missing)
        self.assert_fails(["-p", "x", "--save-state", missing / "state"], missing / "state")
        self.assertEqual(run(*command("-p", "x", "--save-state", missing / "state")).stdout, "")

    def test_another_models_state(self):
        state = FOLDER / "heads.state"
        text("--prompt-tokens", "1,2", "-n", 0, "--save-state", state, model=HEADS)
        self.assert_fails(["--load-state", state], state, "belongs to another model")

    def test_no_input_is_replaced(self):
        prompt = FOLDER / "a_prompt"
        prompt.write_text("to be")
        for file, says in ((prompt, "which --file reads"),
                           (BYTES / "model.safetensors", "a file of --model")):
            before = file.read_bytes()
            self.assert_fails(["-f", prompt, "--save-state", file],
                              f"--save-state: {file} would be replaced, {says}", status=2)
            self.assertEqual(file.read_bytes(), before)
        state = FOLDER / "its_own_state"
        text("-f", prompt, "-n", 1, "--save-state", state)
        text("--load-state", state, "-n", 1, "--save-state", state)

    def test_flags_are_named(self):
        for flag, value, says in (("--temp", -1, "expected 0 or more"), ("--min-p", 2, "0 to 1"),
                                  ("--top-p", 2, "expected 0 to 1, found 2")):
            self.assert_fails(["-p", "x", flag, value], f"{flag}: ", says, status=2)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(command("-p", "x"), stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"standard output: cannot write: No space left", result.stderr)


if __name__ == "__main__":
    unittest.main()
