#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse tokenize` from outside: what it prints, and what it says when it cannot."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from program import PROGRAM, assert_needs_output, run

TOKENIZERS = pathlib.Path(__file__).resolve().parents[1] / "fixtures/tokenizers"
SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)


def tokenize(*arguments, tokenizer="gpt_neox", data=None):
    """The bytes printed."""
    source = ("--tokenizer", TOKENIZERS / tokenizer) if tokenizer else ()
    command = [str(c) for c in (PROGRAM, "tokenize", *source, *arguments)]
    result = subprocess.run(command, input=data, capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


class Output(unittest.TestCase):
    def setUp(self):
        cases = json.loads((TOKENIZERS / "gpt_neox/cases.json").read_text())
        self.case = next(case for case in cases if case["text"].startswith("The river"))

    def test_is_numbers(self):
        line = " ".join(map(str, self.case["ids"])) + "\n"
        self.assertEqual(tokenize("--text", self.case["text"]).decode(), line)
        self.assertEqual(tokenize("--text", ""), b"\n")

    def test_comes_from_a_file_and_from_standard_input(self):
        file = FOLDER / "text"
        for data in (self.case["text"].encode(), bytes(range(256)) * 5, b""):
            file.write_bytes(data)
            self.assertEqual(tokenize("--file", file), tokenize("--file", "-", data=data))

    def test_is_pieces(self):
        lines = tokenize("--text", " the\n \u00e9t\u00e9", "--pieces").decode().splitlines()
        self.assertEqual([line.split(maxsplit=1)[1] for line in lines],
                         ['" the"', '"\\x0a"', '" "',
                          '"\\xc3"', '"\\xa9"', '"t"', '"\\xc3"', '"\\xa9"'])

    def test_is_a_number_of_tokens(self):
        count = len(self.case["ids"])
        self.assertEqual(tokenize("--text", self.case["text"], "--count"), b"%d\n" % count)

    def test_is_json(self):
        def loaded(*more):
            return json.loads(tokenize("--text", self.case["text"], "--json", *more))
        count, ids = len(self.case["ids"]), self.case["ids"]
        self.assertEqual(loaded("--count"), {"count": count})
        self.assertEqual(loaded(), {"count": count, "ids": ids})
        whole = loaded("--pieces")
        self.assertEqual("".join(whole["pieces"]), self.case["text"])
        self.assertEqual(whole["ids"], ids)
        bad = json.loads(tokenize("--file", "-", "--json", "--pieces", data=b"\xff\x80"))
        self.assertEqual(bad["pieces"][-1], "\\x80")

    def test_of_a_models_folder(self):
        found = tokenize("-m", TOKENIZERS / "gpt2", "--text", "the", tokenizer=None)
        self.assertEqual(found, tokenize("--text", "the", tokenizer="gpt2"))

    def test_speed_goes_to_standard_error(self):
        result = run(PROGRAM, "tokenize", "--tokenizer", TOKENIZERS / "gpt2", "--text", "x", "-v")
        self.assertEqual(result.stdout.count("\n"), 1)
        self.assertIn("1 bytes are 1 tokens", result.stderr)

    def test_help_shows_examples(self):
        self.assertIn("Examples:\n", run(PROGRAM, "tokenize", "--help").stdout)


class Mistakes(unittest.TestCase):
    def test_wrong_usage(self):
        some = ("--tokenizer", TOKENIZERS / "gpt2")
        for more in ((), some, ("--text", "x"), (*some, "--text", "x", "--file", "y"),
                     (*some, "-m", "x", "--text", "x"), (*some, "--text", "x", "--ids"),
                     (*some, "--text", "x", "--count", "--pieces"), (*some, "--text", "x", "more")):
            self.assertEqual(run(PROGRAM, "tokenize", *more).returncode, 2, more)

    def assert_fails(self, arguments, *parts):
        result = run(PROGRAM, "tokenize", *arguments)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(result.stderr[:8], "elapse: ")
        self.assertEqual(result.stderr.count("\n"), 1)
        for part in parts:
            self.assertIn(str(part), result.stderr)

    def test_files_that_are_not_there(self):
        missing = FOLDER / "missing"
        self.assert_fails(("--tokenizer", missing, "--text", "x"), missing)
        self.assert_fails(("--tokenizer", TOKENIZERS / "gpt2", "--file", missing), missing)
        self.assert_fails(("--tokenizer", FOLDER, "--text", "x"), FOLDER, "tokenizer.json")
        self.assert_fails(("-m", missing, "--text", "x"), missing / "config.json")

    def test_a_file_that_is_no_tokenizer(self):
        bad = FOLDER / "bad.json"
        for content in ("", "[]", "{}", '{"decoder": {"type": "WordPiece"}}'):
            bad.write_text(content)
            self.assert_fails(("--tokenizer", bad, "--text", "x"), bad)

    def test_output_that_cannot_be_written(self):
        assert_needs_output(self, PROGRAM, "tokenize", "--tokenizer", TOKENIZERS / "gpt2",
                            "--text", "x")
        assert_needs_output(self, PROGRAM, "tokenize", "--help")


if __name__ == "__main__":
    unittest.main()
