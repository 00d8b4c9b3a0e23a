"""The Study: one folder, one database, every path.

studies/pilot/  study.toml  study.db  images/  masks/  runs/  models/  reports/
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from radpref.data.config.study_config import StudyConfig, changed_meanings, load_config
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import storage_errors, write_atomic
from radpref.data.imaging.images import ImageStore
from radpref.data.study.db import StudyDatabase


class Study:
    """An open study. Reading ``config`` or ``db`` raises the one-line errors of their modules."""

    def __init__(self, root: Path) -> None:
        """Open the study at ``root``.

        Raises:
            NotFound: there is no study.toml or no study.db.
            InvalidInput: study.toml cannot be used.
        """
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise NotFound(f"no study at {root}; make one with `radpref study new {root}`")
        self.config: StudyConfig = load_config(self.root / "study.toml")
        if line := changed_meanings(self.config):
            logging.getLogger(__name__).warning("%s: %s", self.root, line)
        self.db = StudyDatabase(self.root / "study.db")

    @cached_property
    def store(self) -> ImageStore:
        """Content-addressed images and masks."""
        return ImageStore(self.root)

    @property
    def reports(self) -> Path:
        """Folder of the reports."""
        return self.root / "reports"

    @classmethod
    def create(cls, root: Path, toml: str) -> Study:
        """Make a study folder from the text of a study.toml (validated before anything is written).

        Raises:
            Conflict: there already is a study.
            InvalidInput: the text is not a valid study.toml, or the folder cannot be written.
        """
        root = Path(root).resolve()
        if (root / "study.toml").exists():
            raise Conflict(f"{root} already holds a study; choose another folder")
        if root.exists() and not root.is_dir():
            raise InvalidInput(f"{root} is a file; choose a folder for the study")
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        draft = root / ".study.toml.draft"
        write_atomic(draft, toml)
        try:
            load_config(draft)
            StudyDatabase(root / "study.db", create=True).close()
            draft.replace(root / "study.toml")
        finally:
            draft.unlink(missing_ok=True)
        return cls(root)
