import numpy as np
from PIL import Image

from pipelines.evaluation.pictures import (
    detailed_part,
    enlarge,
    montage,
    most_detailed,
    most_different,
    stack,
)


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


def test_the_part_of_a_large_photo_lies_in_it_and_where_the_detail_is() -> None:
    photo = np.zeros((500, 5000, 3), np.uint8)
    photo[330:, 4500:] = np.random.default_rng(0).integers(0, 255, (170, 500, 3))
    rows, columns = detailed_part(photo, 256)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (256, 256)
    assert 400 < rows.stop <= 500
    assert columns.start >= 4400
    assert columns.stop <= 5000
    assert photo[detailed_part(photo, 6000)].shape == photo.shape


def test_the_windows_are_those_in_which_two_pictures_are_furthest_apart() -> None:
    first = np.full((300, 400, 3), 100, np.uint8)
    second, third = first.copy(), first.copy()
    second[0:64, 0:64] += 5
    third[200:264, 320:384] += 50
    far, near = most_different([first, second, third], 3, size=64)
    assert third[far].mean() > 140
    assert second[near].mean() == 105
    # They do not overlap, also where a part of any size differs.
    found = most_different([first, first + 9], 3, size=64)
    shown = np.zeros((300, 400), int)
    for window in found:
        shown[window] += 1
    assert (len(found), shown.max(), shown.sum()) == (3, 1, 3 * 64 * 64)
    # The largest error counts, and not that of the first pair.
    assert most_different([second, first, third], 1, size=64) == [far]


def test_of_equal_or_small_pictures_one_window_is_left() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    image[200:240, 200:240] = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    assert most_different([image, image], 3, size=64) == [most_detailed(image, 64)]
    small = image[:50, :60]
    (window,) = most_different([small, small + 1], 3, size=64)
    assert small[window].shape == small.shape
