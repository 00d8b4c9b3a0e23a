"""The study record: one folder, one database, every path; runs, conditions, splits, pools and the audit log."""
