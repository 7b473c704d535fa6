#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants violations in a copy of the sources and sees that tools/check_arrows.py names each."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]


class Arrows(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        for folder in ("elapse", "apps", "docs"):
            shutil.copytree(ROOT / folder, self.root / folder)

    def plant(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def replace(self, path, old, new):
        text = (self.root / path).read_text()
        self.assertIn(old, text)
        self.plant(path, text.replace(old, new, 1))

    def check(self):
        checker = [sys.executable, ROOT / "tools/check_arrows.py", self.root]
        return subprocess.run(checker, capture_output=True, text=True)

    def assert_found(self, violation):
        result = self.check()
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(violation, result.stdout.splitlines())

    def test_the_copy_itself_passes(self):
        result = self.check()
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_include_against_the_arrow(self):
        self.plant("elapse/core/planted.h", '\n#include "elapse/ops/device.h"\n')
        self.assert_found("elapse/core/planted.h:2: includes elapse/ops/device.h; "
                          "elapse/core may include nothing")

    def test_angle_brackets_do_not_hide_it(self):
        self.plant("elapse/ops/planted.cc", "#  include <elapse/io/json.h>\n")
        self.assert_found("elapse/ops/planted.cc:1: includes elapse/io/json.h; "
                          "elapse/ops may include elapse/core")

    def test_nobody_includes_a_backend(self):
        self.plant("apps/elapse/planted.cc", '#include "elapse/backends/cpu/kernels.h"\n')
        self.assertRegex(self.check().stdout, r"apps/elapse/planted\.cc:1: includes elapse/backends")

    def test_backends_do_not_include_each_other(self):
        self.plant("elapse/backends/cpu/planted.cc", '#include "elapse/backends/ref/kernels.h"\n')
        self.assert_found("elapse/backends/cpu/planted.cc:1: includes "
                          "elapse/backends/ref/kernels.h; elapse/backends/cpu may include "
                          "elapse/core, elapse/ops")

    def test_relative_include(self):
        self.plant("elapse/core/planted.cc", '#include "../ops/device.h"\n')
        self.assert_found("elapse/core/planted.cc:1: includes ../ops/device.h; "
                          "write its path from the root of the checkout")

    def test_folder_without_a_row(self):
        self.plant("elapse/planted/planted.h", '#include "elapse/core/error.h"\n')
        self.assert_found("elapse/planted/planted.h:1: has no row in docs/architecture.md")

    def test_cmake_uses_other_than_the_row(self):
        self.replace("elapse/ops/CMakeLists.txt", "USES core", "USES core io")
        self.assert_found("elapse/ops/CMakeLists.txt: elapse_folder(ops) USES elapse/core, "
                          "elapse/io; its row says elapse/core in docs/architecture.md")

    def test_row_that_names_a_later_row(self):
        self.plant("docs/architecture.md", "| `elapse/core` | | ops |\n| `elapse/ops` | | core |\n")
        self.assert_found("docs/architecture.md:1: names elapse/ops, which is not a row above it "
                          "that may be included")


if __name__ == "__main__":
    unittest.main()
