"""Runs of training experiments. Each finished run is a file, so an interrupted study resumes with the missing runs."""
import json
import statistics
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmmambavision.errors import UserError

# file: name of the run's record; variant: name in the table; settings: arguments of the training besides the seed.
Run = namedtuple('Run', 'file variant seed settings')


def draw_data(shapes, folder):
    """Draw a data set with these options of make_shapes_dataset.py, unless it exists. Every set of options has its own
    folder.

    Returns:
        The folder of the data set.
    """
    folder = folder / '_'.join(f'{key}{value}' for key, value in sorted(shapes.items()))
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    options = [f'--{key}={value}' for key, value in shapes.items()]
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        script = Path(__file__).parents[2] / 'demo' / 'make_shapes_dataset.py'
        subprocess.run([sys.executable, str(script), f'{unfinished}/data', *options], check=True,
                       stdout=subprocess.DEVNULL)
        try:
            Path(unfinished, 'data').rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process has drawn the same data
                raise
    print(f'drawn: {folder}')
    return folder


def finished(folder, names, budget):
    """The records of finished runs, by file name.

    Args:
        folder: folder of the records. It is created if necessary.
        names: file names of all runs of the study.
        budget: the training config as text. Only runs with the same text can be compared.

    Raises:
        UserError: a record has another budget or is damaged, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # fail before the first training
            pass
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}') from None
    records = {name: read(folder / name) for name in names if (folder / name).exists()}
    if any(record['budget'] != budget for record in records.values()):
        raise UserError(f'{folder} contains runs of another config. Use another folder: --work-dir NEW_FOLDER')
    return records


def read(path):
    """Read a record. Raises UserError if the file is not a record."""
    try:
        record = json.loads(path.read_text())
        return {**record, 'budget': record['budget'], 'seconds': float(record['seconds'])}
    except (ValueError, TypeError, KeyError):
        raise UserError(f'{path} is damaged. Delete it to train this run again') from None


def write(path, record):
    """Write a record atomically."""
    unfinished = path.with_suffix('.part')
    unfinished.write_text(json.dumps(record))
    unfinished.rename(path)


def run_all(runs, records, folder, title, budget, steps, train):
    """Train the missing runs and add them to the records.

    Args:
        runs: list of Run.
        records: records of the finished runs, by file name.
        folder: folder of records and logs.
        title: title of the progress bar.
        budget: see `finished`.
        steps: function from a run to its number of iterations.
        train: function from (run, work dir, function to call after each iteration) to the record, a dict.
    """
    todo = [run for run in runs if run.file not in records]
    seconds = [record['seconds'] for record in records.values()]
    print(f'{title}: {len(runs)} runs, {len(runs) - len(todo)} done'
          + (f'; {len(todo)} to do, about {statistics.mean(seconds) * len(todo) / 60:.0f} minutes'
             if seconds and todo else ''), flush=True)
    columns = (TextColumn('{task.description}'), BarColumn(), TextColumn('{task.percentage:.0f}%'), TimeElapsedColumn(),
               TextColumn('left:'), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as progress:
        task = progress.add_task(title, total=sum(map(steps, todo)))
        try:
            for run in todo:
                progress.update(task, description=f'{title}: {run.variant}, seed {run.seed}')
                record = train(run, folder / Path(run.file).stem, lambda: progress.advance(task))
                records[run.file] = dict(record, variant=run.variant, seed=run.seed, budget=budget)
                write(folder / run.file, records[run.file])
        except KeyboardInterrupt:
            done = sum(run.file in records for run in runs)
            raise KeyboardInterrupt(
                f'{done} of {len(runs)} runs are done. To train the other runs, run the same command again') from None


def mean_and_spread(values):
    """Mean and standard deviation over seeds, as text."""
    spread = f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'
