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

# file: name of its record; variant: what is compared; settings: what its training takes beside the seed.
Run = namedtuple('Run', 'file variant seed settings')


def draw_data(shapes, folder):
    """The data set that these options of make_shapes_dataset.py describe, drawn once; another lies beside it.

    Returns:
        Its folder.
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
        folder: where they are; it is made.
        names: files that the study has in the end.
        budget: text that is the same for runs that can be compared.

    Raises:
        UserError: some have another budget, or are damaged, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # fail before a training, not after it
            pass
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}') from None
    records = {name: read(folder / name) for name in names if (folder / name).exists()}
    if any(record['budget'] != budget for record in records.values()):
        raise UserError(f'{folder} holds runs of another config: --work-dir NEW_FOLDER leaves them alone')
    return records


def read(path):
    """Read a record. Raises UserError if the file is not a record."""
    try:
        record = json.loads(path.read_text())
        return {**record, 'budget': record['budget'], 'seconds': float(record['seconds'])}
    except (ValueError, TypeError, KeyError):
        raise UserError(f'{path} is damaged: without the file, its run is trained again') from None


def write(path, record):
    """Write a record atomically."""
    unfinished = path.with_suffix('.part')
    unfinished.write_text(json.dumps(record))
    unfinished.rename(path)


def run_all(runs, records, folder, title, budget, steps, train):
    """Train the missing runs and add them to the records.

    Args:
        runs: list of Run.
        records: of those that are done, by file name.
        folder: of records and logs.
        title: of the progress bar.
        budget: text that is the same for runs that can be compared.
        steps: a run's number of iterations: a function of it.
        train: (run, work dir, function to call after each iteration) to the record, a dict.
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
                f'{done} of {len(runs)} runs are done; the same command goes on with the others') from None


def mean_and_spread(values):
    """Mean and standard deviation over seeds, as text."""
    spread = f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'
