"""Estimated memory of a training step: against what a step allocates, and against sizes that are known."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmambavision.cli.memory import main
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.configs import load_config, replace_type
from mmmambavision.openmmlab.memory import estimate

from ..helpers.data import DETECTOR, SEGMENTOR
from ..helpers.process import ROOT

SIZE = 256, 256


def config(path=SEGMENTOR, **settings):
    cfg = load_config(str(ROOT / path), {key.replace('__', '.'): value for key, value in settings.items()})
    init_default_scope(cfg.default_scope)
    replace_type(cfg.model, 'SyncBN', 'BN')
    return cfg


def allocated(cfg, batch, size):
    """Peak of the bytes of a training step with the model's own loss, by torch's allocator, parameters included."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    images, samples = torch.randn(batch, 3, *size), []
    for _ in range(batch):
        samples.append(SegDataSample(metainfo=dict(img_shape=size)))
        samples[-1].gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, *size)))

    def step():
        model.parse_losses(model(images, samples, mode='loss'))[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True,
                                acc_events=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak + 3 * sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_training_step_allocates_as_much(with_cp):
    cfg = config(model__backbone__with_cp=with_cp)
    measured = allocated(cfg, 2, SIZE)
    assert estimate(cfg, 2, SIZE, on_gpu=False).peak == pytest.approx(measured, rel=.1)


def test_parameters_gradients_and_states():
    cfg = config(model__backbone__frozen_stages=2)
    model = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    memory = estimate(cfg, 2, SIZE)
    assert memory.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.gradients == sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    assert memory.states == 2 * memory.gradients
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=.1)
    assert estimate(cfg, 2, SIZE).states == 0


@pytest.mark.parametrize('path', [SEGMENTOR, DETECTOR])
def test_what_saves_memory(path):
    plain, whole = config(path), estimate(config(path), 2, SIZE)
    recomputed = estimate(config(path, model__backbone__with_cp=True), 2, SIZE)
    half = estimate(plain, 2, SIZE, torch.bfloat16)
    assert max(recomputed.activations, half.activations) < .9 * whole.activations
    sharded = estimate(plain, 2, SIZE, processes=4)
    assert sharded.parameters == whole.parameters / 4 and sharded.activations == whole.activations
    twice = estimate(plain, 4, SIZE)
    assert twice.activations == pytest.approx(2 * whole.activations, rel=.02)


def test_scans_keep_what_the_kernels_of_a_gpu_keep():
    """States of all chunks of 3 steps, 8 states of each channel in float32; on a CPU, of fewer."""
    cfg = config()
    assert estimate(cfg, 2, SIZE).activations > estimate(cfg, 2, SIZE, on_gpu=False).activations


def test_the_table(capsys):
    main([str(ROOT / SEGMENTOR), '--batch', '1', '--size', '256', '320', '--amp', '--cp', '--fsdp', '2', '--markdown'])
    *_, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[:4] == ['upernet_mambavision_demo', '16 bits', '1', '256x320'] and len(cells) == 13
    assert 0 < float(cells[8]) < 1 and 0 < int(cells[9]) < int(cells[10]) < int(cells[11]) < int(cells[12])


@pytest.mark.parametrize('name', ['dino_mambavision_t_1x', 'mask2former_mambavision_t'])
def test_transformers_are_refused(name):
    with pytest.raises(UserError, match='transformer'):
        estimate(config(f'configs/{name}.py'), 2, SIZE)
