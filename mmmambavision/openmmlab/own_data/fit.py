"""A config made to fit a data set: everything in it that follows from the classes and from where the files are."""
import colorsys

from mmengine.config import ConfigDict

from ...errors import UserError

LOADERS = dict(train_dataloader='train', val_dataloader='val', test_dataloader='val')
KEPT = ('pipeline', 'filter_cfg', 'test_mode', 'backend_args', 'indices')  # of a data set's settings, the rest is new
OTHER_HEADS = ('rpn_head', 'semantic_head')  # whose classes are not the data's: object or not, COCO's stuff


def fit_model(model, count):
    """Set the number of classes of every head; returns what was changed, as sentences.

    Raises:
        UserError: no head has one.
    """
    heads, notes = {}, []
    set_classes(model, count, 'model', heads, notes)
    if not heads:
        raise UserError('no head of the config has num_classes: its classes cannot be set to those of the data')
    before = ', '.join(map(str, sorted(set(heads.values()))))
    return [f'num_classes is {count}, was {before}, in {", ".join(heads)}', *notes]


def set_classes(node, count, path, heads, notes, before=None):
    """Set num_classes in `node` and all below; `heads` gets what it was by path, `notes` what became of weights."""
    if isinstance(node, (list, tuple)):
        node = {str(index): part for index, part in enumerate(node)}
    if not isinstance(node, dict):
        return
    if isinstance(node.get('num_classes'), int):
        before = heads[path] = node['num_classes']
        node['num_classes'] = count
    weights = node.get('class_weight')
    if before not in (None, count) and isinstance(weights, (list, tuple)):
        if len(weights) == before + 1 and len(set(weights[:-1])) == 1:  # one for all classes, one for "no object"
            node['class_weight'] = [weights[0]] * count + [weights[-1]]
        else:
            node['class_weight'] = None
            notes.append(f'{path}.class_weight is left out: it has {len(weights)} values, the data {count} classes')
    for key, part in node.items():
        if key not in OTHER_HEADS:
            set_classes(part, count, f'{path}.{key}', heads, notes, before)


def steps_of(node, kind):
    """All steps of a type in all pipelines of a config."""
    if isinstance(node, dict):
        if node.get('type') == kind:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from steps_of(part, kind)


def set_steps(node, kind, **settings):
    """Set arguments of all steps of a type in all pipelines of a config."""
    for step in list(steps_of(node, kind)):
        step.update(settings)


def fit_detector(cfg, root, classes, files, masks):
    """Fit a detector's config.

    Args:
        cfg: the config, changed in place.
        root: folder of the data.
        classes: names in the order of their labels.
        files: {'train': (json, image folder), 'val': ...}, absolute.
        masks: whether the boxes have masks.

    Returns:
        What was changed, as sentences.
    """
    notes = [] if masks else without_masks(cfg)
    notes += fit_model(cfg.model, len(classes))
    for loader, split in LOADERS.items():
        json, images = files[split]
        set_dataset(cfg[loader], type='CocoDataset', data_root=str(root), ann_file=within(root, json),
                    data_prefix=dict(img=within(root, images)), metainfo=metainfo(classes))
    for key in ('val_evaluator', 'test_evaluator'):
        ours = evaluators(cfg, key, 'CocoMetric', dict(metric='bbox'))
        for evaluator in ours:
            evaluator.ann_file = str(files['val'][0])
            if not masks:
                evaluator.metric = 'bbox'
    return notes


def fit_segmentor(cfg, root, classes, files):
    """Fit a segmentor's config; `files` has (image folder, label folder, ending of the images) of each split."""
    notes = fit_model(cfg.model, len(classes))
    set_steps(list(cfg.values()), 'LoadAnnotations', reduce_zero_label=False)
    for loader, split in LOADERS.items():
        images, labels, ending = files[split]
        set_dataset(cfg[loader], type='BaseSegDataset', data_root=str(root), metainfo=metainfo(classes),
                    data_prefix=dict(img_path=within(root, images), seg_map_path=within(root, labels)),
                    img_suffix=ending, seg_map_suffix='.png', reduce_zero_label=False)
        if split == 'val':
            cfg[loader].batch_size = 1  # images of any sizes; mmseg pads them in training alone
    for key in ('val_evaluator', 'test_evaluator'):
        evaluators(cfg, key, 'IoUMetric', dict(iou_metrics=['mIoU']))
    return notes


def set_dataset(loader, **settings):
    """Replace the data set of a loader, behind what wraps it (RepeatDataset and its like), of several the first."""
    holder, key = loader, 'dataset'
    while 'dataset' in holder[key] or 'datasets' in holder[key]:
        if 'datasets' in holder[key]:
            holder[key] = holder[key]['datasets'][0]
        else:
            holder = holder[key]
    old = holder[key]
    holder[key] = ConfigDict(settings | {name: old[name] for name in KEPT if name in old})


def evaluators(cfg, key, kind, settings):
    """The evaluators of a type in the config, one with `settings` in place of all where there is none."""
    given = cfg[key] if isinstance(cfg[key], (list, tuple)) else [cfg[key]]
    if not any(evaluator.type == kind for evaluator in given):
        given = cfg[key] = [ConfigDict(type=kind, **settings)]
    return [evaluator for evaluator in given if evaluator.type == kind]


def without_masks(cfg):
    """Take the mask head out of a two-stage detector, and masks out of its pipelines and metrics."""
    if predicts_masks(cfg.model):
        raise UserError(f'{cfg.model.type} is made to learn masks, and the data has boxes alone: take a config of '
                        'another detector, or give every annotation a segmentation')
    set_steps(list(cfg.values()), 'LoadAnnotations', with_mask=False)
    set_steps(list(cfg.values()), 'FilterAnnotations', by_mask=False)
    heads = [key for key, head in cfg.model.get('roi_head', {}).items() if key.startswith('mask_') and head]
    for key in heads:
        cfg.model.roi_head[key] = None
    return [f'boxes without masks: {", ".join(heads)} taken out, the metric is bbox alone'] if heads else []


def masks_as_pixels(cfg):
    """Have pipelines that keep masks as polygons, as RTMDet-Ins has, keep them as pixels; returns what was changed."""
    steps = [step for step in steps_of(list(cfg.values()), 'LoadAnnotations') if step.get('poly2mask') is False]
    for step in steps:
        step['poly2mask'] = True
    return ['masks are run lengths, so the pipelines keep them as pixels (poly2mask=True)'] if steps else []


def predicts_masks(model):
    """Whether a detector has a head for masks beside regions, or one for boxes and masks as RTMDet-Ins has."""
    return bool(model.get('mask_head') or 'loss_mask' in (model.get('bbox_head') or {}))


def within(root, path):
    """A path from `root` where it is in it, as data_root and data_prefix are joined."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def metainfo(classes):
    """Names and colours of the classes, hues apart by the golden ratio."""
    colours = [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.9, 0.9) for i in range(len(classes))]
    return dict(classes=tuple(classes), palette=[tuple(round(255 * part) for part in colour) for colour in colours])
