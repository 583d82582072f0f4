"""Which files of a folder are to train on and which to validate with, by their names."""
import os
import re
import unicodedata
from collections import defaultdict
from glob import iglob
from pathlib import Path
from urllib.parse import unquote

from ...errors import UserError

WORDS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'))
IMAGES = ('images', 'imgs', 'img', 'img_dir')
LABELS = ('annotations', 'labels', 'masks', 'ann_dir')


def names_split(path, split):
    """Whether a part of a path says train, or val, e.g. annotations/instances_val2017.json."""
    words = re.findall('[a-z]+', str(path).lower())
    return any(word in words for word in WORDS[split])


def find_json(folder, split):
    """The COCO json of a split: its own name says which, or the name of its folder as in Roboflow's exports.

    Raises:
        UserError: there is none, or several.
    """
    files = sorted(folder.glob('*.json')) + sorted(folder.glob('*/*.json'))
    found = [file for file in files if names_split(file.stem, split)] or [
        file for file in files if file.parent != folder and names_split(file.parent.name, split)]
    found = [file for file in found if file.name.startswith('instances')] or found  # COCO's captions are beside them
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{folder} has several annotations for {split}: {', '.join(map(str, found))}; say which",
                        f'{split}_json')
    raise UserError(f"{folder} has no annotations for {split}: looked for *.json in it and in its folders with "
                    f"{' or '.join(WORDS[split])} in the file's or the folder's name. Name the file, or hold out "
                    'images of a single json for validation', f'{split}_json', 'holdout')


def find_single_json(folder):
    """The one COCO json of a folder, or of a folder in it, of which images are to be held out.

    Raises:
        UserError: there is none, or several.
    """
    files = sorted(folder.glob('*.json')) + sorted(folder.glob('*/*.json'))
    if len(files) != 1:
        found = f"several: {', '.join(map(str, files))}" if files else 'none'
        raise UserError(f'images are held out of one json, and {folder} has {found}; say which', 'train_json')
    return files[0]


def find_images(names, json, roots, split):
    """The folder that the images of a json are in: beside it, or in a root, two folders deep at most.

    Args:
        names: the json's `file_name`s.
        json: its path.
        roots: folders to look in.
        split: train or val; folders that only the other's name is in are left out.

    Raises:
        UserError: none of the images is in any.
    """
    split, other = splits_of(json, split)
    folders = {json.parent: json.parent.name}
    for root in roots:
        folders.update({root / path: path for path in ('', *subfolders(root))})
    sample = names[::max(len(names) // 100, 1)]

    def rank(folder):
        return names_split(folders[folder], split), sum((folder / name).is_file() for name in sample)

    folders = {folder: path for folder, path in folders.items()
               if names_split(path, split) or not names_split(path, other)}
    best = max((folder for folder in folders if rank(folder)[1]), key=rank, default=None)
    if best is None:
        where = ', '.join(map(str, list(folders)[:8]))
        raise UserError(f"none of the images of {json} was found, {sample[0]} for one; looked in {where}. Name their "
                        'folder', 'images')
    return best


def splits_of(json, split):
    """The split whose images a json has, and the other one."""
    other = 'val' if split == 'train' else 'train'
    return (other, split) if names_split(json.stem, other) else (split, other)  # train and val of one file, on purpose


def find_by_last_parts(names, json, roots, split):
    """The files of names from elsewhere, with another machine's folders, a URL, or other capital letters.

    Of files with one last part, the one is meant that is in the first root, then the one that has most of the name's
    other parts before it, then the one with the same capital letters, then the one in folders of the split.

    Args:
        names, json, split: as of `find_images`.
        roots: folders to look in, however deep, beside the json's.

    Returns:
        {name: path}, of names for which there is just one file, and which are alone in meaning it.
    """
    split, other = splits_of(json, split)
    wanted, files = {parts_of(name)[:1] for name in names}, defaultdict(dict)
    for number, root in enumerate((*roots, json.parent)):
        for path in map(Path, iglob('**', root_dir=root, recursive=True)):
            parts, named = parts_of(path.name), names_split(path.parent, split)
            if parts in wanted and (named or not names_split(path.parent, other)) and (root / path).is_file():
                files[parts].setdefault((root / path).resolve(), (root / path, number, named))
    found = defaultdict(list)
    for name in dict.fromkeys(names):
        parts, exact = parts_of(name), unicodedata.normalize('NFC', name)
        ranks = {file: (-number, len(os.path.commonprefix([parts, parts_of(str(file))])),  # noqa: RUF071 (of tuples)
                        exact.endswith(unicodedata.normalize('NFC', file.name)), named)
                 for file, number, named in files[parts[:1]].values()}
        best = [file for file, rank in ranks.items() if rank == max(ranks.values())]
        if len(best) == 1:
            found[best[0]].append(name)
    return {means[0]: file for file, means in found.items() if len(means) == 1}


def parts_of(name):
    """The parts of a path of any system or of a URL, the last first, in small letters."""
    text = unicodedata.normalize('NFC', unquote(name.partition('?')[0] if '://' in name else name))
    return tuple(filter(None, re.split(r'[\\/]', text.strip().casefold())))[::-1]


def subfolders(root):
    """Paths of a folder's folders, two deep, from it."""
    return sorted(str(path.relative_to(root)) for pattern in ('*/', '*/*/') for path in root.glob(pattern)
                  if path.is_dir())


def find_label_maps(folder):
    """The folders of images and label maps of a segmentor's data, as images/train and labels/train or train/images
    and train/labels.

    Returns:
        {'train': (images, labels), 'val': (images, labels)}

    Raises:
        UserError: a split has none.
    """
    found = {}
    for split, words in WORDS.items():
        pairs = [pair for word in words for image in IMAGES for label in LABELS for pair in (
            (folder / image / word, folder / label / word), (folder / word / image, folder / word / label))]
        pair = next((pair for pair in pairs if all(path.is_dir() for path in pair)), None)
        if pair is None:
            images, labels, words = (f"{{{','.join(names)}}}" for names in (IMAGES, LABELS, words))
            raise UserError(
                f'{folder} has no images and label maps for {split}: looked for {images}/{words} with {labels}/{words} '
                f'in it, and for {words}/{images} with {words}/{labels}. Name the folders so, or link to them')
        found[split] = pair
    return found


def image_files(folder):
    """Paths of the images in a folder, also in its folders, sorted."""
    return sorted(path for path in Path(folder).rglob('*')
                  if path.suffix.lower() in ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'))
