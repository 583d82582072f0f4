"""From a folder of data to a config that is fitted to it."""
import json
import os
from collections import Counter
from pathlib import Path

from ...errors import UserError
from . import coco, coco_survey, label_maps
from .find import WORDS, find_by_last_parts, find_images, find_json, find_label_maps, find_single_json
from .fit import fit_detector, fit_segmentor, masks_as_pixels, predicts_masks
from .masks import has_mask, has_run_lengths
from .survey import first, show_table
from .weights import dataset_of


def prepare(cfg, folder=None, jsons=None, images=None, quiet=False, holdout=None):
    """Fit a config to the data in a folder: COCO's format for detectors, images and label maps for segmentors.

    Args:
        cfg: the config, changed in place; what has to be written goes to its work_dir.
        folder: of the data.
        jsons: {'train': FILE, 'val': FILE}, either of them None where it is to be found in `folder`.
        images: folder that the images are in, where it is not to be found by itself.
        quiet: without the table, for processes beside the first.
        holdout: which share of the images of a single json to validate with, between 0 and 1.

    Returns:
        What is odd about the data, and what was changed in the config, as sentences.

    Raises:
        UserError: it cannot be trained with; says all that is wrong.
    """
    jsons = jsons or {}
    for path in filter(None, (folder, images)):
        if not Path(path).is_dir():
            raise UserError(f'the folder {path} does not exist')
    if cfg.get('default_scope') == 'mmrotate':
        raise UserError("a folder of your own is read for upright boxes. Rotated boxes are read in DOTA's format only, "
                        'from where train_dataloader.dataset and val_dataloader.dataset of the config say')
    if cfg.get('default_scope') == 'mmseg':
        if any(jsons.values()) or images or holdout is not None:
            raise UserError('json files, their images and a holdout are for detectors; a segmentor takes a folder with '
                            'images and label maps', 'data')
        return prepare_segmentor(cfg, Path(folder).resolve(), quiet)
    if not folder and not all(jsons.get(split) for split in WORDS) and not (holdout and jsons.get('train')):
        raise UserError('say where the data is: its folder, or the json files of training and validation', 'data',
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
            raise UserError('a holdout takes the images for validation from those for training: leave out the json of '
                            'validation')
        path = Path(given.get('train') or find_single_json(folder)).resolve()
        whole, parents = coco.plain(coco.read(path))
        splits, paths, written = coco.hold_out(whole, holdout), dict.fromkeys(WORDS, path), {}
        counts = [len(content['images']) for content in splits.values()]
        changes.append(f'{counts[1]} of the {sum(counts)} images of {path} are held out for validation, drawn by a '
                       'fixed seed')
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
    reading = dict(turns=turns_images(cfg), quiet=quiet, skip_broken=bool(cfg.get('skip_broken_images')),
                   channels=cfg.model.backbone.get('in_channels', 3) if 'unchanged' in colours_read(cfg) else None)
    surveys = {split: coco_survey.survey(contents[split], *files[split], **reading) for split in WORDS}
    if not set(classes) & set(also):
        raise UserError(f'the classes of {paths["train"]} and {paths["val"]} have no name in common: '
                        f'{first(classes, 10)} in the first, {first(also, 10)} in the second')
    warnings = check(surveys, quiet) + some(
        ("no class, but the parent of the others in Roboflow's export", set(parents)),
        ('only trained on, never validated: they are in no category of the validation data', set(classes) - set(also)),
        ('left out with their boxes: they are in no category of the training data', set(also) - set(classes)),
        ('without a box to learn from', set(classes) - set(surveys['train'].classes)))
    for split, (path, folder_of_images) in files.items():
        better = coco.tidy(contents[split], classes)
        if better != written.get(split) or not coco.is_plain(path):
            copy = Path(cfg.work_dir, 'annotations', f'{split}.json').resolve()
            write(copy, better)
            changes.append(f'{path} is read from a copy, {copy}, with classes in one order, areas, iscrowd and new ids')
            files[split] = copy, folder_of_images
    changes += fit_detector(cfg, folder or paths['train'].parent, classes, files, with_masks(cfg, contents))
    if any(map(has_run_lengths, contents.values())):
        changes += masks_as_pixels(cfg)
    return warnings + small_images(cfg, contents['train']['images'], paths['train']), changes


def locate(contents, path, roots, split):
    """The folder of a split's images, and what was done to find them, as a sentence or None.

    Names that are not in any folder, such as another machine's paths, are replaced in `contents` by those of the files
    that they mean, see `find_by_last_parts`.

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
    return folder, (f'{len(found)} of the {len(names)} images of {path} are found by the last parts of their names: '
                    f'{found[first_name]} for {first_name}')


def turns_images(cfg):
    """Whether the config's data set turns images by their EXIF orientation, as mmcv does by default."""
    return not any('ignore_orientation' in kind or kind == 'unchanged' for kind in colours_read(cfg))


def colours_read(cfg):
    """How the config's data set reads images, such as 'color'."""
    steps = dataset_of(cfg).get('pipeline') or []
    return [str(step.get('color_type', 'color')) for step in steps if 'LoadImage' in str(step.get('type'))]


def small_images(cfg, images, path):
    """Sentences on the images that mmdet leaves out of training because they are small.

    Raises:
        UserError: all are.
    """
    least = (dataset_of(cfg).get('filter_cfg') or {}).get('min_size', 0)
    count = sum(min(image['width'], image['height']) < least for image in images)
    what = f"smaller than {least} pixels, which the config's filter_cfg leaves out"
    if count == len(images):
        raise UserError(f'all images of {path} are {what}: set '
                        'train_dataloader.dataset.filter_cfg.min_size=0 to take them')
    return [f'train: images {what}: {count}'] if count else []


def with_masks(cfg, contents):
    """Whether the boxes have masks.

    Raises:
        UserError: some have and some have not, and the detector is to learn masks.
    """
    annotations = [annotation for content in contents.values() for annotation in content['annotations']]
    without = sum(not has_mask(annotation) for annotation in annotations)
    learns = predicts_masks(cfg.model) or cfg.model.get('roi_head', {}).get('mask_head')
    if learns and 0 < without < len(annotations):
        raise UserError(f'{without} of the {len(annotations)} annotations have no segmentation and the others have one:'
                        " complete them, or take 'segmentation' out of all of them to train on boxes alone")
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
        survey.problems.append((len(beyond), f'values in the label maps of {split} are of no class, of which there are '
                                             f'{len(classes)}: {first(sorted(beyond))}'))
        survey.classes = Counter({
            classes[value] if value < len(classes) else str(value): n for value, n in survey.classes.items()})
    absent = set(classes).difference(*(survey.classes for survey in surveys.values()))
    for survey in surveys.values():
        survey.problems.append((survey.rows[label_maps.WITH_IGNORED] if absent else 0,
                                f'label maps have the value {label_maps.IGNORED}, which is ignored, and no label map '
                                f'has {first(sorted(absent), 10)}: write the number of the class, 1 for the second, in '
                                f'the place of {label_maps.IGNORED}, or take the class out of classes.txt'))
    warnings = check(surveys, quiet) + some(
        *((f'in no label map of {split}', set(classes) - set(survey.classes)) for split, survey in surveys.items()))
    files = {split: (*pair, endings[split]) for split, pair in pairs.items()}
    return warnings, fit_segmentor(cfg, folder, classes, files)


def some(*groups):
    """Sentences on classes, (what they are, their names), where there are any."""
    return [f'classes {text}: {first(sorted(names), 10)}' for text, names in groups if names]


def check(surveys, quiet):
    """Print the table; returns the warnings.

    Raises:
        UserError: there are errors.
    """
    if not quiet:
        show_table(surveys)
    errors = [error for survey in surveys.values() for error in survey.errors]
    if errors:
        raise UserError('\n'.join(errors))
    return [f'{split}: {warning}' for split, survey in surveys.items() for warning in survey.warnings]


def write(path, contents):
    """Write a json whole, whichever process of several does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}')
    part.write_text(json.dumps(contents))
    os.replace(part, path)
