"""The measurements of `exported.py`."""
import statistics
import time
from types import SimpleNamespace

import torch
from mmengine.runner import Runner

from mmmambavision.cli.work.test import replace_model
from mmmambavision.export.openvino_session import OpenVINOSession
from mmmambavision.openmmlab.configs import load_config
from mmmambavision.openmmlab.machine import fit_to_machine

from .measure import describe, report, times_in_turn

COLUMNS = dict(file='file', runtime='runtime', bbox='box AP', segm='mask AP', miou='mIoU', ms='ms', ratio='speed',
               megabytes='MB')
METRICS = dict(bbox='coco/bbox_mAP', segm='coco/segm_mAP', miou='mIoU')


def compare(args):
    """Measure with the arguments of exported.py, and print the table."""
    rows, calls = [], {}
    for file in args.files:
        for runtime in ('ONNX Runtime', 'OpenVINO') if file.suffix == '.onnx' else ('OpenVINO',):
            row, calls[len(rows)] = evaluate(args, file, runtime)
            rows.append(row)
    times = times_in_turn(calls, args.rounds, lambda: None)
    first = {}
    for index, row in enumerate(rows):
        row['ms'] = 1e3 * statistics.median(times[index])
        base = times[first.setdefault(row['runtime'], index)]
        row['ratio'] = statistics.median(one / own for one, own in zip(base, times[index]))
    print(f"{describe('cpu')}; one image; medians of {args.rounds}; speed: ratio to the first file in the same runtime")
    report(rows, COLUMNS, as_text, args.markdown)


def evaluate(args, file, runtime):
    """A row of the table without times, and a call that predicts the test images one after another."""
    cfg = load_config(args.config, work_dir=str(args.work_dir))
    cfg.experiment_name = f'{file.stem}_{time.time_ns()}'
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    fit_to_machine(cfg)
    replace_model(cfg, str(file))
    runner = Runner.from_cfg(cfg)
    session = runner.model.session
    if runtime == 'OpenVINO' and file.suffix == '.onnx':
        session = OpenVINOSession(file, torch.get_num_threads())
    inputs = []

    def run(_, feeds):
        if len(inputs) <= args.rounds:
            inputs.append(feeds)
        return session.run(None, feeds)

    runner.model.session = SimpleNamespace(run=run)
    found = runner.test()
    parts = [file, *([file.with_suffix('.bin')] if file.suffix == '.xml' else [])]
    megabytes = sum(path.stat().st_size for path in parts) / 1e6
    row = {key: found.get(name) for key, name in METRICS.items()}
    turns = iter(inputs * (args.rounds + 1))
    return dict(file=file.name, runtime=runtime, megabytes=megabytes, **row), lambda: session.run(None, next(turns))


def as_text(row, key):
    value = row.get(key)
    if not isinstance(value, float):
        return str(value or '')
    return f'{value:.3f}' if key in ('bbox', 'segm') else f'{value:.0f}' if key == 'ms' else f'{value:.2f}'
