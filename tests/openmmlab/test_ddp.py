"""Training in two processes with DistributedDataParallel: all recipes, and options of DDP and mmengine."""
import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.testing import demo_mm_inputs
from mmengine.hooks import SyncBuffersHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.nn.parallel import DistributedDataParallel

from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.presets import PRESETS

from ..helpers.data import parts, recipe, tiny_segmentor
from ..helpers.nets import nano
from ..helpers.process import ROOT, free_port, ranks
from .test_recipes import make_small

PROCESSES, STEPS, SIDE = 2, 3, 128


def data(step):
    """Eight images, four for each process."""
    return torch.randn(8, 3, 48, 64, generator=torch.Generator().manual_seed(step)).chunk(PROCESSES)[dist.get_rank()]


def network(**options):
    torch.manual_seed(0)
    return nano(scan_backend='cpu', **options).train()


def train(model, count=1):
    """Losses of all updates, and the weights. Each update has `count` backward passes with a part of the batch."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), .02, momentum=.9), accumulative_counts=count)
    losses = []
    for step in range(STEPS):
        parts = []
        for images in data(step).chunk(count):
            with wrapper.optim_context(model):
                loss = sum((output - 1).square().mean() for output in model(images))
            wrapper.update_params(loss)
            parts.append(loss.detach())
        losses.append(torch.stack(parts).mean())
    return torch.stack(losses), {name: value.clone() for name, value in model.state_dict().items()}


def train_all():
    """Results of `train` by what is compared."""
    frozen = dict(norm_eval=True)  # statistics of a batch are not those of its parts
    results = dict(
        plain=train(DistributedDataParallel(network())),
        static=train(DistributedDataParallel(network(), static_graph=True)),
        static_cp=train(DistributedDataParallel(network(with_cp=True), static_graph=True)),
        compiled=train(torch.compile(DistributedDataParallel(network()), backend='aot_eager')),
        whole=train(DistributedDataParallel(network(**frozen))),
        accumulated=train(DistributedDataParallel(network(**frozen)), count=2))
    model = DistributedDataParallel(network(), broadcast_buffers=False)  # as in mmengine
    train(model)
    results['own_buffers'] = {name: value.clone() for name, value in model.named_buffers()}
    SyncBuffersHook().after_train_epoch(SimpleNamespace(model=model))
    results['buffers'] = dict(model.named_buffers())
    return results


def inputs_of(cfg):
    """A batch of a process, before the data preprocessor."""
    if cfg.default_scope == 'mmdet':
        return demo_mm_inputs(2, [[3, SIDE, SIDE]] * 2, num_classes=4, with_mask=True)
    samples = [SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))) for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, SIDE, SIDE)))
    return dict(inputs=list(torch.randint(0, 255, (2, 3, SIDE, SIDE))), data_samples=samples)


def train_recipe(cfg):
    """The names of parameters without gradients after two steps, which DDP would stop at."""
    init_default_scope(cfg.default_scope)
    MMLogger.get_current_instance().setLevel('ERROR')  # each initial weight is a line
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = MMDistributedDataParallel(model.train(), device_ids=None, find_unused_parameters=False)
    torch.manual_seed(dist.get_rank())
    for _ in range(2):
        model.zero_grad()
        batch = model.module.data_preprocessor(inputs_of(cfg), False)  # without the augmentations of training
        loss, _ = model.module.parse_losses(model(**batch, mode='loss'))
        assert loss.isfinite()
        loss.backward()
    return [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


def small_recipes():
    """Config by name. Recipes that differ only in the size of the backbone or in the schedule are one."""
    known = {}
    for path in sorted((ROOT / 'configs').glob('*.py')):
        cfg = recipe(path.stem)
        dim = cfg.model.backbone.arch['dim'] if isinstance(cfg.model.backbone.arch, dict) else (
            PRESETS[cfg.model.backbone.arch]['dim'])
        for part in parts(cfg.model):
            if isinstance(part.get('in_channels'), list):
                part.in_channels = [width * 80 // dim for width in part.in_channels]  # as `make_small` expects
        if 'auxiliary_head' in cfg.model:
            cfg.model.auxiliary_head.in_channels = 320
        make_small(cfg, 1)
        fit_to_machine(cfg)
        cfg.model.backbone.init_cfg = None
        known.setdefault(str(cfg.model), (path.stem, cfg))
    return dict(known.values())


def in_two_processes(rank, port, function, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=PROCESSES)
    torch.save(function(), folder / f'{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # without it, a process sometimes aborts when torch's threads end (torch 2.11)


def results_of(function, folder):
    mp.spawn(in_two_processes, (free_port(), function, folder), PROCESSES)
    return [torch.load(folder / f'{rank}.pth') for rank in range(PROCESSES)]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    return results_of(train_all, tmp_path_factory.mktemp('ddp'))


@pytest.mark.slow
@pytest.mark.parametrize('name, reference', [
    ('static', 'plain'), ('static_cp', 'plain'), ('compiled', 'plain'), ('accumulated', 'whole')])
def test_options_of_ddp(name, reference, trained):
    """A static graph, torch.compile, and two backward passes for each update train as without them."""
    for results in trained:
        losses, weights = results[name]
        expected_losses, expected_weights = results[reference]
        torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=0)
        for (key, value), (_, expected) in zip(weights.items(), expected_weights.items(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=key)
        assert losses[-1] < losses[0]


@pytest.mark.slow
def test_buffers_of_batch_norms(trained):
    """Each process has its own statistics, until mmengine's SyncBuffersHook averages them."""
    first, second = trained
    means = [name for name in first['buffers'] if name.endswith('running_mean')]
    assert means and not any(torch.equal(first['own_buffers'][name], second['own_buffers'][name]) for name in means)
    for name in means:
        mean = (first['own_buffers'][name] + second['own_buffers'][name]) / 2
        torch.testing.assert_close(first['buffers'][name], mean, msg=name)
    for name, value in first['buffers'].items():
        assert torch.equal(value, second['buffers'][name]), name


def train_recipes():
    return {name: train_recipe(cfg) for name, cfg in small_recipes().items()}


@pytest.mark.full
def test_each_parameter_of_each_recipe_has_a_gradient(tmp_path):
    for results in results_of(train_recipes, tmp_path):
        assert len(results) > 10 and not any(results.values()), results


@pytest.mark.slow
def test_exponential_moving_average(tmp_path):
    """The averaged weights of the checkpoints follow the definition."""
    config = tiny_segmentor(tmp_path, iterations=3, every=1)
    config.write_text(config.read_text() + "custom_hooks = [dict(type='EMAHook', momentum=.25)]\n")
    for process in ranks(config, tmp_path / 'work_dir'):
        process.ends(0, 180)
    states = [torch.load(tmp_path / f'work_dir/iter_{number}.pth', weights_only=False) for number in (1, 2, 3)]
    averages, weights = ([{name.removeprefix('module.'): value for name, value in state[key].items()}
                          for state in states] for key in ('state_dict', 'ema_state_dict'))
    for before, after, own in zip(averages, averages[1:], weights[1:]):
        for name, value in after.items():
            if value.is_floating_point() and 'running' not in name:
                torch.testing.assert_close(value, .75 * before[name] + .25 * own[name], msg=name)
    assert any(not torch.equal(value, weights[-1][name]) for name, value in averages[-1].items())
