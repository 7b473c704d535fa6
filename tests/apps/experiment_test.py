#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse experiment` from outside: what it says before it begins. What it finds, tests/experiments
look at."""
import unittest

from program import PROGRAM, run


def experiment(*arguments):
    return run(PROGRAM, "experiment", "induction", *arguments, timeout=60)


class Mistakes(unittest.TestCase):
    def test_wrong_usage(self):
        for more in (["--steps", 0], ["--steps", 10, "--quick"], ["--seed", -1], ["--out", ""],
                     ["--threads", 1025], ["--threads", ""]):
            self.assertEqual(experiment(*more).returncode, 2, more)

    def test_a_folder_that_takes_no_files_is_found_out_before_training(self):
        for folder in ("/proc/none", "/sys"):
            result = experiment("--quick", "--out", folder)
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, f"^elapse: {folder}.*: cannot ")
            self.assertEqual(result.stderr.count("\n"), 1)
            self.assertEqual(result.stdout, "")


if __name__ == "__main__":
    unittest.main()
