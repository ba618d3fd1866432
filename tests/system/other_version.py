#!/usr/bin/env python3
"""other_version.py PROGRAM VERSION OTHER RESULT: a copy of a program that says to be of another version.

For tests of upgrades, where building a second version would take long. The two texts differ in their first four bytes only: those
also stand alone, in comparisons that were compiled into code. Versions of libraries and dates of time zones are something else.
"""

import re
import sys
from pathlib import Path

program, version, other, result = sys.argv[1:]
if version[4:] != other[4:] or len(version) < 5:
    sys.exit(f"{version} and {other} must differ in their first four bytes only")
old, new = version[:4].encode(), other[:4].encode()
changed, count = re.subn(rb"(?<![-0-9])" + re.escape(old) + rb"(?!llvm)", new, Path(program).read_bytes())
if count == 0:
    sys.exit(f"{program} does not have the version {version}")
Path(result).write_bytes(changed)
Path(result).chmod(0o755)
