#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse bench` from outside: what it lists, what it writes, what it says to wrong names. Nothing
here looks at how fast anything was."""
import itertools
import json
import math
import pathlib
import tempfile
import unittest

from program import PROGRAM, run


def bench(*arguments):
    return run(PROGRAM, "bench", "--device", "ref", *arguments)


def listed(*names):
    result = bench("--list", *names)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()[2:]  # under the headings and their rule
    return [line.split()[0] for line in lines]


def measured(*arguments):
    """The objects of the JSON file and what was printed."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rows.json"
        result = bench("--json", file, *arguments)
        assert result.returncode == 0, result.stderr
        return json.loads(file.read_text()), result.stdout


class List(unittest.TestCase):
    def test_names_are_unique_and_stand_in_groups(self):
        names = listed()
        self.assertEqual(len(names), len(set(names)))
        groups = [group for group, _ in itertools.groupby(names, lambda name: name.split(".")[0])]
        self.assertEqual(len(groups), len(set(groups)))
        self.assertEqual(groups[0], "machine")

    def test_every_line_says_what_is_done(self):
        for line in bench("--list").stdout.splitlines()[2:]:
            self.assertGreater(len(line.split()), 4, line)

    def test_beginnings_of_names_select_in_the_order_of_all(self):
        selected = listed("train", "machine.f")
        self.assertEqual(selected, [name for name in listed()
                                    if name.startswith(("train", "machine.f"))])
        self.assertIn("machine.fma.f32", selected)
        self.assertNotIn("machine.read", selected)


class Json(unittest.TestCase):
    def test_rows_have_the_seven_fields(self):
        rows, printed = measured("machine.fma", "--threads", 1)
        self.assertEqual(len(rows), 1)
        self.assertEqual(set(rows[0]), {"name", "value", "unit", "floor", "others", "threads",
                                        "device"})
        self.assertEqual(rows[0]["name"], "machine.fma.f32")
        self.assertEqual(rows[0]["unit"], "GFLOP/s")
        self.assertEqual(rows[0]["threads"], 1)
        self.assertEqual(rows[0]["device"], "ref")
        self.assertIsNone(rows[0]["floor"])  # it is one itself
        self.assertIsNone(rows[0]["others"])
        self.assertTrue(math.isfinite(rows[0]["value"]) and rows[0]["value"] > 0)
        self.assertIn("machine.fma.f32", printed)

    def test_an_operation_has_a_floor(self):
        rows, _ = measured("linear.dt_proj.forward", "--threads", 1)
        self.assertEqual([row["name"] for row in rows], ["linear.dt_proj.forward"])
        self.assertGreater(rows[0]["floor"], 0)

    def test_threads_are_as_asked(self):
        rows, _ = measured("machine.fma", "--threads", 3)
        self.assertEqual([row["threads"] for row in rows], [3])

    def test_the_default_begins_with_one_thread(self):
        rows, _ = measured("machine.fma")
        self.assertEqual(rows[0]["threads"], 1)
        self.assertEqual(len({row["threads"] for row in rows}), len(rows))

    def test_a_file_that_cannot_be_written_is_named(self):
        result = bench("machine.fma", "--threads", 1, "--json", "/proc/none/rows.json")
        self.assertEqual(result.returncode, 1)
        self.assertIn("/proc/none/rows.json", result.stderr)


class Usage(unittest.TestCase):
    def test_an_unknown_name_is_answered_with_those_near_it(self):
        for name, near in (("scna", "scan.forward.f32"), ("machine.reed", "machine.read"),
                           ("train.inductoin", "train.induction")):
            result = bench(name)
            self.assertEqual(result.returncode, 2, name)
            self.assertIn(f"'{name}'", result.stderr)
            self.assertIn(near, result.stderr)

    def test_an_empty_name_is_none(self):
        for more in ((), ("--list",)):
            result = bench("", *more)
            self.assertEqual((result.returncode, result.stdout), (2, ""))
            self.assertIn("expected a benchmark's name", result.stderr)

    def test_a_list_goes_into_no_file(self):
        result = bench("--list", "--json", "rows.json")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("--list excludes --json", result.stderr)

    def test_impossible_threads(self):
        for threads in (-1, 100000, "two"):
            self.assertEqual(bench("machine.fma", "--threads", threads).returncode, 2)

    def test_what_measures_a_gpu_is_not_run_on_the_host(self):
        result = bench("gpu.scan")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("measures device ref", result.stderr)

    def test_a_gpu_takes_no_threads(self):
        result = run(PROGRAM, "bench", "gpu.scan", "--device", "cuda", "--threads", 2)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("--threads", result.stderr)

    def test_an_unknown_device_is_named(self):
        result = run(PROGRAM, "bench", "machine.fma", "--device", "abacus")
        self.assertEqual(result.returncode, 1)
        self.assertIn("abacus", result.stderr)


if __name__ == "__main__":
    unittest.main()
