"""The short names of the backbones in `peers.py`, in a module that imports fast."""
from mmmambavision.errors import UserError

NAMES = (
    'resnet50', 'resnext101-32x4d', 'resnext101-64x4d', 'swin-t', 'swin-s', 'swin-b', 'convnext-t', 'convnext-s',
    'convnext-b', 'deit-s', 'mambavision-t', 'mambavision-t-padded', 'mambavision-t-balanced', 'mambavision-s',
    'mambavision-s-padded', 'mambavision-s-balanced', 'mambavision-b', 'mambavision-b-padded', 'mambavision-b-balanced')


def parse(text):
    """Parse 'mambavision-t:scan_backend=reference:window_size=64,32' to a name and options."""
    name, *options = text.split(':')
    if name.endswith('.py'):
        raise UserError(f'config not found: {text}')
    if name not in NAMES:
        raise UserError(f"unknown backbone '{name}': give a config file or one of {', '.join(NAMES)}")
    if options and not name.startswith('mambavision'):
        raise UserError(f"'{text}': options, such as :with_cp=True, are MambaVision's alone")
    if wrong := [option for option in options if '=' not in option]:
        raise UserError(f"'{text}': {wrong[0]} is no option; write it as key=value")
    if not options:
        return name, {}
    from mmengine.config import DictAction
    return name, {key: DictAction._parse_iterable(value) for key, value in (option.split('=', 1) for option in options)}
