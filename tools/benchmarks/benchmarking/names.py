"""Names that commands check before they import torch: backbones of `peers.py`, and shapes of the scan."""
from mmmambavision.errors import UserError

NAMES = (
    'resnet50', 'resnext101-32x4d', 'resnext101-64x4d', 'swin-t', 'swin-s', 'swin-b', 'convnext-t', 'convnext-s',
    'convnext-b', 'deit-s', 'mambavision-t', 'mambavision-t-padded', 'mambavision-t-balanced', 'mambavision-s',
    'mambavision-s-padded', 'mambavision-s-balanced', 'mambavision-b', 'mambavision-b-padded', 'mambavision-b-balanced')
SHAPES = {  # sequences per image, channels, length: levels 2 and 3 of tiny
    'COCO padded, level 2': (1, 160, 112 * 112), 'COCO padded, level 3': (1, 320, 56 * 56),
    'COCO whole map, level 2': (1, 160, 50 * 84), 'COCO whole map, level 3': (1, 320, 25 * 42),
    'ADE20K padded, level 2': (1, 160, 64 * 64), 'ADE20K padded, level 3': (1, 320, 32 * 32),
    'ADE20K whole map, level 2': (1, 160, 32 * 32), 'ADE20K whole map, level 3': (1, 320, 16 * 16),
    'ImageNet, level 2': (1, 160, 14 * 14), 'ImageNet, level 3': (1, 320, 7 * 7),
}


def parse(text):
    """Parse 'mambavision-t:scan_backend=reference:window_size=64,32' to a name and options."""
    name, *options = text.split(':')
    if name.endswith('.py'):
        raise UserError(f'config not found: {text}')
    if name not in NAMES:
        raise UserError(f"unknown backbone '{name}': give a config file or one of {', '.join(NAMES)}")
    if options and not name.startswith('mambavision'):
        raise UserError(f"'{text}': only MambaVision has options such as :with_cp=True")
    if wrong := [option for option in options if '=' not in option]:
        raise UserError(f"'{text}': {wrong[0]} is not an option. Write it as key=value")
    if not options:
        return name, {}
    from mmengine.config import DictAction
    return name, {key: DictAction._parse_iterable(value) for key, value in (option.split('=', 1) for option in options)}
