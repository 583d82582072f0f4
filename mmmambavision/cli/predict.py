"""Predict on pictures and videos: `python tools/predict.py INPUT... --config CONFIG --checkpoint FILE [--out DIR]`.

INPUT is an image, a video, a folder of them or a pattern such as 'photos/*.jpg'. Boxes and masks of a detector or the
overlay of a segmentor are drawn into DIR under the names of the inputs; --json adds predictions.json in COCO's format,
and of a segmentor label maps (DIR/labels/NAME.png, pixels being class numbers). A released detector or segmentor, such
as hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco, needs no --config.
"""
import argparse
from pathlib import Path

from ..errors import UserError
from .arguments import add_device, add_settings

PACKAGE = Path(__file__).resolve().parents[1]  # with the configs in it where it is installed, beside it in a checkout


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('inputs', nargs='*', metavar='INPUT', help='images, videos, folders or patterns')
    parser.add_argument('--config', help='config file; of a released checkpoint it follows from the name')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, URL or hf://owner/repository')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write to; default %(default)s')
    parser.add_argument('--threshold', type=float, default=.3, help='boxes of a lower score are left out; default 0.3')
    parser.add_argument('--json', action='store_true', help='write numbers beside the pictures')
    add_device(parser)
    parser.add_argument('--web', action='store_true', help='open a page in the browser that takes pictures (gradio)')
    add_settings(parser)
    args = parser.parse_args(argv)
    if bool(args.inputs) == args.web:
        raise UserError('name images, videos or folders to predict on, or give --web and none of them')
    if not 0 <= args.threshold <= 1:
        raise UserError(f'--threshold {args.threshold} must be between 0 and 1')
    args.config = args.config or released_config(args.checkpoint)
    return args


def released_config(checkpoint):
    """The config of a released detector or segmentor by the name of its repository, as configs/metafile.yml has it."""
    import yaml
    configs = PACKAGE / '.mim' / 'configs' if (PACKAGE / '.mim').is_dir() else PACKAGE.parent / 'configs'
    entries = yaml.safe_load((configs / 'metafile.yml').read_text())['Models']
    names = {entry['Weights'].split('/')[-1]: entry['Config'] for entry in entries if 'Weights' in entry}
    repository = checkpoint.removeprefix('hf://').rstrip('/').split('/')[1:2]
    if not checkpoint.startswith('hf://') or not repository or repository[0] not in names:
        raise UserError(f'--config is missing: it follows from the checkpoint for the released ones alone, which are '
                        f"{', '.join(f'hf://nvidia/{name}' for name in names)}")
    return str(configs.parent / names[repository[0]])


def main(argv=None):
    args = parse_args(argv)
    from .work.predict import predict
    predict(args)
