"""DICOM files as scanners and archives write them, for tests: any transfer syntax, with names that must not leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

NATIVE = "native"
PYDICOM = {"rle": RLELossless, "jpeg2000": JPEG2000Lossless}
GDCM = {
    "jpeg-baseline": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "jpeg-lossless": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "jpeg-lossless-sv1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "jpeg-ls": gdcm.TransferSyntax.JPEGLSLossless,
}
SYNTAXES = (NATIVE, *PYDICOM, *GDCM)
PHI = {
    "PatientName": "QUISLINGTON^AMARYLLIS",
    "PatientID": "MRN-8839201-ZX",
    "PatientBirthDate": "19341127",
    "ReferringPhysicianName": "OBERSTETTER^KNUT",
    "InstitutionName": "Saint Perpetua Infirmary",
    "AccessionNumber": "ACC55120977",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.11111111111",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.22222222222",
    "StudyDate": "20190723",
    "StationName": "ROOM7XRAYSTATION",
    "PatientComments": "mother of Wilhelmina",
}


def write_dicom(path: Path, pixels: np.ndarray, syntax: str = NATIVE, **tags: Any) -> Path:
    """``pixels`` (H, W) uint8, uint16 or int16 as a DICOM file; ``tags`` are set on top (None: taken away)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    for name, value in PHI.items():
        setattr(dataset, name, value)
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.ndim == 2 else pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    if syntax in PYDICOM:
        dataset.compress(PYDICOM[syntax])
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    if syntax in GDCM:
        _compress_with_gdcm(path, GDCM[syntax])
    return path


def _compress_with_gdcm(path: Path, syntax: int) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def lut_item(values: np.ndarray, first: int, bits: int) -> Dataset:
    """An item of a modality or VOI LUT sequence: value ``first`` is mapped to ``values[0]``."""
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = values.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    return item
