"""Predict on images and videos, or open a web page for predictions."""
import sys

from rich.console import Console
from rich.progress import Progress

from ...openmmlab.configs import load_config
from ...openmmlab.machine import fit_to_machine
from ...openmmlab.predict.inputs import UnreadableError, find_inputs, frames_of, number_of_frames, warn_of_deep_images
from ...openmmlab.predict.predictor import Predictor
from ...openmmlab.predict.results import Results
from ..arguments import device_of, settings_of


def predict(args):
    """Predict with the arguments of cli/predict.py."""
    device = device_of(args.device)
    inputs = find_inputs(args.inputs)
    cfg = load_config(args.config, settings_of(args.cfg_options))
    results = Results(args.out, inputs, args.json, cfg.get('default_scope') == 'mmseg')
    fit_to_machine(cfg)
    predictor = Predictor(cfg, args.checkpoint, device, args.threshold, args.slice or 0, args.overlap)
    if args.web:
        from ...openmmlab.predict.web import serve
        return serve(predictor)
    if predictor.colour != 'unchanged':
        warn_of_deep_images(inputs)
    unreadable = []
    with Progress(console=Console(stderr=True)) as progress, results:
        task = progress.add_task('predicting', total=sum(map(number_of_frames, inputs)))
        for source in inputs:
            try:
                for frame in frames_of(source, predictor.colour):
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
