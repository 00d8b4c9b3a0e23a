"""The study in other formats: tables, Pick-a-Pic parquet, the study authors' pair file both ways, `datasets`."""
