"""Export the network of a config to a file, and check or quantise the file."""
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.progress import track

from ...errors import UserError
from ...export.check import HALF_LIMITS, LIMITS, compare, picture, sizes_around
from ...export.contract import UNSET, Contract
from ...export.int8 import need_int8, quantise
from ...export.onnx import export, need, read
from ...export.parts import PARTS
from ...openmmlab.configs import first_dataset, load_config
from ...openmmlab.machine import fit_to_machine
from ...openmmlab.models import load_model
from ...terminal import show
from ..arguments import settings_of
from . import calibration

TENSORRT_TOPK = 3840  # limit of TopK in TensorRT's documentation
RELATIVE = {kind: f'{kind} relative to the largest value' for kind in ('maps', 'logits')}


def write(args):
    """Export with the arguments of cli/export.py."""
    need('onnx', 'onnxscript', *(['onnxruntime'] if args.check else []))
    if args.int8:
        need_int8(args.out)
    cfg = load_config(args.config, settings_of(args.cfg_options))
    try:  # fail early, because an export can take a minute
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{args.out} cannot be written: {error.strerror}') from None
    fit_to_machine(cfg)
    channels = cfg.model.get('in_chans', (cfg.model.get('backbone') or {}).get('in_channels', 3))
    if channels != 3:
        raise UserError(f'exported files need RGB images, but the network of {args.config} has in_channels={channels}')
    if args.int8 and (cfg.get('default_scope') == 'mmpretrain' or 'panoptic_head' in cfg.model):
        raise UserError("--int8 works only with detectors and segmentors, not with classifiers and mmdet's Mask2Former "
                        'and MaskFormer')
    images = calibration.find_images(args.int8) if args.int8 else None
    model = load_model(cfg, args.checkpoint, 'cpu')
    module = PARTS[args.part](model).eval()
    begin = time.monotonic()
    batch = 2 if module.any_batch and not args.static else 1
    contract = Contract.describe(model, args.part, first_dataset(cfg.test_dataloader).pipeline)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
        file = Path(folder, 'float32.onnx') if images else args.out
        export(module, torch.randn(batch, 3, *args.size), file, args.scan, args.opset, args.static, args.half, contract)
        if images:
            quantise(file, args.out, calibration.Inputs(file, images, cfg), contract)
    # Large networks have FILE.onnx.data, and FILE.xml has FILE.bin.
    parts = [args.out, Path(f'{args.out}.data') if args.out.suffix == '.onnx' else args.out.with_suffix('.bin')]
    files = [path for path in parts if path.exists()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{' and '.join(map(str, files))}: {megabytes:.1f} MB, in {time.monotonic() - begin:.0f} s")
    if args.part == 'model' and contract.resize is UNSET and contract.task != 'classification':
        print('warning: the test pipeline does more than resize and pad, so tools/predict_onnx.py cannot use this file')
    for key, count in getattr(module, 'counts', {}).items():
        if not 0 < count < TENSORRT_TOPK:
            print(f'warning: {key} is {count}, but TopK in TensorRT must be less than {TENSORRT_TOPK}. For TensorRT, '
                  f'export with --cfg-options {key}=1000')
    if args.check and not check(module, args):
        sys.exit(1)


def check(module, args):
    """Compare the file with the network and print a table. Returns whether all errors are within their limits."""
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
          *(f'{RELATIVE.get(kind, kind)}, at most {limits[kind]:g}' for kind in errors), 'eager ms',
          'ONNX Runtime ms'), rows)
    return fine
