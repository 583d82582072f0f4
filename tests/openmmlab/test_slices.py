"""Prediction on slices of a large image: a detector with known answers, and a nano detector against the definition."""
import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmmambavision.openmmlab.predict.slices import predict_slices

pytest.importorskip('supervision')
COLOURS = (250, 120)  # of the classes


def finds_colours(image, masks=False):
    """Detect the rectangles of each colour. A larger rectangle has a higher score."""
    boxes, scores, labels, maps = [], [], [], []
    for label, colour in enumerate(COLOURS):
        _, numbers, found, _ = cv2.connectedComponentsWithStats((image[..., 0] == colour).astype(np.uint8))
        for number, (x, y, width, height, area) in enumerate(found[1:], 1):
            boxes.append((x, y, x + width, y + height))
            scores.append(area / 40000)
            labels.append(label)
            maps.append(torch.from_numpy(numbers == number))
    instances = InstanceData(bboxes=torch.tensor(boxes).float().reshape(-1, 4), scores=torch.tensor(scores),
                             labels=torch.tensor(labels, dtype=torch.long))
    if masks:
        instances.masks = torch.stack(maps) if maps else torch.zeros(0, *image.shape[:2], dtype=torch.bool)
    return DetDataSample(pred_instances=instances)


def drawn():
    """An image of 6000x4000 with rectangles of 40 to 190 pixels, and their boxes with labels."""
    rng, image, boxes = np.random.default_rng(0), np.zeros((4000, 6000, 3), np.uint8), []
    for x in range(0, 6000, 250):
        for y in range(0, 4000, 250):
            left, top, width, height = x + rng.integers(40), y + rng.integers(40), *rng.integers(40, 190, 2)
            label = int(rng.integers(2))
            image[top:top + height, left:left + width] = COLOURS[label]
            boxes.append((left, top, min(left + width, 6000), min(top + height, 4000), label))
    return image, sorted(boxes)


@pytest.mark.parametrize('masks', [False, True])
def test_a_large_image_has_each_object_once(masks):
    """And no part of an object, although borders of slices cut many of them: all fit into the overlap."""
    image, expected = drawn()
    parts = []
    found = predict_slices(lambda part: parts.append(part.shape) or finds_colours(part, masks), image, 1024,
                           .2).pred_instances
    boxes = torch.cat([found.bboxes.long(), found.labels[:, None]], 1).tolist()
    assert sorted(map(tuple, boxes)) == expected
    assert set(parts) == {(1024, 1024, 3)} and len(parts) == 8 * 5
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert ('masks' in found) == masks
    for index in range(0, len(found), 40) if masks else ():
        x1, y1, x2, y2 = map(int, found.bboxes[index])
        mask = np.zeros(image.shape[:2], bool)
        mask[y1:y2, x1:x2] = True
        assert np.array_equal(found.masks[index], mask)


@pytest.mark.parametrize('masks', [False, True])
def test_slices_against_one_pass_over_the_parts(masks):
    """With an overlap smaller than the objects, where parts of objects remain."""
    image = np.ascontiguousarray(drawn()[0][:700, :900])
    size, starts_x, starts_y = 300, (0, 225, 450, 600), (0, 225, 400)
    boxes, scores, labels, encoded = [], [], [], []
    for top in starts_y:
        for left in starts_x:
            found = finds_colours(image[top:top + size, left:left + size], True).pred_instances
            boxes += (found.bboxes + torch.tensor([left, top, left, top])).tolist()
            scores += found.scores.tolist()
            labels += found.labels.tolist()
            for mask in found.masks:
                whole = np.zeros(image.shape[:2], np.uint8, order='F')
                whole[top:top + size, left:left + size] = mask
                encoded.append(coco_mask.encode(whole))
    if not masks:
        encoded = np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes])
    of_own_area = coco_mask.iou(encoded, encoded, [1] * len(scores))  # "crowd": intersection over the area of the first
    same = np.maximum(of_own_area, of_own_area.T) > .5
    kept = []
    for index in np.argsort(-np.array(scores), kind='stable'):
        if not any(same[index, other] and labels[index] == labels[other] for other in kept):
            kept.append(index)
    result = predict_slices(lambda part: finds_colours(part, masks), image, size, .25).pred_instances
    assert {(*box, label) for box, label in zip(result.bboxes.tolist(), result.labels.tolist())} == {
        (*boxes[index], labels[index]) for index in kept} and len(result) == len(kept) < len(boxes)


def test_an_image_without_objects():
    assert len(predict_slices(finds_colours, np.zeros((90, 50, 3), np.uint8), 32, 0.).pred_instances) == 0
