"""Readers of published chest X-ray sets as they are unpacked: one module per set, registered in
`radpref.data.datasets.registry`.

Each checks the layout, counts what is there beside what the set is documented to hold, and plans records lazily.
"""
