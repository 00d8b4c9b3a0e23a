"""Captions by rules on the open reports of OpenI, against what people coded.

    python -m benchmarks.captions --json
    python -m benchmarks.captions NLMCXR_reports.tgz --size tiny --json

PATH is OpenI's archive of reports (National Library of Medicine: one XML file a report); left out, the copy that the
package torchxrayvision brings is read (`pip install torchxrayvision`; its code is not run, nothing is downloaded).
Counted, so equal on every machine: how many reports with a text get a caption, how many captions break a rule, and how
many say `Normal` among the reports that people coded as normal (MeSH headings), and among the others.
"""

from __future__ import annotations

import importlib.util
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.rows import command_line, row, show
from radpref.data.core.errors import InvalidInput, NotFound, RadprefError
from radpref.data.core.progress import track

SIZES: dict[str, int | None] = {"tiny": 200, "full": None}
"""Reports that are read, in the order of the archive."""
PACKAGED = Path("data", "NLMCXR_reports.tgz")
CODED_NORMAL = ["normal"]
"""The MeSH headings of a report in which people found nothing."""


@dataclass(frozen=True)
class Report:
    """The text, section by section as a study keeps reports, and the headings that people gave it."""

    text: str
    headings: list[str]


def default_archive() -> Path:
    """The archive inside the installed torchxrayvision.

    Raises:
        NotFound: the package is not installed.
    """
    found = importlib.util.find_spec("torchxrayvision")
    if found is None or not found.submodule_search_locations:
        raise NotFound("no reports: name OpenI's archive as PATH, or pip install torchxrayvision, which brings it")
    return Path(found.submodule_search_locations[0]) / PACKAGED


def read_reports(archive: Path, n: int | None) -> Iterator[Report]:
    """The first ``n`` reports of OpenI's archive.

    Raises:
        NotFound: no such file. InvalidInput: not an archive of XML reports.
    """
    if not archive.is_file():
        raise NotFound(f"{archive} is not a file: name OpenI's archive of reports (NLMCXR_reports.tgz)")
    try:
        with tarfile.open(archive) as files:
            names = sorted((m for m in files.getmembers() if m.name.endswith(".xml")), key=lambda m: m.name)[:n]
            for member in track(names, "reports", len(names)):
                content = files.extractfile(member)
                assert content is not None  # a regular file
                yield _report(ElementTree.fromstring(content.read()))
    except (tarfile.TarError, ElementTree.ParseError, EOFError) as error:
        raise InvalidInput(f"{archive} is not an archive of XML reports; get NLMCXR_reports.tgz again") from error


def _report(root: ElementTree.Element) -> Report:
    wanted = ("FINDINGS", "IMPRESSION")
    sections = {part.get("Label", ""): (part.text or "").strip() for part in root.iter("AbstractText")}
    text = "\n".join(f"{name}: {sections[name]}" for name in wanted if sections.get(name))
    return Report(text, [(heading.text or "").strip() for heading in root.iter("major")])


def run(archive: Path, n: int | None) -> list[dict[str, Any]]:
    """The rows; peer of none.

    Raises:
        NotFound, InvalidInput: the archive is missing, broken, or holds no report with a text.
    """
    from radpref.data.text.caption_rules import NORMAL, broken_rules
    from radpref.data.text.reports import impression
    from radpref.data.text.rule_captions import caption_of_text

    reports = [report for report in read_reports(archive, n) if report.text]
    found = [(r, caption_of_text(said.text) if (said := impression(r.text)) else None) for r in reports]
    if not found:
        raise InvalidInput(f"{archive} holds no report with findings or an impression; is it NLMCXR_reports.tgz?")
    normal = [caption for report, caption in found if report.headings == CODED_NORMAL]
    other = [caption for report, caption in found if report.headings != CODED_NORMAL]
    return [
        row("reports with a text", len(found), None),
        row("reports that get a caption", sum(c is not None for _, c in found), None),
        row("captions that break a rule", sum(bool(broken_rules(c)) for _, c in found if c is not None), 0),
        row("reports coded normal", len(normal), None),
        row("reports coded normal: caption Normal", sum(c == NORMAL for c in normal), None),
        row("reports coded otherwise", len(other), None),
        row("reports coded otherwise: caption Normal", sum(c == NORMAL for c in other), None),
    ]


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("captions", __doc__, SIZES, "full")
    parser.add_argument("path", nargs="?", type=Path, metavar="PATH", help="OpenI's archive of reports (.tgz)")
    options = parser.parse_args()
    try:
        rows = run(options.path or default_archive(), SIZES[options.size])
    except RadprefError as error:
        parser.error(str(error))
    show(rows, options.json)


if __name__ == "__main__":
    main()
