"""The studies of `ablation.py`: runs, table and plot."""
import json
import statistics
from pathlib import Path

from mmengine.config import Config

from mmmambavision.errors import UserError
from mmmambavision.models.variants import MIXERS, PATTERNS

from .ablation_training import parameters, train_and_evaluate
from .measure import report
from .runs import Run, draw_data, finished, mean_and_spread, run_all

BUDGET = Path(__file__).parents[1] / 'ablation_config.py'
# For levels 2 and 3. Their maps are 8x8 and 4x4 at the training size, and 16x16 and 8x8 at twice this size.
WINDOWS = {'whole map': None, 'padded': (12, 6), 'balanced': ('balanced', 6), 'pretraining': (4, 2)}
STUDIES = {
    'mixer': {name: dict(arch=dict(mixer=name)) for name in MIXERS},
    'mixer_alone': {name: dict(arch=dict(mixer=name, pattern='all_m')) for name in MIXERS},  # without self-attention
    'pattern': {name: dict(arch=dict(pattern=name)) for name in (*PATTERNS, 'random:SEED')},
    'windows': {name: dict(window_size=window) for name, window in WINDOWS.items()},
}
COIN_TOSS = 100 / 3  # IoU of a random choice between two labels, on perfectly segmented shapes
COLUMNS = dict(
    variant='variant', window='evaluated with', params='backbone M', flops='its FLOPs G', runs='runs',
    plain='plain IoU', context='context IoU', plain_x2='plain, twice the size', context_x2='context, twice the size',
    seconds='s / run')


def compare(args):
    """Run the study with the arguments of ablation.py, and print its table.

    Raises:
        UserError: the config does not inherit from ablation_config.py.
    """
    cfg = Config.fromfile(args.config)
    if 'shapes' not in cfg:
        raise UserError(f'{args.config} is not a config for this command. Begin it with _base_ = {str(BUDGET)!r}')
    folder = args.work_dir / args.study
    runs = list(plan(cfg, args.study, args.seeds))
    budget = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    records = finished(folder, [entry.file for entry in runs], budget)
    data = draw_data(dict(cfg.shapes, task='context'), args.work_dir / 'data')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data / 'ade')
    windows = WINDOWS if args.study == 'windows' else None
    run_all(runs, records, folder, args.study, budget, lambda _: cfg.train_cfg.max_iters,
            lambda entry, *others: train_and_evaluate(cfg, entry.settings, entry.seed, windows, *others))
    rows = rows_of(records, args.study)
    report(rows, COLUMNS, as_text, args.markdown, args.work_dir / f'{args.study}.csv')
    picture = args.work_dir / f'{args.study}.png'
    plot(rows, args.study).savefig(picture, dpi=120)
    minutes = sum(record['seconds'] for record in records.values()) / 60
    print(f'mean ± standard deviation over seeds; {len(runs)} runs in {minutes:.0f} minutes; plot: {picture}, '
          f"table: {picture.with_suffix('.csv')}")


def with_parameters(arch, wanted):
    """`arch` with the MLP ratio that gives the wanted number of parameters."""
    widths = [arch['dim'] * 2 ** level for level in (2, 3)]
    each = sum(depth * (2 * width ** 2 + width) for depth, width in zip(arch['depths'][2:], widths))
    ratio = arch.get('mlp_ratio', 4.)
    return {**arch, 'mlp_ratio': ratio + (wanted - parameters(arch)) / each}


def plan(cfg, study, seeds):
    """Yield the runs of a study, seed by seed. Their settings are the backbone's arguments."""
    arch = cfg.model.backbone.arch.to_dict()
    wanted = parameters(arch)
    for seed in range(seeds):
        for variant, change in STUDIES[study].items():
            named = {key: value.replace('SEED', str(seed)) for key, value in change.get('arch', {}).items()}
            backbone = {**change, 'arch': with_parameters({**arch, **named}, wanted) if named else arch}
            yield Run(f"{variant.replace(' ', '_').replace(':SEED', '')}_seed{seed}.json", variant, seed, backbone)


def rows_of(records, study):
    """Rows of the table, with the values of all seeds: one row per variant. In the study of windows, one row per pair
    of training windows and evaluation windows."""
    rows = []
    for variant in STUDIES[study]:
        mine = [record for record in records.values() if record['variant'] == variant]
        for window in WINDOWS if study == 'windows' else (None,):
            row = dict(variant=variant, window=window, runs=len(mine), **{
                key: statistics.mean(record[key] for record in mine) for key in ('params', 'flops', 'seconds')})
            for scale, suffix in ((1, ''), (2, '_x2')):
                for kind in ('plain', 'context'):
                    values = [found[kind] for record in mine for found in record['evaluations']
                              if (found['window'], found['scale']) == (window, scale)]
                    row[kind + suffix] = values or None
            rows.append(row)
    return rows


def as_text(row, key):
    value = row[key]
    if isinstance(value, list):
        return mean_and_spread(value)
    return f'{value:.0f}' if key == 'seconds' else f'{value:.3f}' if isinstance(value, float) else str(value)


def plot(rows, study):
    """A dot for each seed, a line at the mean, and a line for a random choice."""
    from matplotlib.figure import Figure
    keys = ('context', 'context_x2') if study == 'windows' else ('plain', 'context')
    figure = Figure(figsize=(11, 1.4 + .3 * len(rows)), layout='constrained')
    labels = [row['variant'] + (f", evaluated: {row['window']}" if row['window'] else '') for row in rows]
    for axes, key in zip(figure.subplots(1, 2, sharey=True), keys):
        for place, row in enumerate(rows):
            axes.plot(row[key], [place] * len(row[key]), 'o', color='tab:blue', alpha=.6)
            axes.plot([statistics.mean(row[key])] * 2, [place - .3, place + .3], color='black')
        if 'context' in key:
            axes.axvline(COIN_TOSS, color='grey', ls=':')
            axes.set_title('dotted: random labels', fontsize=8)
        axes.set(xlabel=f'{COLUMNS[key]} (%)', xlim=(0, 100), yticks=range(len(rows)), yticklabels=labels)
        axes.grid(alpha=.3)
    figure.axes[0].invert_yaxis()
    return figure
