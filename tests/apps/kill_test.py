#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills training with SIGKILL at 100 random moments, resuming after each.

Whenever the run gets to its end, its files must have the bytes of an undisturbed run's, and none
may be left over; then it starts anew, until there have been 100 kills. The moments are spread from
the program's start to beyond some six checkpoints, so they fall into every part of a run and of a
checkpoint's writing."""
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from program import contents, run, tiny_training

KILLS = 100
SEED = 20
STEPS = 60


def training(folder, *more):
    return tiny_training(folder, "--save-every", 2, *more, steps=STEPS)


def seconds_of_whole_run(folder):
    begin = time.monotonic()
    result = run(*training(folder))
    if result.returncode != 0:
        sys.exit(f"the undisturbed run failed: {result.stderr}")
    return time.monotonic() - begin


def killed(command, seconds):
    """Whether the process was killed after so many seconds; false if it came to its end before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        message = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    if process.returncode != 0:
        sys.exit(f"a resumed run failed: {message}")
    return False


def check_equal(found, expected):
    if found.keys() != expected.keys():
        sys.exit(f"expected the files {sorted(expected)}, found {sorted(found)}")
    for name, data in expected.items():
        if found[name] != data:
            sys.exit(f"{name} differs from an undisturbed run's")


def saw_half_written(folder):
    return folder.exists() and any(".tmp-" in name for name in contents(folder))


def main():
    moments = random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        whole, folder = pathlib.Path(scratch, "whole"), pathlib.Path(scratch, "killed")
        longest = 0.2 * seconds_of_whole_run(whole)
        expected = contents(whole)
        command = training(folder, "--resume")
        kills = finished = amid_writing = 0
        while kills < KILLS:
            if killed(command, moments.uniform(0, longest)):
                kills += 1
                amid_writing += saw_half_written(folder)
                continue
            check_equal(contents(folder), expected)
            shutil.rmtree(folder)
            finished += 1
        if run(*command).returncode != 0:
            sys.exit("the last run failed")
        check_equal(contents(folder), expected)
    print(f"{kills} kills, {amid_writing} of them amid the writing of a file; {finished + 1} runs "
          "came to their end with the bytes of an undisturbed run")


if __name__ == "__main__":
    main()
