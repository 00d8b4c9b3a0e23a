"""Pixels: images, masks, run lengths, DICOM, framing, contact sheets. Pure functions of arrays and files."""
