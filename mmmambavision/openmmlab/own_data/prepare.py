"""Check a data folder and fit a config to it."""
import json
import os
from collections import Counter
from pathlib import Path

from ...errors import UserError
from ..configs import first_dataset
from . import coco, coco_survey, label_maps
from .find import WORDS, find_by_last_parts, find_images, find_json, find_label_maps, find_single_json
from .fit import fit_detector, fit_segmentor, masks_as_pixels, predicts_masks
from .masks import has_mask, has_run_lengths
from .survey import first, show_table


def prepare(cfg, folder=None, jsons=None, images=None, quiet=False, holdout=None):
    """Fit a config to a data folder: COCO format for detectors, images and label maps for segmentors.

    Args:
        cfg: the config, changed in place. New files are written to its work_dir.
        folder: folder of the data.
        jsons: {'train': FILE, 'val': FILE}. None means: search in `folder`.
        images: image folder, if the search does not find it.
        quiet: no table, for all processes except the first.
        holdout: fraction of images of a single json for validation, between 0 and 1.

    Returns:
        Warnings about the data, and changes of the config, as sentences.

    Raises:
        UserError: training is impossible with this data. The message lists all faults.
    """
    jsons = jsons or {}
    for path in filter(None, (folder, images)):
        if not Path(path).is_dir():
            raise UserError(f'the folder {path} does not exist')
    if cfg.get('default_scope') == 'mmrotate':
        raise UserError("a data folder can be used only for upright boxes. For rotated boxes, use DOTA's format and "
                        'set train_dataloader.dataset and val_dataloader.dataset in the config')
    if cfg.get('default_scope') == 'mmseg':
        if any(jsons.values()) or images or holdout is not None:
            raise UserError('json files, their images and a holdout are for detectors. For a segmentor, give a folder '
                            'with images and label maps', 'data')
        return prepare_segmentor(cfg, Path(folder).resolve(), quiet)
    if not folder and not all(jsons.get(split) for split in WORDS) and not (holdout and jsons.get('train')):
        raise UserError('give the data folder, or the json files of training and validation', 'data',
                        'train_json', 'val_json')
    return prepare_detector(cfg, *(path and Path(path).resolve() for path in (folder, images)), jsons, quiet, holdout)


def prepare_detector(cfg, folder, images, given, quiet, holdout=None):
    changes, parents, contents = [], [], {}
    if holdout is None:
        paths = {split: Path(given.get(split) or find_json(folder, split)).resolve() for split in WORDS}
        written = {split: coco.read(path) for split, path in paths.items()}
        splits = written
    else:
        if given.get('val'):
            raise UserError('a holdout takes the validation images from the training json. Remove the json of '
                            'validation')
        path = Path(given.get('train') or find_single_json(folder)).resolve()
        whole, parents = coco.plain(coco.read(path))
        splits, paths, written = coco.hold_out(whole, holdout), dict.fromkeys(WORDS, path), {}
        counts = [len(content['images']) for content in splits.values()]
        changes.append(f'{counts[1]} of the {sum(counts)} images of {path} are held out for validation, selected with '
                       'a fixed seed')
    for split in WORDS:
        contents[split], found = coco.plain(splits[split])
        parents += found
    roots = [root for root in (images, folder) if root]
    files = {}
    for split, path in paths.items():
        if not contents[split]['images']:
            raise UserError(f'{path} has no images')
        found, renamed = locate(contents[split], path, roots, 'train' if holdout else split)
        files[split] = path, found
        changes += [renamed] if renamed else []
    classes = coco.classes_of(contents['train'], paths['train'])
    also = coco.classes_of(contents['val'], paths['val'])
    surveys = {}
    for split, loader in zip(WORDS, (cfg.train_dataloader, cfg.val_dataloader)):
        surveys[split] = coco_survey.survey(
            contents[split], *files[split], turns=turns_images(loader), quiet=quiet,
            skip_broken=bool(cfg.get('skip_broken_images')),
            channels=cfg.model.backbone.get('in_channels', 3) if 'unchanged' in colours_read(loader) else None)
    if not set(classes) & set(also):
        raise UserError(f'{paths["train"]} and {paths["val"]} have no class name in common: '
                        f'{first(classes, 10)} in the first, {first(also, 10)} in the second')
    warnings = check(surveys, quiet) + some(
        ("left out, because they are parent categories from Roboflow's export", set(parents)),
        ('trained but never validated, because no validation category has them', set(classes) - set(also)),
        ('left out with their boxes, because no training category has them', set(also) - set(classes)),
        ('without a box to learn from', set(classes) - set(surveys['train'].classes)))
    for split, (path, folder_of_images) in files.items():
        better = coco.tidy(contents[split], classes)
        if better != written.get(split) or not coco.is_plain(path):
            copy = Path(cfg.work_dir, 'annotations', f'{split}.json').resolve()
            write(copy, better)
            changes.append(f'{path} is read from a normalized copy, {copy} (class order, areas, iscrowd, ids)')
            files[split] = copy, folder_of_images
    changes += fit_detector(cfg, folder or paths['train'].parent, classes, files, with_masks(cfg, contents))
    if any(map(has_run_lengths, contents.values())):
        changes += masks_as_pixels(cfg)
    return warnings + small_images(cfg, contents['train']['images'], paths['train']), changes


def locate(contents, path, roots, split):
    """Find the image folder of a split. Returns the folder and a sentence about renamed images, or None.

    Names that no folder has, for example paths of another machine, are replaced in `contents` by the names of matching
    files: see `find_by_last_parts`.

    Raises:
        UserError: none of the images is found.
    """
    names = [image['file_name'] for image in contents['images']]
    there, folder, error = 0, None, None
    try:
        folder = find_images(names, path, roots, split)
        there = sum((folder / name).is_file() for name in names)
    except UserError as caught:
        error = caught
    if there == len(names):
        return folder, None
    found = find_by_last_parts(names, path, roots, split)
    if len(found) <= there:
        if error:
            raise error
        return folder, None
    folder = Path(os.path.commonpath([file.parent for file in found.values()]))
    contents['images'] = [dict(image, file_name=str(found[name].relative_to(folder)) if name in found else name)
                          for image, name in zip(contents['images'], names)]
    first_name = next(name for name, file in found.items() if name != file.name)
    return folder, (f'{len(found)} of the {len(names)} images of {path} are found by the last parts of their names, '
                    f'for example {found[first_name]} for {first_name}')


def turns_images(loader):
    """Whether a data loader's data set applies the EXIF orientation to images. mmcv does by default."""
    return not any('ignore_orientation' in kind or kind == 'unchanged' for kind in colours_read(loader))


def colours_read(loader):
    """The `color_type` values of a data loader's image readers, for example 'color'."""
    steps = first_dataset(loader).get('pipeline') or []
    return [str(step.get('color_type', 'color')) for step in steps if 'LoadImage' in str(step.get('type'))]


def small_images(cfg, images, path):
    """A warning about images that mmdet drops from training because they are too small.

    Raises:
        UserError: all images are too small.
    """
    least = (first_dataset(cfg.train_dataloader).get('filter_cfg') or {}).get('min_size', 0)
    count = sum(min(image['width'], image['height']) < least for image in images)
    what = f"smaller than {least} pixels, which the config's filter_cfg leaves out"
    if count == len(images):
        raise UserError(f'all images of {path} are {what}. To use them, set '
                        'train_dataloader.dataset.filter_cfg.min_size=0')
    return [f'train: images {what}: {count}'] if count else []


def with_masks(cfg, contents):
    """Whether the boxes have masks.

    Raises:
        UserError: only some boxes have masks, and the detector learns masks.
    """
    annotations = [annotation for content in contents.values() for annotation in content['annotations']]
    without = sum(not has_mask(annotation) for annotation in annotations)
    learns = predicts_masks(cfg.model) or cfg.model.get('roi_head', {}).get('mask_head')
    if learns and 0 < without < len(annotations):
        raise UserError(f'{without} of the {len(annotations)} annotations have no segmentation. Add them, or remove '
                        "'segmentation' from all annotations to train without masks")
    return not without


def prepare_segmentor(cfg, folder, quiet):
    pairs = find_label_maps(folder)
    surveys, endings = {}, {}
    for split, pair in pairs.items():
        surveys[split], endings[split] = label_maps.survey(
            split, *pair, quiet, bool(cfg.get('skip_broken_images')))
    classes = label_maps.class_names(folder, surveys['train'].classes)
    for split, survey in surveys.items():
        beyond = [value for value in survey.classes if value >= len(classes)]
        survey.problems.append((len(beyond), f'values in the label maps of {split} are not valid, because there are '
                                             f'only {len(classes)} classes: {first(sorted(beyond))}'))
        survey.classes = Counter({
            classes[value] if value < len(classes) else str(value): n for value, n in survey.classes.items()})
    never_trained = set(classes) - set(surveys['train'].classes)
    for split, survey in surveys.items():
        # Validation may lack rare classes, but a single class beside 255 is a background.
        absent = never_trained if split == 'train' or len(survey.classes) > 1 else set(classes) - set(survey.classes)
        survey.problems.append((survey.rows[label_maps.WITH_IGNORED] if absent else 0,
                                f'label maps have the value {label_maps.IGNORED}, which is ignored, and no label map '
                                f'there has {first(sorted(absent), 10)}. Replace {label_maps.IGNORED} by the class '
                                'number (1 for the second class), or remove the class from classes.txt'))
    warnings = check(surveys, quiet) + some(
        *((f'in no label map of {split}', set(classes) - set(survey.classes)) for split, survey in surveys.items()))
    files = {split: (*pair, endings[split]) for split, pair in pairs.items()}
    return warnings, fit_segmentor(cfg, folder, classes, files)


def some(*groups):
    """Warnings about classes from pairs (description, names). Empty groups give no warning."""
    return [f'classes {text}: {first(sorted(names), 10)}' for text, names in groups if names]


def check(surveys, quiet):
    """Print the table and return the warnings.

    Raises:
        UserError: the surveys have errors.
    """
    if not quiet:
        show_table(surveys)
    errors = [error for survey in surveys.values() for error in survey.errors]
    if errors:
        raise UserError('\n'.join(errors))
    return [f'{split}: {warning}' for split, survey in surveys.items() for warning in survey.warnings]


def write(path, contents):
    """Write a json atomically, because several processes may write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}')
    part.write_text(json.dumps(contents))
    os.replace(part, path)
