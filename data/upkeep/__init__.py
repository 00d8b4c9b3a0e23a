"""Proof and safety of a study: verify, backup and restore, the overview."""
