"""One version everywhere: the command line, pyproject.toml, the citation file."""

import re
import subprocess
import sys
import tomllib

from tests.support import ROOT


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (cited,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    done = subprocess.run([sys.executable, "-m", "radpref", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["radpref", version]
    assert cited == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
