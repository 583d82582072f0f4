"""The work of `stock_configs.py`: one process runs configs, and another one watches it."""
import hashlib
import json
import multiprocessing
import os
import random
import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mmmambavision.errors import UserError
from mmmambavision.terminal import show

SIZES = (128, 160), (512, 512)  # the second one is for models that need larger images
CHANNELS = {256: 16, 512: 32, 1024: 64, 2048: 128}  # channels of ResNet-50's maps: channels of the small MambaVision
BACKBONE = dict(type='MambaVision', arch=dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)))
REASONS = (  # status, and a pattern of the error
    ('has no model', r"'ConfigDict' object has no attribute 'model'"),
    ('needs compiled mmcv', r"mmcv's operator"),
    ('needs a package', r'No module named|ImportError|[Pp]lease (run|install)|is not installed|not available in timm'),
    ('needs a download', r'huggingface|URLError|Max retries|resolve host|LocalEntryNotFound|couldn.t connect'))


def run_all(args):
    """Run the configs that the arguments of stock_configs.py name, and print the table.

    Raises:
        UserError: no config matches.
    """
    jobs = [(package, name) for package in args.package for name in configs_of(package, args.families)
            if re.search(args.only, name)]
    if not jobs:
        raise UserError(f'no config of {" or ".join(args.package)} matches {args.only!r}')
    if args.sample:
        jobs = sorted(random.Random(args.seed).sample(jobs, min(args.sample, len(jobs))))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ('families.jsonl' if args.families else 'results.jsonl')
    known = {}
    if file.exists():
        known = {(record['package'], record['config']): record for record in map(json.loads, file.open())}
    of_model = {record.get('model'): record for record in known.values()}
    with file.open('a') as stream, Progress(console=Console(stderr=True)) as progress, Worker(args) as worker:
        for job in progress.track(jobs, description='configs'):
            if job not in known:
                model = hash_of_model(*job)
                if model not in of_model:
                    of_model[model] = worker.run(*job) | dict(model=model)
                known[job] = of_model[model] | dict(package=job[0], config=job[1])
                stream.write(json.dumps(known[job]) + '\n')
                stream.flush()
    print_tables([known[job] for job in jobs], args)


def folder_of(package):
    """The folder with the configs of an installed package, found without importing it."""
    return Path(find_spec(package).origin).parent / '.mim'


def configs_of(package, families):
    """Names of a package's configs; with `families`, the first ResNet-50 config of each family."""
    folder = folder_of(package) / 'configs'
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.py')
                   if path.relative_to(folder).parts[0] != '_base_' and '_base_' not in path.stem)
    if not families:
        return names
    first = {}
    for name in names:
        if re.search(r'r50|resnet50', name) and not re.search('dcn|openimages|caffe|tta|lsj', name):
            first.setdefault(name.partition('/')[0], name)
    return list(first.values())


def hash_of_model(package, name):
    """A hash of what `run_config` reads of a config. Many configs differ in the schedule alone, so they share a run."""
    try:
        cfg = load(package, name)
        read = [cfg.model.to_dict(), cfg.get('custom_imports'), cfg.get('default_scope', package)]
    except Exception:  # the run will say why
        read = [package, name]
    return hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest()


def load(package, name):
    from mmengine.config import Config
    cfg = Config.fromfile(folder_of(package) / 'configs' / name)
    without_weights(cfg.model)
    return cfg


class Worker:
    """One or two processes that run configs. They are started again after a crash or a config that takes too long."""

    def __init__(self, args):
        self.args = args
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()
        self.processes = []

    def start(self):
        spawn = multiprocessing.get_context('spawn')
        store = Path(tempfile.mkdtemp()) / 'store'
        self.connections, others = zip(*(spawn.Pipe() for _ in range(self.args.processes)))
        self.processes = [spawn.Process(target=serve, args=(there, rank, self.args.processes, store), daemon=True)
                          for rank, there in enumerate(others)]
        for process, there in zip(self.processes, others):
            process.start()
            there.close()

    def run(self, package, name):
        if not self.processes:
            self.start()
        record = dict(package=package, config=name, status='fails')
        try:
            for connection in self.connections:
                connection.send((package, name, self.args.families, self.args.seed))
            results = [connection.recv() for connection in self.connections if connection.poll(self.args.limit)]
            if len(results) == len(self.connections):
                return record | min(results, key=lambda result: result['status'] == 'works')  # a failure first
            record['reason'] = f'takes more than {self.args.limit} s'
        except (EOFError, ConnectionResetError):
            record['reason'] = 'the process ended, perhaps for lack of memory'
        self.__exit__()
        return record


def serve(connection, rank, processes, store):
    """Run the configs that come through a connection, one after another, and send their results back.

    Args:
        connection: a connection of multiprocessing.
        rank: number of this process.
        processes: number of processes. Two or more train with DistributedDataParallel and gloo.
        store: path of a file that does not exist yet, through which the processes find each other.
    """
    import torch
    from mmengine.logging import MessageHub, MMLogger

    import mmmambavision.openmmlab  # noqa: F401  (it provides mmcv's operators)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD reads it
    os.environ['HF_HUB_OFFLINE'] = '1'
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if processes > 1:
        torch.distributed.init_process_group('gloo', f'file://{store}', rank=rank, world_size=processes)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        os.chdir(folder_of(job[0]))  # configs name teachers relative to this folder
        begin = time.time()
        for size in SIZES:
            result = attempt(*job, size)
            if result['status'] != 'fails':
                break
        connection.send(result | dict(size=size, seconds=round(time.time() - begin, 1)))


def attempt(package, name, families, seed, size):
    """Run one config at an image size. Returns its status, the reason of a failure, and its losses."""
    try:
        try:
            losses = run_config(package, name, families, seed, size)
        except FloatingPointError:  # some deep models need their own initialization
            losses = run_config(package, name, families, seed, size, initialize=True)
        return dict(status='works', losses=losses)
    except Exception as error:
        text = f'{type(error).__name__}: {error}'
        status = next((status for status, pattern in REASONS if re.search(pattern, text)), 'fails')
        where = traceback.extract_tb(error.__traceback__)[-1]
        return dict(status=status, reason=text.strip().splitlines()[0][:200], where=f'{where.filename}:{where.lineno}')


def run_config(package, name, families, seed, size, initialize=False):
    """Build the model of a config, compute its losses and a prediction, and return the losses.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    import torch
    from mmengine.registry import MODELS, init_default_scope
    cfg = load(package, name)
    init_default_scope(cfg.get('default_scope', package))
    if cfg.get('custom_imports'):
        from mmengine.utils import import_modules_from_strings
        import_modules_from_strings(**cfg.custom_imports)
    if families:
        put_mambavision(cfg.model)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    if initialize or re.search('DINO|DETR|Former|Grounding|QueryInst|SparseRCNN', str(cfg.model.type)):
        model.init_weights()  # it takes long; other models have no parameters of uninitialized memory
    make = detection_inputs if package == 'mmdet' else segmentation_inputs
    classes = smallest_classes(cfg.model)
    losses = {}
    torch.manual_seed(seed)
    if not cfg.model.type.endswith(('SORT', 'ByteTrack')):  # only the detector of a tracker has losses
        model.train()
        data = model.data_preprocessor(make(cfg, size, classes, training=True), True)
        trained, runs = model, 1
        if torch.distributed.is_initialized():
            trained, runs = distributed(model, cfg), 2  # the second run fails if parameters had no gradient
        with torch.set_grad_enabled(families):
            for _ in range(runs - 1):
                model.parse_losses(trained(**data, mode='loss'))[0].backward()
            total, found = model.parse_losses(trained(**data, mode='loss'))
        if not total.isfinite():
            raise FloatingPointError(f'the loss is {total.item()}')
        if families:
            check_gradients(model, total)
        losses = {key: value.item() for key, value in found.items() if 'loss' in key}
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(make(cfg, size, classes, training=False), False)
        model(**data, mode='predict')
    return losses


def distributed(model, cfg):
    """The model with mmengine's DistributedDataParallel, as its runner wraps it."""
    from mmengine.model import MMDistributedDataParallel
    return MMDistributedDataParallel(
        model, broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))


def check_gradients(model, loss):
    """Check that all parameters of the backbone have gradients, which are equal in all processes."""
    import torch
    from torch import distributed
    loss.backward()
    backbone = getattr(model, 'detector', model).backbone
    if missing := [name for name, p in backbone.named_parameters() if p.grad is None]:
        raise ValueError(f'{len(missing)} parameters of the backbone have no gradient, for example {missing[0]}')
    if distributed.is_initialized():
        norms = torch.stack([p.grad.norm() for p in backbone.parameters()])
        largest = norms.clone()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        if not torch.equal(norms, largest):
            raise ValueError('the gradients of the processes differ')


def without_weights(part):
    """Remove what loads weights or needs GPUs from a config, in place."""
    if isinstance(part, dict):
        for key, value in part.items():
            if (key == 'init_cfg' and 'Pretrained' in str(value)) or key in ('teacher_ckpt', 'text_encoder_pretrained'):
                part[key] = None
            elif key == 'pretrained':
                part[key] = False if isinstance(value, bool) else None
            elif key == 'use_syncbn':
                part[key] = False
            elif key == 'type' and value in ('SyncBN', 'MMSyncBN'):
                part[key] = 'BN'
            else:
                without_weights(value)
        if part.get('type') == 'RTMDet':
            part['use_syncbn'] = False
    elif isinstance(part, (list, tuple)):
        for value in part:
            without_weights(value)


def put_mambavision(model):
    """Put a small MambaVision in place of a model's ResNet-50, and set the channels that follow from it."""
    target = model.get('detector', model)
    out_indices = tuple(target.backbone.get('out_indices', (0, 1, 2, 3)))
    if max(out_indices) == 4:  # timm counts its stem
        out_indices = tuple(index - 1 for index in out_indices)
    target.backbone = type(target.backbone)(BACKBONE, out_indices=out_indices)
    necks = target.get('neck') or []
    first = next(iter(necks if isinstance(necks, list) else [necks]), {})
    if 'in_channels' in first:  # the channels of all later layers are the neck's
        set_channels(first)
        return
    for key in ('decode_head', 'auxiliary_head', 'bbox_head', 'panoptic_head', 'track_head', 'head'):
        heads = target.get(key) or []
        for head in heads if isinstance(heads, list) else [heads]:
            set_channels(head)


def set_channels(part):
    if 'kernel_generate_head' in part:  # K-Net
        set_channels(part.kernel_generate_head)
    for key in ('in_channels', 'c1_in_channels'):
        value = part.get(key)
        if isinstance(value, int):
            part[key] = CHANNELS.get(value, value)
        elif value is not None:
            part[key] = [CHANNELS.get(channels, channels) for channels in value]


def smallest_classes(part):
    """The smallest `num_classes` in a config, so that labels fit every head."""
    found = [80]
    if isinstance(part, dict):
        found += [value for key, value in part.items() if key == 'num_classes' and isinstance(value, int)]
        found += [smallest_classes(value) for value in part.values()]
    elif isinstance(part, (list, tuple)):
        found += [smallest_classes(value) for value in part]
    return max(1, min(found))


def detection_inputs(cfg, size, classes, training):
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs
    shape = (3, *size)
    if cfg.model.get('data_preprocessor', {}).get('type') == 'TrackDataPreprocessor':
        return demo_track_inputs(1, 2, [0], [shape], num_classes=classes + 1, with_mask=True)
    number = 2 if training else 1
    text = str(cfg.model)
    strides = 8 if 'FusedSemanticHead' in text else 1
    data = demo_mm_inputs(number, [shape] * number, num_items=[3] * number, num_classes=max(2, classes),
                          with_mask=True, with_semantic=True, sem_seg_output_strides=strides,
                          texts=['a cat . a dog .'] * number if 'Grounding' in text or 'GLIP' in text else None)
    for sample, proposals in zip(data['data_samples'], demo_mm_proposals([shape] * number, 20)):
        sample.gt_instances.labels.clamp_(max=classes - 1)
        if cfg.model.type not in ('QueryInst', 'SparseRCNN'):  # these learn their proposals
            sample.proposals = proposals
    if training and cfg.model.get('data_preprocessor', {}).get('type') == 'MultiBranchDataPreprocessor':
        branches = 'sup', 'unsup_teacher', 'unsup_student'
        return {key: {branch: value for branch in branches} for key, value in data.items()}
    return data


def segmentation_inputs(cfg, size, classes, training):
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    height, width = size
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1., 1.), flip=False)
    channels = len(cfg.model.data_preprocessor.get('mean') or (0, 0, 0))
    inputs, samples = [], []
    for _ in range(2 if training else 1):
        sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=torch.randint(0, classes, (1, height, width))))
        sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, height, width)))
        sample.gt_depth_map = PixelData(data=torch.rand(1, height, width))
        samples.append(sample)
        inputs.append(torch.randint(0, 256, (channels, height, width), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def print_tables(records, args):
    """Print the counts, and each config that does not work with its reason."""
    statuses = ['works', *(status for status, _ in REASONS), 'fails']
    counts = Counter((record['package'], record['status']) for record in records)
    show(['package', 'configs', *statuses],
         [[package, str(sum(counts[package, status] for status in statuses)),
           *(str(counts[package, status]) for status in statuses)] for package in args.package], args.markdown)
    if bad := [record for record in records if record['status'] != 'works']:
        show(['config', 'status', 'reason'],
             [[f"{record['package']}/{record['config']}", record['status'], record['reason'].replace('|', '/')]
              for record in bad], args.markdown)
