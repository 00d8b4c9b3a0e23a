"""Schema 3: patient and image of a new record are looked up, where 200,000 records would be 200,000 full scans."""

from __future__ import annotations

LARGE_IMPORTS = """
CREATE INDEX records_patient ON records(dataset, patient_id, split);
CREATE INDEX records_image ON records(image_sha);
"""
