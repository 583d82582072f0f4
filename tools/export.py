"""A config's network as an ONNX file: `python tools/export.py CONFIG [CHECKPOINT] --out model.onnx`.

Parts: the whole model, of segmentors (RGB images as loaded and resized, 0 to 255, to logits of their size); the
backbone, and backbone and neck, of any model (normalised images to maps). The file takes any batch and size unless
--static.
"""
import argparse
import sys
import time
from pathlib import Path

import torch
from mmengine.config import DictAction
from rich.progress import track

from mmmambavision.errors import UserError
from mmmambavision.export.check import LIMIT, compare, sizes_around
from mmmambavision.export.onnx import export, read
from mmmambavision.export.parts import PARTS
from mmmambavision.openmmlab.configs import fit_to_machine, load_config
from mmmambavision.openmmlab.models import load_model
from mmmambavision.terminal import run, show


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file, URL or hf://owner/repository; default: random')
    parser.add_argument('--out', type=Path, required=True, help='new file, .onnx')
    parser.add_argument('--part', choices=PARTS, default='model')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), default=(224, 320),
                        help='of the sample; default 224 320')
    parser.add_argument('--static', action='store_true', help='one image of that size and no other')
    parser.add_argument('--scan', choices=('loop-free', 'scan'), default='loop-free',
                        help="'scan' is ONNX's own Scan: a shorter file, a loop in the runtime")
    parser.add_argument('--opset', type=int, default=20)
    parser.add_argument('--check', action='store_true', help='run the file beside the network at four sizes')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of the config')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    args = parser.parse_args(argv)
    if args.out.suffix != '.onnx' or args.out.exists():
        raise UserError(f'--out {args.out} must name a new file that ends in .onnx')
    if not 18 <= args.opset <= 23:
        raise UserError(f'--opset {args.opset}: operators of 18 to 23 are known here; TensorRT reads up to 20')
    if min(args.size) < 64:
        raise UserError(f"--size {' '.join(map(str, args.size))}: sides of 64 pixels at least")
    return args


def check(module, args, scale):
    """A table of the file beside the network; whether all errors are within the limit."""
    session = read(args.out)
    sizes = [tuple(args.size)] if args.static else sizes_around(*args.size)
    rows, fine = [], True
    for height, width in track(sizes, 'checking'):
        error, eager, exported = compare(module, session, (1, 3, height, width), scale)
        fine &= bool(error <= LIMIT)
        rows.append([f'{height}x{width}', f'{error:.1e}', f'{1e3 * eager:.0f}', f'{1e3 * exported:.0f}'])
    show(('H x W', f'error, at most {LIMIT:g}', 'eager ms', 'ONNX Runtime ms'), rows)
    return fine


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args)
    fit_to_machine(cfg)
    model = load_model(cfg, args.checkpoint, 'cpu')
    module = PARTS[args.part](model).eval()
    begin = time.monotonic()
    meta = {key: list(model.dataset_meta.get(key) or []) for key in ('classes', 'palette')}
    export(module, torch.randn(1 if args.static else 2, 3, *args.size), args.out, args.scan, args.opset, args.static,
           dict(meta, part=args.part))
    megabytes = sum(file.stat().st_size for file in args.out.parent.glob(f'{args.out.name}*')) / 1e6
    print(f'{args.out}: {megabytes:.1f} MB, in {time.monotonic() - begin:.0f} s')
    if args.check and not check(module, args, scale=1. if args.part != 'model' else 60.):
        sys.exit(1)


if __name__ == '__main__':
    run(main)
