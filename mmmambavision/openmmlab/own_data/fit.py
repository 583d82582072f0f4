"""Fit a config to a data set: set its classes, files, heads, pipelines and metrics."""
import colorsys

from mmengine.config import ConfigDict

from ...errors import UserError

LOADERS = dict(train_dataloader='train', val_dataloader='val', test_dataloader='val')
KEPT = ('pipeline', 'filter_cfg', 'test_mode', 'backend_args', 'indices')  # data set settings that stay in the config
OTHER_HEADS = ('rpn_head', 'semantic_head')  # heads with their own classes: object or background, COCO stuff


def fit_model(model, count):
    """Set the number of classes of every head. Returns the changes as sentences.

    Raises:
        UserError: no head has num_classes.
    """
    heads, notes = {}, []
    set_classes(model, count, 'model', heads, notes)
    if not heads:
        raise UserError('no head of the config has num_classes, so the classes of the data cannot be set')
    before = ', '.join(map(str, sorted(set(heads.values()))))
    return [f'num_classes is {count}, was {before}, in {", ".join(heads)}', *notes]


def set_classes(node, count, path, heads, notes, before=None):
    """Set num_classes in `node` recursively. Adds old values to `heads` by path, and changed weights to `notes`."""
    if isinstance(node, (list, tuple)):
        node = {str(index): part for index, part in enumerate(node)}
    if not isinstance(node, dict):
        return
    if isinstance(node.get('num_classes'), int):
        before = heads[path] = node['num_classes']
        node['num_classes'] = count
    weights = node.get('class_weight')
    if before not in (None, count) and isinstance(weights, (list, tuple)):
        if len(weights) == before + 1 and len(set(weights[:-1])) == 1:  # equal weights, then "no object"
            node['class_weight'] = [weights[0]] * count + [weights[-1]]
        else:
            node['class_weight'] = None
            notes.append(f'{path}.class_weight is left out: it has {len(weights)} values, but the data has '
                         f'{count} classes')
    for key, part in node.items():
        if key not in OTHER_HEADS:
            set_classes(part, count, f'{path}.{key}', heads, notes, before)


def steps_of(node, kind):
    """Yield all steps of a type in all pipelines of a config."""
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
        classes: names in label order.
        files: {'train': (json, image folder), 'val': ...}, absolute paths.
        masks: whether the boxes have masks.

    Returns:
        The changes as sentences.
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
    """Fit a segmentor's config. `files` has (image folder, label folder, image suffix) for each split."""
    notes = fit_model(cfg.model, len(classes))
    set_steps(list(cfg.values()), 'LoadAnnotations', reduce_zero_label=False)
    for loader, split in LOADERS.items():
        images, labels, ending = files[split]
        set_dataset(cfg[loader], type='BaseSegDataset', data_root=str(root), metainfo=metainfo(classes),
                    data_prefix=dict(img_path=within(root, images), seg_map_path=within(root, labels)),
                    img_suffix=ending, seg_map_suffix='.png', reduce_zero_label=False)
        if split == 'val':
            cfg[loader].batch_size = 1  # mmseg pads images of different sizes only in training
    for key in ('val_evaluator', 'test_evaluator'):
        evaluators(cfg, key, 'IoUMetric', dict(iou_metrics=['mIoU']))
    return notes


def set_dataset(loader, **settings):
    """Replace the data set of a loader inside its wrappers (RepeatDataset, ...). ConcatDataset: the first data set."""
    holder, key = loader, 'dataset'
    while 'dataset' in holder[key] or 'datasets' in holder[key]:
        if 'datasets' in holder[key]:
            holder[key] = holder[key]['datasets'][0]
        else:
            holder = holder[key]
    old = holder[key]
    holder[key] = ConfigDict(settings | {name: old[name] for name in KEPT if name in old})


def evaluators(cfg, key, kind, settings):
    """The evaluators of a type in the config. If there are none, a new one with `settings` replaces all evaluators."""
    given = cfg[key] if isinstance(cfg[key], (list, tuple)) else [cfg[key]]
    if not any(evaluator.type == kind for evaluator in given):
        given = cfg[key] = [ConfigDict(type=kind, **settings)]
    return [evaluator for evaluator in given if evaluator.type == kind]


def without_masks(cfg):
    """Remove the mask head of a two-stage detector, and masks from its pipelines and metrics."""
    if predicts_masks(cfg.model):
        raise UserError(f'{cfg.model.type} needs masks, but the data has only boxes. Use the config of another '
                        'detector, or add a segmentation to every annotation')
    set_steps(list(cfg.values()), 'LoadAnnotations', with_mask=False)
    set_steps(list(cfg.values()), 'FilterAnnotations', by_mask=False)
    heads = [key for key, head in cfg.model.get('roi_head', {}).items() if key.startswith('mask_') and head]
    for key in heads:
        cfg.model.roi_head[key] = None
    return [f'boxes without masks: {", ".join(heads)} removed, the only metric is bbox'] if heads else []


def masks_as_pixels(cfg):
    """Make pipelines store masks as bitmaps instead of polygons (as for RTMDet-Ins). Returns the changes as text."""
    steps = [step for step in steps_of(list(cfg.values()), 'LoadAnnotations') if step.get('poly2mask') is False]
    for step in steps:
        step['poly2mask'] = True
    return ['masks are run lengths, so the pipelines store them as bitmaps (poly2mask=True)'] if steps else []


def predicts_masks(model):
    """Whether a detector has a mask head outside its RoI head, or one head for boxes and masks as RTMDet-Ins."""
    return bool(model.get('mask_head') or 'loss_mask' in (model.get('bbox_head') or {}))


def within(root, path):
    """A path relative to `root` if it is inside, because mmdet joins data_root and data_prefix."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def metainfo(classes):
    """Names and colours of the classes. The golden ratio spreads the hues."""
    colours = [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.9, 0.9) for i in range(len(classes))]
    return dict(classes=tuple(classes), palette=[tuple(round(255 * part) for part in colour) for colour in colours])
