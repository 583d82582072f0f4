"""A config's network as an ONNX file: `python tools/export.py CONFIG [CHECKPOINT] --out model.onnx`.

Parts: the whole model (RGB images as loaded and resized, 0 to 255, to dets, labels and masks of one image, or to a
segmentor's logits); the backbone, and backbone and neck (normalised images to maps). The file takes any size unless
--static, and of all but detectors any batch.
"""
import argparse
import sys
import time
from pathlib import Path

import torch
from mmengine.config import DictAction
from rich.progress import track

from mmmambavision.errors import UserError
from mmmambavision.export.check import HALF_LIMITS, LIMITS, compare, picture, sizes_around
from mmmambavision.export.metadata import describe
from mmmambavision.export.onnx import export, need, read
from mmmambavision.export.parts import PARTS
from mmmambavision.openmmlab.configs import fit_to_machine, load_config
from mmmambavision.openmmlab.models import load_model, tested_on
from mmmambavision.terminal import run, show

TENSORRT_TOPK = 3840  # as its documentation of layers has it


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
    parser.add_argument('--half', action='store_true', help='large weights in float16: half the file')
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


def check(module, args):
    """A table of the file beside the network; whether all errors are within their limits."""
    session = read(args.out)
    sizes = [tuple(args.size)] if args.static else sizes_around(*args.size)
    limits, rows, fine = HALF_LIMITS if args.half else LIMITS, [], True
    for height, width in track(sizes, 'checking'):
        images = picture(height, width)
        errors, eager, exported, count = compare(
            module, session, images if args.part == 'model' else images / 60 - 2, args.half)
        fine &= all(error <= limits[kind] for kind, error in errors.items())
        rows.append([f'{height}x{width}', *([] if count is None else [str(count)]),
                     *(f'{error:.1e}' for error in errors.values()), f'{1e3 * eager:.0f}', f'{1e3 * exported:.0f}'])
    show(('H x W', *([] if count is None else ['detections']),
          *(f'{kind}, at most {limits[kind]:g}' for kind in errors), 'eager ms', 'ONNX Runtime ms'), rows)
    return fine


def main(argv=None):
    args = parse_args(argv)
    need('onnx', 'onnxscript', *(['onnxruntime'] if args.check else []))
    cfg = load_config(args)
    try:  # before the minute that an export may take
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{args.out} cannot be written: {error.strerror}') from None
    fit_to_machine(cfg)
    model = load_model(cfg, args.checkpoint, 'cpu')
    module = PARTS[args.part](model).eval()
    begin = time.monotonic()
    batch = 2 if module.any_batch and not args.static else 1
    meta = describe(model, args.part, tested_on(cfg).pipeline)
    export(module, torch.randn(batch, 3, *args.size), args.out, args.scan, args.opset, args.static, args.half, meta)
    files = [path for path in (args.out, Path(f'{args.out}.data')) if path.exists()]  # the second of large networks
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{' and '.join(map(str, files))}: {megabytes:.1f} MB, in {time.monotonic() - begin:.0f} s")
    if args.part == 'model' and 'resize' not in meta:
        print('warning: the test pipeline does more than resize, so tools/predict_onnx.py does not take this file')
    for key, count in getattr(module, 'counts', {}).items():
        if not 0 < count < TENSORRT_TOPK:
            print(f'warning: {key} is {count}, and TensorRT has no TopK of {TENSORRT_TOPK} and more. For it, export '
                  f'with --cfg-options {key}=1000')
    if args.check and not check(module, args):
        sys.exit(1)


if __name__ == '__main__':
    run(main)
