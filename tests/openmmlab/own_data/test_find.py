"""Which files are found under the names that people and tools give them."""
import pytest

from mmmambavision.openmmlab.own_data.find import find_images, find_json, find_label_maps

from ...helpers.data import coco_contents, write_label_maps, write_split
from ...helpers.messages import facts

LAYOUTS = {
    'COCO': ('annotations/instances_{}2017.json', '{}2017', 'train', 'val'),
    'Roboflow': ('{}/_annotations.coco.json', '{}', 'train', 'valid'),
    'json beside images': ('{}.json', 'images', 'train', 'val'),
    'folders of images': ('{}.json', 'images/{}', 'training', 'validation'),
    'all in one': ('{}.json', '', 'train', 'val'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, folder):
    json, images, *words = LAYOUTS[layout]
    for word in words:
        write_split(folder, coco_contents(), json.format(word), images.format(word))
    for split, word in zip(('train', 'val'), words):
        found = find_json(folder, split)
        assert found == folder / json.format(word)
        assert find_images(['1.png', '2.png'], found, [folder], split) == folder / images.format(word)


def test_captions_beside_instances_are_left_out(folder):
    for kind in ('captions', 'instances', 'person_keypoints'):
        write_split(folder, coco_contents(), f'annotations/{kind}_train2017.json', 'train2017')
    assert find_json(folder, 'train').name == 'instances_train2017.json'


def test_names_of_words_within_words_are_not_taken(folder):
    write_split(folder, coco_contents(), 'retrained.json', 'x')
    write_split(folder, coco_contents(), 'evaluation.json', 'x')
    for split in ('train', 'val'):
        with pytest.raises(ValueError, match='no annotations'):
            find_json(folder, split)


def test_none_or_several_jsons(folder):
    folder.mkdir()
    with pytest.raises(ValueError, match=facts('valid', 'validation')):
        find_json(folder, 'val')
    for name in ('train_a', 'train_b'):
        write_split(folder, coco_contents(), f'{name}.json', 'train')
    with pytest.raises(ValueError, match=facts('train_a.json', 'train_b.json')):
        find_json(folder, 'train')


def test_images_of_training_are_not_taken_for_those_of_validation(folder):
    """Files of one name are in both, as in many sets that number their images."""
    write_split(folder, coco_contents(), 'train.json', 'train')
    write_split(folder, coco_contents(), 'val.json', 'val')
    (folder / 'val' / '1.png').unlink()
    assert find_images(['1.png', '2.png'], folder / 'val.json', [folder], 'val') == folder / 'val'
    for file in (folder / 'val').iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=facts('val.json', '1.png')):
        find_images(['1.png', '2.png'], folder / 'val.json', [folder], 'val')
    assert find_images(['1.png', '2.png'], folder / 'train.json', [folder], 'val') == folder / 'train'


@pytest.mark.parametrize('images, labels', [
    ('images/{}', 'annotations/{}'), ('images/{}', 'masks/{}'), ('{}/images', '{}/labels'),
    ('img_dir/{}', 'ann_dir/{}')])
@pytest.mark.parametrize('words', [('train', 'val'), ('training', 'validation')])
def test_layouts_of_label_maps(images, labels, words, folder):
    for word in words:
        for path in (images, labels):
            (folder / path.format(word)).mkdir(parents=True)
    assert find_label_maps(folder) == {
        split: (folder / images.format(word), folder / labels.format(word))
        for split, word in zip(('train', 'val'), words)}


def test_no_label_maps_to_validate_with(folder):
    write_label_maps(folder, splits=['train'])
    with pytest.raises(ValueError, match=facts('val', 'validation')):
        find_label_maps(folder)
