# SPDX-License-Identifier: Apache-2.0
"""Runs the elapse program (the environment's ELAPSE_PROGRAM) for the tests of this folder."""
import os
import pathlib
import pty
import subprocess

PROGRAM = os.environ.get("ELAPSE_PROGRAM", "build/elapse")
RESULTS = ("config.json", "model.safetensors", "resume.safetensors")


def tiny_training(out, *more, steps=60):
    """The command that trains a tiny model into the folder `out`."""
    return [PROGRAM, "train", "--task", "induction", "--device", "ref", "--out", str(out),
            "--d-model", "8", "--layers", "1", "--d-state", "4", "--batch-tokens", "32",
            "--length", "8", "--curriculum", f"4:{steps // 3}", "--steps", str(steps),
            "--warmup", "2", "--save-every", "20", "--eval-every", "0", "--eval-length", "8",
            *map(str, more)]


def open_terminal(test):
    """A terminal's two ends; the test is skipped where there is none, as in a bare chroot."""
    try:
        return pty.openpty()
    except OSError as error:
        test.skipTest(f"no terminal: {error}")


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)


def assert_needs_output(test, *command):
    """The command is one that fails where standard output takes nothing."""
    with open("/dev/full", "wb") as full:
        result = subprocess.run([str(c) for c in command], stdout=full, stderr=subprocess.PIPE)
    test.assertEqual(result.returncode, 1)
    test.assertEqual(result.stderr.decode().splitlines()[-1],
                     "elapse: standard output: cannot write: No space left on device")


def contents(folder):
    """{name: bytes} of all the files in a folder."""
    return {file.name: file.read_bytes() for file in pathlib.Path(folder).iterdir()}
