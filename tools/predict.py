"""Predict on pictures and videos: `python tools/predict.py INPUT... --config CONFIG --checkpoint FILE [--out DIR]`.

INPUT is an image, a video, a folder of them or a pattern such as 'photos/*.jpg'. Boxes and masks of a detector or the
overlay of a segmentor are drawn into DIR under the names of the inputs; --json adds predictions.json in COCO's format,
and of a segmentor label maps (DIR/labels/NAME.png, pixels being class numbers). A released detector or segmentor, such
as hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco, needs no --config.
"""
import argparse
import sys
from pathlib import Path

import torch
import yaml
from mmengine.config import DictAction
from rich.console import Console
from rich.progress import Progress

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.configs import fit_to_machine, load_config
from mmmambavision.openmmlab.inputs import UnreadableError, find_inputs, frames_of, number_of_frames
from mmmambavision.openmmlab.predictor import Predictor
from mmmambavision.openmmlab.results import Results
from mmmambavision.terminal import device, run

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('inputs', nargs='*', metavar='INPUT', help='images, videos, folders or patterns')
    parser.add_argument('--config', help='config file; of a released checkpoint it follows from the name')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, URL or hf://owner/repository')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write to; default %(default)s')
    parser.add_argument('--threshold', type=float, default=.3, help='boxes of a lower score are left out; default 0.3')
    parser.add_argument('--json', action='store_true', help='write numbers beside the pictures')
    parser.add_argument('--device', type=device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--web', action='store_true', help='open a page in the browser that takes pictures (gradio)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of the config')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    args = parser.parse_args(argv)
    if bool(args.inputs) == args.web:
        raise UserError('name images, videos or folders to predict on, or give --web and none of them')
    if not 0 <= args.threshold <= 1:
        raise UserError(f'--threshold {args.threshold} must be between 0 and 1')
    args.config = args.config or released_config(args.checkpoint)
    return args


def released_config(checkpoint):
    """The config of a released detector or segmentor by the name of its repository, as configs/metafile.yml has it."""
    entries = yaml.safe_load((CONFIGS / 'metafile.yml').read_text())['Models']
    configs = {entry['Weights'].split('/')[-1]: entry['Config'] for entry in entries if 'Weights' in entry}
    repository = checkpoint.removeprefix('hf://').rstrip('/').split('/')[1:2]
    if not checkpoint.startswith('hf://') or not repository or repository[0] not in configs:
        raise UserError(f'--config is missing: it follows from the checkpoint for the released ones alone, which are '
                        f"{', '.join(f'hf://nvidia/{name}' for name in configs)}")
    return str(CONFIGS.parent / configs[repository[0]])


def main(argv=None):
    args = parse_args(argv)
    inputs = find_inputs(args.inputs)
    cfg = load_config(args)
    results = Results(args.out, inputs, args.json, cfg.get('default_scope') == 'mmseg')
    fit_to_machine(cfg)
    predictor = Predictor(cfg, args.checkpoint, args.device, args.threshold)
    if args.web:
        from mmmambavision.openmmlab.web import serve
        return serve(predictor)
    unreadable = []
    with Progress(console=Console(stderr=True)) as progress, results:
        task = progress.add_task('predicting', total=sum(map(number_of_frames, inputs)))
        for source in inputs:
            try:
                for frame in frames_of(source):
                    sample = predictor(frame.image)
                    results.add(frame, predictor.draw(frame.image, sample), predictor.numbers(sample))
                    progress.advance(task)
            except UnreadableError as error:
                unreadable.append(str(error))
                progress.console.print(f'skipped: {error}')
        results.finish(predictor.classes, predictor.segments)
    print(f'{len(inputs) - len(unreadable)} of {len(inputs)} inputs predicted, in {args.out}')
    if unreadable:
        sys.exit(1)


if __name__ == '__main__':
    run(main)
