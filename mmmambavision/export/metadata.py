"""What a program outside of PyTorch has to know of a file: its metadata_props."""
OTHER_STEPS = {'LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs'}


def describe(model, part, pipeline):
    """What is in a file, as values that JSON knows.

    Args:
        model: with its config as `cfg`, and `dataset_meta`.
        part: 'model', 'neck' or 'backbone'.
        pipeline: the config's steps before the model in tests.

    Returns:
        dict with part, classes and palette; of whole models also task, resize (how images are to be resized; left out
        where the test pipeline does more than that), and of detectors mask_threshold; of segmentors align_corners,
        binary_threshold and window (of slide mode), with mean and size_divisor for the padding around windows.
    """
    found = dict(part=part, **{key: list(model.dataset_meta.get(key) or []) for key in ('classes', 'palette')})
    if part != 'model':
        return found
    steps = [step for step in pipeline if step.type not in OTHER_STEPS]
    if not steps or [(step.type, step.get('scale_factor')) for step in steps] == [('Resize', 1.)]:
        found['resize'] = None
    elif len(steps) == 1 and steps[0].type == 'Resize' and 'scale' in steps[0]:
        found['resize'] = dict(scale=list(steps[0].scale), keep_ratio=steps[0].get('keep_ratio', False))
    if not hasattr(model, 'decode_head'):
        return dict(found, task='detection', mask_threshold=model.test_cfg.get('rcnn', {}).get('mask_thr_binary'))
    settings, test_cfg = model.cfg.model.data_preprocessor, model.test_cfg
    found.update(task='segmentation', align_corners=model.align_corners, window=None,
                 binary_threshold=model.decode_head.threshold)
    if test_cfg.get('mode') == 'slide':
        found.update(window=dict(crop=list(test_cfg.crop_size), stride=list(test_cfg.stride)),
                     mean=list(settings.get('mean') or (0., 0., 0.)),
                     size_divisor=(settings.get('test_cfg') or {}).get('size_divisor'))
    return found
