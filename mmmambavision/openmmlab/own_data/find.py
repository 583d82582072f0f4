"""Find the training and validation files of a folder by their names."""
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
    """Whether a path contains a word for a split (train or val), e.g. annotations/instances_val2017.json."""
    words = re.findall('[a-z]+', str(path).lower())
    return any(word in words for word in WORDS[split])


def find_json(folder, split):
    """The COCO json of a split, found by its file name, or by its folder name as in Roboflow exports.

    Raises:
        UserError: there is no such file, or several.
    """
    files = sorted(folder.glob('*.json')) + sorted(folder.glob('*/*.json'))
    found = [file for file in files if names_split(file.stem, split)] or [
        file for file in files if file.parent != folder and names_split(file.parent.name, split)]
    found = [file for file in found if file.name.startswith('instances')] or found  # COCO's folder also has captions
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{folder} has several annotations for {split}: {', '.join(map(str, found))}. Select one",
                        f'{split}_json')
    raise UserError(f"{folder} has no annotations for {split}: no *.json in it or its folders has "
                    f"{' or '.join(WORDS[split])} in the name of the file or folder. Give the file, or hold out "
                    'images of a single json for validation', f'{split}_json', 'holdout')


def find_single_json(folder):
    """The only COCO json of a folder or its subfolders, for a validation split by hold-out.

    Raises:
        UserError: there is no such file, or several.
    """
    files = sorted(folder.glob('*.json')) + sorted(folder.glob('*/*.json'))
    if len(files) != 1:
        found = f"several: {', '.join(map(str, files))}" if files else 'none'
        raise UserError(f'a hold-out needs exactly one json, but {folder} has {found}. Select one', 'train_json')
    return files[0]


def find_images(names, json, roots, split):
    """The image folder of a json: the folder of the json, or a folder at most two levels below a root.

    Args:
        names: the `file_name` values of the json.
        json: path of the json.
        roots: folders to search.
        split: train or val. Folders with only the name of the other split are skipped.

    Raises:
        UserError: no folder has any of the images.
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
        raise UserError(f"none of the images of {json} was found, for example {sample[0]}, in {where}. Give the image "
                        'folder', 'images')
    return best


def splits_of(json, split):
    """The split that the name of a json says, and the other split."""
    other = 'val' if split == 'train' else 'train'
    return (other, split) if names_split(json.stem, other) else (split, other)  # one file may serve as train and val


def find_by_last_parts(names, json, roots, split):
    """Find files for names with the folders of another machine, a URL, or another letter case.

    Files match by their last path part. If several match, the order of preference is: an earlier root, more equal
    parent folders, the same letter case, a folder with the name of the split.

    Args:
        names, json, split: as in `find_images`.
        roots: folders to search at any depth, before the folder of the json.

    Returns:
        {name: path} for all names that match exactly one file, if no other name matches the same file.
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
    """The parts of a path (of any system) or URL in lower case, last part first."""
    text = unicodedata.normalize('NFC', unquote(name.partition('?')[0] if '://' in name else name))
    return tuple(filter(None, re.split(r'[\\/]', text.strip().casefold())))[::-1]


def subfolders(root):
    """Relative paths of all subfolders, two levels deep."""
    return sorted(str(path.relative_to(root)) for pattern in ('*/', '*/*/') for path in root.glob(pattern)
                  if path.is_dir())


def find_label_maps(folder):
    """The folders of images and label maps: images/train and labels/train, or train/images and train/labels.

    Returns:
        {'train': (images, labels), 'val': (images, labels)}

    Raises:
        UserError: a split has no such folders.
    """
    found = {}
    for split, words in WORDS.items():
        pairs = [pair for word in words for image in IMAGES for label in LABELS for pair in (
            (folder / image / word, folder / label / word), (folder / word / image, folder / word / label))]
        pair = next((pair for pair in pairs if all(path.is_dir() for path in pair)), None)
        if pair is None:
            images, labels, words = (f"{{{','.join(names)}}}" for names in (IMAGES, LABELS, words))
            raise UserError(
                f'{folder} has no images and label maps for {split}: neither {images}/{words} with {labels}/{words}, '
                f'nor {words}/{images} with {words}/{labels}. Rename the folders, or link to them')
        found[split] = pair
    return found


def image_files(folder):
    """Sorted paths of the images in a folder and its subfolders."""
    return sorted(path for path in Path(folder).rglob('*')
                  if path.suffix.lower() in ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'))
