"""The trainings and measurements of `peers_trained.py`."""
import copy
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.machine import fit_to_machine

from .ablation_training import Advance
from .measure import describe, report, times_in_turn
from .runs import Run, draw_data, finished, mean_and_spread, run_all

HERE = Path(__file__).parents[1]
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
SHAPES = dict(train=400, val=100, size=160)  # options of make_shapes_dataset.py
# Channels of the four maps, and the backbone.
BACKBONES = {
    'MambaVision': ([32, 64, 128, 256], dict(
        type='MambaVision', arch=dict(dim=32, in_dim=16, depths=(1, 1, 2, 2), num_heads=(2, 2, 4, 8)),
        window_size=None, drop_path_rate=0.)),
    'Swin': ([32, 64, 128, 256], dict(
        type='mmdet.SwinTransformer', embed_dims=32, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 8), drop_path_rate=0.)),
    'ConvNeXt': ([36, 72, 144, 288], dict(
        type='mmseg.TIMMBackbone', model_name='convnext_atto', features_only=True, pretrained=False,
        dims=(36, 72, 144, 288), depths=(2, 2, 4, 2))),
    'ResNet': ([80, 160, 320, 640], dict(
        type='mmdet.ResNet', depth=50, base_channels=20, stem_channels=20, norm_eval=False)),
}
# Config, folder of the data, and metrics: key in the evaluation, its value for one per cent, key of COLUMNS. Learning
# rates are compared by the first metric.
TASKS = {
    'detection': (HERE / 'peers_detection.py', 'coco', {
        'coco/bbox_mAP': (.01, 'box_ap'), 'coco/segm_mAP': (.01, 'mask_ap')}),
    'segmentation': (HERE / 'peers_segmentation.py', 'ade', {'mIoU': (1, 'miou')}),
}
COLUMNS = dict(
    task='task', variant='backbone', params='backbone M', model='model M', rate='learning rate', runs='runs',
    box_ap='box AP', mask_ap='mask AP', miou='mIoU', milliseconds='ms / image', images='images/s', seconds='s / run')


def compare(args):
    """Train, evaluate and time the models for the arguments of peers_trained.py, and print the table."""
    every = {(task, seed): [run_of(task, name, seed, rate) for rate in LEARNING_RATES for name in BACKBONES]
             for task in args.task for seed in range(args.seeds)}
    plain = {task: Config.fromfile(TASKS[task][0]) for task in TASKS}
    budget = json.dumps([{task: cfg.to_dict() for task, cfg in plain.items()}, BACKBONES], sort_keys=True, default=str)
    records = finished(args.work_dir, [entry.file for entries in every.values() for entry in entries], budget)
    data = draw_data(SHAPES, args.work_dir / 'data')
    cfgs = {task: load(path, data / layout) for task, (path, layout, _) in TASKS.items()}
    train = partial(run_all, records=records, folder=args.work_dir, budget=budget, train=partial(
        train_and_evaluate, cfgs), steps=lambda entry: cfgs[entry.settings[0]].iterations)
    train([entry for task in args.task for entry in every[task, 0]], title='learning rates')
    rates = {task: {name: best_rate(records, task, name) for name in BACKBONES} for task in args.task}
    train([run_of(task, name, seed, rate) for task in args.task for seed in range(1, args.seeds)
           for name, rate in rates[task].items()], title='other seeds')
    times = {task: measure(cfgs[task], args.work_dir, task, rates[task], args.rounds) for task in args.task}
    images = len(times[args.task[0]]['MambaVision'])  # fewer than the rounds if the data has fewer images
    rows = rows_of(records, rates, times)
    report(rows, COLUMNS, as_text, args.markdown, args.work_dir / 'peers.csv')
    plot(rows).savefig(args.work_dir / 'peers.png', dpi=120)
    minutes = sum(record['seconds'] for record in records.values()) / 60
    print(f'mean ± standard deviation over seeds; {len(records)} runs in {minutes:.0f} minutes; times: median of '
          f"{images} images, {describe('cpu')}; plot: {args.work_dir / 'peers.png'}, table: "
          f"{args.work_dir / 'peers.csv'}")


def fit(cfg, channels, backbone):
    """A copy of a config with another backbone and its numbers of channels."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone = copy.deepcopy(backbone)
    if 'neck' in cfg.model:
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = channels, channels[2]
    return cfg


def load(path, data):
    """The config of a task, with its data sets in the folder `data`."""
    cfg = Config.fromfile(path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f'{data}/'
    if 'ann_file' in cfg.val_evaluator:
        cfg.val_evaluator.ann_file = f'{data}/annotations/instances_val2017.json'
    fit_to_machine(cfg)
    return cfg


def run_of(task, name, seed, rate):
    return Run(f'{task}_{name}_seed{seed}_lr{rate:g}.json', name, seed, (task, rate))


def best_rate(records, task, name):
    """The learning rate with the best result of a backbone's first seed in a task."""
    metric = next(iter(TASKS[task][2].values()))[1]
    return max(LEARNING_RATES, key=lambda rate: records[run_of(task, name, 0, rate).file][metric])


def train_and_evaluate(cfgs, entry, work_dir, advance):
    """Train a model, keep its weights beside the record, and evaluate it.

    Args:
        cfgs: config by task.
        entry: Run, whose settings are the task and the learning rate.
        work_dir: folder for mmengine's logs.
        advance: called after every iteration.

    Returns:
        dict of task, rate, params (M) of the backbone and of the whole model, seconds, and the metrics in per cent.
    """
    begin = time.perf_counter()
    task, rate = entry.settings
    cfg = fit(cfgs[task], *BACKBONES[entry.variant])
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.randomness = dict(seed=entry.seed)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.name}_{time.time_ns()}'
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Advance(advance))
    runner.train()
    torch.save(runner.model.state_dict(), work_dir / 'weights.pth')
    found = runner.val_loop.run()
    params, model = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (runner.model.backbone, runner.model))
    return dict(task=task, rate=rate, params=params, model=model, seconds=time.perf_counter() - begin, **{
        title: float(found.get(key, 0.)) / percent  # without detections, mmdet reports no AP
        for key, (percent, title) in TASKS[task][2].items()})


def measure(cfg, folder, task, rates, rounds):
    """Times in s per image of the trained models of the first seed, by backbone.

    The calls are interleaved, with a batch size of one and one held-out image per round. `rates` are the learning rates
    of the trainings.
    """
    init_default_scope(cfg.default_scope)
    data = list(zip(range(rounds), Runner.build_dataloader(dict(cfg.val_dataloader, batch_size=1), seed=0)))
    calls = {}
    for name, backbone in BACKBONES.items():
        model = MODELS.build(fit(cfg, *backbone).model)
        run_dir = folder / Path(run_of(task, name, 0, rates[name]).file).stem
        weights = run_dir / 'weights.pth'
        try:
            model.load_state_dict(read_checkpoint(weights))
        except UserError as error:
            problem = error if weights.exists() else f'{weights} is missing'
            raise UserError(f'{problem}. Delete {run_dir}.json to train this run again') from None
        images = iter([data[0], *data])  # the first image twice, because the first call is a warm-up
        calls[name] = partial(infer, model.eval(), images)
    with torch.no_grad():
        return times_in_turn(calls, len(data), lambda: None)


def infer(model, images):
    _, image = next(images)
    model.test_step(image)


def rows_of(records, rates, times):
    """Rows of the table, one per task and backbone, with the metrics of all seeds. `rates` and `times` (in s) have one
    entry per task and backbone."""
    rows = []
    for task, of_backbone in times.items():
        for name, seconds in of_backbone.items():
            rate, median = rates[task][name], statistics.median(seconds)
            mine = [record for record in records.values()
                    if (record['task'], record['variant'], record['rate']) == (task, name, rate)]
            rows.append(dict(
                task=task, variant=name, rate=f'{rate:g}', runs=len(mine), milliseconds=1e3 * median, images=1 / median,
                **{key: statistics.mean(record[key] for record in mine) for key in ('params', 'model', 'seconds')},
                **{title: [record[title] for record in mine] for _, title in TASKS[task][2].values()}))
    return rows


def as_text(row, key):
    value = row.get(key)
    if isinstance(value, list):
        return mean_and_spread(value)
    return '' if value is None else f"{value:.{dict(params=3, model=2, seconds=0).get(key, 1)}f}" if isinstance(
        value, float) else str(value)


def plot(rows):
    """Accuracy against time per image for each task: a dot for each seed, a line at the mean."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 4), layout='constrained')
    for axes, (task, key, title) in zip(figure.subplots(1, 2), (
            ('detection', 'box_ap', 'box AP'), ('segmentation', 'miou', 'mIoU'))):
        for row in (row for row in rows if row['task'] == task):
            dots, = axes.plot([row['milliseconds']] * len(row[key]), row[key], 'o', alpha=.6)
            axes.plot(row['milliseconds'], statistics.mean(row[key]), '_', ms=18, mew=2, color=dots.get_color())
            axes.annotate(row['variant'], (row['milliseconds'], statistics.mean(row[key])), xytext=(12, -3),
                          textcoords='offset points', color=dots.get_color())
        axes.set(xlabel='ms per image, whole model', ylabel=f'{title} (%)', title=task)
        axes.margins(x=.25, y=.15)
        axes.grid(alpha=.3)
    return figure
