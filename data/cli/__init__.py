"""The commands of `radpref study` and `radpref data`."""

from radpref.data.cli.study_commands import data_app, study_app

__all__ = ["data_app", "study_app"]
