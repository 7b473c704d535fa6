#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the sources to the table of folders in docs/architecture.md.

Each folder includes only itself and what its row allows, and the USES of its elapse_folder() in
CMake names just that. A row may name folders of rows above it, so that there are no cycles, and
never a backend. Prints each violation; the exit status is 1 if there is one.

    tools/check_arrows.py [root of the checkout]
"""
import pathlib
import re
import sys

TABLE = "docs/architecture.md"
SUFFIXES = (".h", ".cc", ".cu", ".cuh", ".h.in", ".cc.in")
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')
FOLDER_CALL = re.compile(r"elapse_folder\(\s*([\w/]+)(.*?)\)", re.DOTALL)
USES = re.compile(r"\bUSES\b(.*?)(?:\b(?:SOURCES|LIBRARIES)\b|$)", re.DOTALL)


def is_backend(folder):
    return folder.startswith("elapse/backends")


def read_row(cell, above):
    """The folders that a row's last cell names; ValueError if one may not be named there."""
    if cell == "all of the above":
        return {folder for folder in above if not is_backend(folder)}
    folders = {"elapse/" + name.strip() for name in cell.split(",") if cell != "-"}
    for folder in sorted(folders):
        if folder not in above or is_backend(folder):
            raise ValueError(f"names {folder}, which is not a row above it that may be included")
    return folders


def read_table(root, violations):
    """{folder: the folders it may include}"""
    allowed = {}
    for number, line in enumerate((root / TABLE).read_text().splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        folders = re.findall(r"`((?:elapse|apps)/[\w/]+)`", cells[0])
        if not line.startswith("|") or not folders:
            continue
        try:
            row = read_row(cells[-1], allowed)
        except ValueError as error:
            violations.append(f"{TABLE}:{number}: {error}")
            row = set()
        allowed.update(dict.fromkeys(folders, row))
    return allowed


def folder_of(path, allowed):
    """The longest folder of the table that holds `path`, or None."""
    holders = [folder for folder in allowed if path.startswith(folder + "/")]
    return max(holders, key=len, default=None)


def listed(folders):
    return ", ".join(sorted(folders)) or "nothing"


def check_include(file, root, bracket, path, allowed):
    """What is wrong with one include of `file`, or None."""
    folder = folder_of(file, allowed)
    if folder is None:
        return f"has no row in {TABLE}"
    if not path.startswith(("elapse/", "apps/")):
        beside = bracket == '"' and (root / file).parent.joinpath(path).exists()
        return f"includes {path}; write its path from the root of the checkout" if beside else None
    if folder_of(path, allowed) in {folder} | allowed[folder]:
        return None
    return f"includes {path}; {folder} may include {listed(allowed[folder])}"


def check_includes(root, allowed, violations):
    for top in ("elapse", "apps"):
        for source in sorted((root / top).rglob("*")):
            if not source.name.endswith(SUFFIXES):
                continue
            file = source.relative_to(root).as_posix()
            for number, line in enumerate(source.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                wrong = match and check_include(file, root, *match.groups(), allowed)
                if wrong:
                    violations.append(f"{file}:{number}: {wrong}")


def check_cmake(root, allowed, violations):
    for lists in sorted((root / "elapse").rglob("CMakeLists.txt")):
        text = re.sub(r"#.*", "", lists.read_text())
        for name, arguments in FOLDER_CALL.findall(text):
            uses = {"elapse/" + used for group in USES.findall(arguments) for used in group.split()}
            row = allowed.get("elapse/" + name)
            if uses != row:
                found = f"elapse_folder({name}) USES {listed(uses)}"
                expected = f"its row says {listed(row)}" if row is not None else "it has no row"
                violations.append(f"{lists.relative_to(root)}: {found}; {expected} in {TABLE}")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    violations = []
    allowed = read_table(root, violations)
    check_includes(root, allowed, violations)
    check_cmake(root, allowed, violations)
    print("\n".join(violations) if violations else f"{len(allowed)} folders keep to {TABLE}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
