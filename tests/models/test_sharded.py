"""Parameters whose memory comes and goes: sharded training in two processes, freed storages, functional calls."""
import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from mmmambavision.models.blocks import ConvBlock, HybridBlock

from ..helpers.nets import nano
from ..helpers.process import free_port

STEPS, PROCESSES = 10, 2
FULL = StateDictOptions(full_state_dict=True)  # with cpu_offload, FSDP1 of torch 2.11 crashes on a CPU


def data(step):
    """Four images, two for each process."""
    return torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(step))


def loss_of(outputs):
    return sum((output.float() - 1).square().mean() for output in outputs)


def network(**options):
    torch.manual_seed(0)
    return nano(scan_backend='cpu', **options).train()


def wrapped(kind, model, bfloat16):
    if kind == 'ddp':
        return DistributedDataParallel(model)
    if kind == 'fsdp1':
        return FullyShardedDataParallel(
            model, sharding_strategy=ShardingStrategy.FULL_SHARD, use_orig_params=True, device_id=torch.device('cpu'),
            auto_wrap_policy=ModuleWrapPolicy({ConvBlock, HybridBlock}),
            mixed_precision=MixedPrecision(torch.bfloat16, torch.float32) if bfloat16 else None)
    if kind != 'whole':
        for module in [module for module in model.modules() if isinstance(module, (ConvBlock, HybridBlock))]:
            # A policy only for blocks without batch norms, which need parameters in the type of their statistics.
            half = kind == 'policy' and isinstance(module, HybridBlock)
            fully_shard(module, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
                        if half else MixedPrecisionPolicy())
    return fully_shard(model)


def train(model, images_of, autocast=False):
    optimizer = torch.optim.SGD(model.parameters(), .02, momentum=.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = loss_of(model(images_of(step)))
        loss.backward()
        if isinstance(model, FullyShardedDataParallel):
            model.clip_grad_norm_(1.)
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def run_cases(rank, port, cases, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=PROCESSES)
    results = {}
    for kind, with_cp, bfloat16, norm_eval in cases:
        model = wrapped(kind, network(with_cp=with_cp, norm_eval=norm_eval), bfloat16)
        losses = train(model, lambda step: data(step).chunk(PROCESSES)[rank], bfloat16 and kind in ('blocks', 'whole'))
        dist.all_reduce(losses)
        weights = get_model_state_dict(model, options=FULL)
        if rank == 0:
            results[kind, with_cp, bfloat16, norm_eval] = losses / PROCESSES, weights
        if norm_eval:
            dcp.save(get_model_state_dict(model), checkpoint_id=folder / 'shards')
            other = wrapped('whole', nano(scan_backend='cpu'), False)
            set_model_state_dict(other, copy.copy(weights), options=StateDictOptions(
                full_state_dict=True, broadcast_from_rank0=True))
            again = get_model_state_dict(other, options=FULL)
            if rank == 0:
                results['reloaded'] = again
    if rank == 0:
        torch.save(results, folder / 'results.pth')
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # without it, a process sometimes aborts when torch's threads end (torch 2.11)


KINDS = ('blocks', 'whole', 'fsdp1')
CASES = [(kind, with_cp, bfloat16, False) for kind in ('ddp', *KINDS) for with_cp in (False, True)
         for bfloat16 in ((False,) if kind == 'ddp' else (False, True))]
CASES += [('policy', False, True, False), ('blocks', False, False, True)]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Losses and whole weights of each case, all trained in the same two processes, and the folder of a checkpoint."""
    folder = tmp_path_factory.mktemp('sharded')
    mp.spawn(run_cases, (free_port(), CASES, folder), PROCESSES)
    return torch.load(folder / 'results.pth'), folder


def assert_same(actual, expected, tolerance):
    (losses, weights), (expected_losses, expected_weights) = actual, expected
    torch.testing.assert_close(losses, expected_losses, rtol=tolerance, atol=0)
    assert losses[-1] < .98 * losses[0] and weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        difference = (weights[name].float() - value.float()).norm()
        if name.endswith(('conv1.bias', 'conv2.bias')):  # before a batch norm: the gradient is rounding
            assert difference < 100 * tolerance, name
        else:
            assert difference <= tolerance * max(value.float().norm(), 1), name


@pytest.mark.full
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_two_processes_with_shards_and_without(kind, with_cp, trained):
    assert_same(trained[0][kind, with_cp, False, False], trained[0]['ddp', with_cp, False, False], 1e-5)


@pytest.mark.full
@pytest.mark.parametrize('kind, with_cp', [(kind, with_cp) for kind, with_cp, bfloat16, _ in CASES if bfloat16])
def test_bfloat16(kind, with_cp, trained):
    """Against float32, to a hundredth: bfloat16 has a precision of 1 / 256."""
    assert_same(trained[0][kind, with_cp, True, False], trained[0]['ddp', with_cp, False, False], 1e-2)


@pytest.mark.full
def test_one_process(trained):
    """With batch norms in eval mode, where the images of the other process do not count."""
    model = network(norm_eval=True)
    losses = train(model, data)
    assert_same(trained[0]['blocks', False, False, True], (losses, model.state_dict()), 1e-5)


@pytest.mark.full
def test_state_dicts_in_another_number_of_processes(trained):
    results, folder = trained
    _, weights = results['blocks', False, False, True]
    for name, value in results['reloaded'].items():
        assert torch.equal(value, weights[name]), name
    model = nano()
    model.load_state_dict(weights)
    one = nano()
    state = one.state_dict()
    dcp.load(state, checkpoint_id=folder / 'shards', no_dist=True)
    one.load_state_dict(state)
    for a, b in zip(model.eval()(data(0)), one.eval()(data(0)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('with_cp', [False, True])
def test_storages_of_all_parameters_can_be_freed_after_a_step(with_cp):
    """And the gradients do not depend on it: nothing of ours keeps memory of a parameter."""
    model = network(with_cp=with_cp)
    outputs = model(data(0)[:1])
    loss_of(outputs).backward()
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for parameter in model.parameters():
        parameter.untyped_storage().resize_(0)
    for name, parameter in model.named_parameters():
        parameter.untyped_storage().resize_(values[name].nbytes)
        parameter.data.copy_(values[name])
    loss_of(model(data(0)[:1])).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


def test_functional_call_takes_the_parameters_it_is_given():
    model, other = network(), network()
    torch.manual_seed(1)
    given = {name: parameter.detach() + .01 * torch.randn_like(parameter) for name, parameter in
             model.named_parameters()}
    other.load_state_dict({**other.state_dict(), **given})
    given = {name: value.clone().requires_grad_() for name, value in given.items()}
    outputs = torch.func.functional_call(model, given, (data(0)[:1],))
    loss_of(outputs).backward()
    loss_of(other(data(0)[:1])).backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(given[name].grad, parameter.grad, msg=name)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    for value in given.values():
        value.untyped_storage().resize_(0)
