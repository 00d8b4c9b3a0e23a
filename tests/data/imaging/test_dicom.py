"""DICOM as displayed: every codec, every step of the display pipeline, one line for every broken file, no names."""

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import JPEGBaseline8Bit

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.importing import import_records
from radpref.data.imaging.dicom import dicom_facts, is_dicom, read_dicom
from radpref.data.imaging.framing import read_radiograph
from tests.support.data import gray, table_study
from tests.support.dicom import NATIVE, PHI, SYNTAXES, lut_item, write_dicom
from tests.support.errors import refuses


def ramp(low, high, size=64):
    """(size, size) whole numbers from ``low`` to ``high``, both there."""
    return np.round(np.linspace(low, high, size * size)).reshape(size, size)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_gives_the_stored_pixels(tmp_path, syntax):
    pixels = ramp(0, 255).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed == (syntax != NATIVE)
    found = read_dicom(path)
    assert found.dtype == np.uint8
    tolerance = 3 if syntax == "jpeg-baseline" else 0
    assert np.abs(found.astype(int) - pixels).max() <= tolerance


@pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name != "jpeg-baseline"])
def test_sixteen_bits_are_kept_by_every_lossless_syntax(tmp_path, syntax):
    pixels = gray(1, 64, np.uint16)
    pixels[0, :2] = (0, 65535)
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, syntax))
    assert found.dtype == np.uint16
    assert (found == pixels).all()


def test_without_a_window_twelve_bits_span_the_range_and_eight_stay(tmp_path):
    twelve = ramp(100, 4000).astype(np.uint16)
    found = read_dicom(write_dicom(tmp_path / "a.dcm", twelve, BitsStored=12, HighBit=11))
    assert (found == np.round((twelve - 100.0) / 3900 * 65535)).all()
    eight = ramp(30, 180).astype(np.uint8)
    assert (read_dicom(write_dicom(tmp_path / "b.dcm", eight)) == eight).all()
    signed = ramp(-500, 1500).astype(np.int16)
    found = read_dicom(write_dicom(tmp_path / "c.dcm", signed))
    assert (found == np.round((signed + 500.0) / 2000 * 65535)).all()


def test_monochrome1_is_inverted(tmp_path):
    pixels = ramp(0, 255).astype(np.uint8)
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    assert (found == 255 - pixels).all()
    deep = ramp(10, 3000).astype(np.uint16)
    path = write_dicom(tmp_path / "b.dcm", deep, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000,
                       WindowWidth=1001, BitsStored=12, HighBit=11)  # fmt: skip
    found = read_dicom(path)
    assert (found[deep < 499] == 65535).all()
    assert (found[deep > 1500] == 0).all()


def linear(x, center, width):
    """PS3.3 C.11.2.1.2.1, to 0..1."""
    return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


WINDOWS = {
    "LINEAR": linear,
    "LINEAR_EXACT": lambda x, center, width: np.clip((x - center) / width + 0.5, 0, 1),
    "SIGMOID": lambda x, center, width: 1 / (1 + np.exp(-4 * (x - center) / width)),
}


@pytest.mark.parametrize("function", [None, *WINDOWS])
def test_window_after_rescale_by_the_formulas_of_the_standard(tmp_path, function):
    pixels = ramp(0, 4095).astype(np.uint16)
    tags = {} if function is None else {"VOILUTFunction": function}
    tags |= {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "2", "RescaleIntercept": "-1000"}
    path = write_dicom(tmp_path / "a.dcm", pixels, WindowCenter="1500", WindowWidth="3000", **tags)
    expected = WINDOWS[function or "LINEAR"](2.0 * pixels - 1000, 1500, 3000)
    assert np.abs(read_dicom(path).astype(float) - expected * 65535).max() <= 0.5 + 1e-6


def test_the_first_of_several_windows_and_a_negative_slope(tmp_path):
    pixels = ramp(0, 4095).astype(np.uint16)
    deep = {"BitsStored": 12, "HighBit": 11}
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, WindowCenter=[600, 3000], WindowWidth=[401, 9], **deep))
    assert np.abs(found - linear(pixels, 600, 401) * 65535).max() <= 0.5 + 1e-6
    turned = write_dicom(tmp_path / "b.dcm", pixels, RescaleSlope="-1", RescaleIntercept="4095", WindowCenter=600,
                         WindowWidth=401, **deep)  # fmt: skip
    assert np.abs(read_dicom(turned) - linear(4095.0 - pixels, 600, 401) * 65535).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_lut_goes_before_a_window(tmp_path, bits):
    pixels = ramp(0, 4095).astype(np.uint16)
    curve = np.round(np.sqrt(np.linspace(0, 1, 4000)) * (2**bits - 1))
    path = write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11, WindowCenter=9, WindowWidth=2,
                       VOILUTSequence=[lut_item(curve, 50, bits)])  # fmt: skip
    expected = curve[np.clip(pixels.astype(int) - 50, 0, 3999)] / (2**bits - 1) * 65535
    assert np.abs(read_dicom(path) - expected).max() <= 0.5 + 1e-6


def test_a_modality_lut(tmp_path):
    pixels = ramp(0, 1023).astype(np.uint16)
    curve = np.arange(1024)[::-1] * 4
    path = write_dicom(tmp_path / "a.dcm", pixels, BitsStored=10, HighBit=9,
                       ModalityLUTSequence=[lut_item(curve, 0, 16)])  # fmt: skip
    assert (read_dicom(path) == np.round(curve[pixels] / curve.max() * 65535)).all()


def test_padding_is_black_and_does_not_stretch_the_range(tmp_path):
    pixels = ramp(1000, 2000).astype(np.uint16)
    pixels[:, :5] = 60000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        path = write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation=photometric, PixelPaddingValue=60000)
        found = read_dicom(path)
        assert (found[:, :5] == 0).all()
        inside = found[:, 5:].astype(int)
        assert (inside.min(), inside.max()) == (0, 65535)


def test_a_file_name_may_lack_its_suffix(tmp_path):
    path = write_dicom(tmp_path / "1.2.3.4", ramp(0, 255).astype(np.uint8))
    assert is_dicom(path)
    assert read_radiograph(path).shape == (64, 64)
    (tmp_path / "short").write_bytes(b"x")
    assert not is_dicom(tmp_path / "short")


def test_facts_are_the_standards_words_only(tmp_path):
    pixels = ramp(0, 255).astype(np.uint8)
    assert dicom_facts(write_dicom(tmp_path / "a.dcm", pixels)) == {"view_position": "PA", "modality": "DX"}
    odd = write_dicom(tmp_path / "b.dcm", pixels, ViewPosition="JANE DOE", Modality=None)
    assert dicom_facts(odd) == {}


def cut(tmp_path, share, syntax=NATIVE):
    path = write_dicom(tmp_path / "cut.dcm", ramp(0, 255).astype(np.uint8), syntax)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
def test_truncated_files_are_one_line(tmp_path, syntax, share):
    with refuses(InvalidInput, tmp_path / "cut.dcm"):
        read_radiograph(cut(tmp_path, share, syntax))


def test_a_cut_frame_in_a_whole_file_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", gray(0, 64), "jpeg-baseline")
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    dataset.save_as(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    with refuses(InvalidInput, path):
        read_dicom(path)


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"PixelData": None}, ()),
        ({"Rows": None}, ("Rows",)),
        ({"NumberOfFrames": 2}, (2,)),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ("PALETTE COLOR",)),
        ({"BurnedInAnnotation": "YES"}, ()),
        ({"WindowCenter": 5, "WindowWidth": 0}, ()),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, ("CUBIC",)),
        ({"VOILUTSequence": [lut_item(np.arange(9), 0, 16)], "WindowCenter": 1}, None),
        ({"Rows": 640}, ()),
    ],
)
def test_files_that_are_no_single_gray_frame(tmp_path, tags, named):
    path = write_dicom(tmp_path / "a.dcm", ramp(0, 255).astype(np.uint8), **tags)
    if named is None:
        assert read_dicom(path).max() == round(8 / 65535 * 255)
        return
    with refuses(InvalidInput, path, *named):
        read_dicom(path)


def test_colour_and_missing_and_no_dicom_at_all(tmp_path):
    colour = np.zeros((64, 64, 3), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", colour, SamplesPerPixel=3, PhotometricInterpretation="RGB",
                       PlanarConfiguration=0)  # fmt: skip
    with refuses(InvalidInput, path, "RGB"):
        read_radiograph(path)
    with refuses(NotFound, "none.dcm"):
        read_radiograph(tmp_path / "none.dcm")
    (tmp_path / "text.dcm").write_text("hello")
    (tmp_path / "folder.dcm").mkdir()
    for name in ("text.dcm", "folder.dcm"):
        with refuses(InvalidInput, tmp_path / name, "DICOM"):
            read_radiograph(tmp_path / name)


def test_a_missing_decoder_says_what_to_install(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", ramp(0, 255).astype(np.uint8), "jpeg-lossless-sv1")
    monkeypatch.setattr(Decoder, "is_available", property(lambda decoder: False))
    with refuses(InvalidInput, path, "JPEG Lossless", "radpref[dicom]"):
        read_dicom(path)


def test_nothing_that_names_a_person_enters_the_study(tmp_path):
    study = table_study(tmp_path, file=[f"images/{i}.dcm" for i in range(8)], mask=[""] * 8)
    for i in range(7):
        write_dicom(tmp_path / "tree" / "images" / f"{i}.dcm", gray(i, 64), SYNTAXES[i])
    write_dicom(tmp_path / "tree" / "images" / "7.dcm", gray(7, 64), NumberOfFrames=3)
    result = import_records(study)
    assert (result.n_imported, result.n_quarantined) == (7, 1)
    study.db.close()
    files = [path for path in study.root.rglob("*") if path.is_file()]
    assert len(files) > 10
    words = {part.encode().lower() for value in PHI.values() for part in value.split("^")}
    for path in files:
        content = path.name.encode().lower() + path.read_bytes().lower()
        assert not [word for word in words if word in content], path
