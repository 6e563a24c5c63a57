import numpy as np
from PIL import Image

from pipelines.evaluation.pictures import enlarge, montage, most_detailed, stack


def test_the_picture_shows_where_the_detail_is() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[70:100, 80:120] = np.random.default_rng(0).integers(0, 255, (30, 40, 3))
    rows, columns = most_detailed(image, 64)
    assert rows.start <= 70
    assert rows.stop >= 100
    assert columns.start <= 80
    assert columns.stop >= 120
    assert image[most_detailed(image, 256)].shape == image.shape


def test_a_montage_holds_every_picture_and_room_for_its_name() -> None:
    red, blue = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = montage({"a": red, "b": blue})
    assert sheet.shape[1] == 70
    assert sheet.shape[0] > 32
    assert (sheet[:32, :32] == red).all()
    assert (sheet[:32, 38:] == blue).all()
    assert (sheet[32:] < 128).any()


def test_lr_is_shown_pixel_by_pixel() -> None:
    lr = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    shown = enlarge(lr, 4, Image.Resampling.NEAREST)
    assert (shown[::4, ::4] == lr).all()


def test_sheets_of_different_widths_are_stacked_on_white() -> None:
    wide, narrow = np.zeros((4, 8, 3), np.uint8), np.full((2, 5, 3), 7, np.uint8)
    stacked = stack([wide, narrow])
    assert stacked.shape == (6, 8, 3)
    assert (stacked[:4] == 0).all()
    assert (stacked[4:, :5] == 7).all()
    assert (stacked[4:, 5:] == 255).all()
