import numpy as np
import pytest
import torch
from PIL import Image

from mmmambavision.interpret.picture import Picture, read_pixels

from ..helpers.messages import facts


def picture(height=60, width=100, filled=(120, 200), padded=(128, 224)):
    """A picture doubled in size for the network and padded."""
    return Picture('a.jpg', np.zeros((height, width, 3), np.uint8), torch.zeros(1, 3, *padded), filled)


@pytest.mark.parametrize('point, token', [
    ((0, 0), (0, 0)), ((7, 8), (1, 0)), ((8, 7), (0, 1)), ((99, 59), (7, 12))])
def test_token_of_a_point(point, token):
    assert picture().token(point, 16) == token


@pytest.mark.parametrize('point', [(100, 0), (0, 60), (-1, 5)])
def test_point_outside(point):
    with pytest.raises(ValueError, match=facts(f'{point[0]},{point[1]}', 'a.jpg', '100', '60')):
        picture().token(point, 16)


def test_maps_on_pixels():
    cells = torch.arange(8 * 14.).reshape(1, 8, 14)
    flat, = picture().on_pixels(cells, 16, smooth=False)
    assert flat.shape == (60, 100)
    # A token is 8 x 8 pixels of the picture; the last row and the last column are cut, padding is gone.
    for row, column in ((0, 0), (3, 5), (6, 11)):
        assert (flat[row * 8 + 1:row * 8 + 7, column * 8 + 1:column * 8 + 7] == row * 14 + column).all()
    assert flat[-1, -1] == 7 * 14 + 12
    smooth, = picture().on_pixels(cells, 16)
    rows, columns = np.mgrid[8:52, 8:92]  # a plane stays one between its first and its last centres
    expected = ((rows + .5) / 8 - .5) * 14 + (columns + .5) / 8 - .5
    np.testing.assert_allclose(smooth[8:52, 8:92], expected, atol=1e-3)


def test_field_around_the_centre():
    field = torch.zeros(300, 300)
    field[150, 160] = 1
    shown, = picture().around_centre(field, (150, 160), 32)  # the centre of a 4 x 7 map is row 2, column 3
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row, column) == (32, 48)
    x, y, radius = picture().disc(10., 32)
    assert (x, y, radius) == (47.75, 31.75, 5)


def test_reading(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    assert (read_pixels(tmp_path / 'a.png') == pixels).all()
    Image.fromarray(pixels[..., 0]).save(tmp_path / 'grey.png')
    assert (read_pixels(tmp_path / 'grey.png') == pixels[..., :1]).all()
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / 'turned.png', exif=exif)
    assert (read_pixels(tmp_path / 'turned.png') == np.rot90(pixels, -1)).all()


def test_what_is_no_image(tmp_path):
    with pytest.raises(ValueError, match='no.jpg'):
        read_pixels(tmp_path / 'no.jpg')
    (tmp_path / 'text.jpg').write_text('text')
    with pytest.raises(ValueError, match='text.jpg'):
        read_pixels(tmp_path / 'text.jpg')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(tmp_path / 'half.jpg')
    (tmp_path / 'half.jpg').write_bytes((tmp_path / 'half.jpg').read_bytes()[:2000])
    with pytest.raises(ValueError, match='half.jpg'):
        read_pixels(tmp_path / 'half.jpg')
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_pixels(tmp_path)
