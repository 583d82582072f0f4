"""Parts of `check_gpu.py` without their own command: functions of a device and an image size."""
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

from mmmambavision import MambaVision
from mmmambavision.cli.work.doctor import PACKAGES
from mmmambavision.ops import attention, available_backends
from mmmambavision.presets import PRESETS
from mmmambavision.terminal import show

from .measure import describe, kept_bytes


def versions(device, size):
    """Print the machine, the driver, the packages and the available implementations of the scan."""
    print(f'- {describe(device)}; CUDA {torch.version.cuda}; {platform.platform()}; Python {platform.python_version()}')
    if device == 'cuda':
        asked = subprocess.run(['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'],
                               capture_output=True, text=True)
        for line in asked.stdout.splitlines():
            print(f'- nvidia-smi: {line}')
        print(f'- compute capability {torch.cuda.get_device_capability()}; cuDNN {torch.backends.cudnn.version()}')
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f'{package} {version(package)}')
    print(f"- {', '.join(found)}")
    for name, reason in available_backends().items():
        print(f"- scan `{name}`: {reason or 'present'}")


def operators_of(call, prefixes):
    """Names of torch's operators in a call that begin with one of the prefixes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return [event.key for event in profile.key_averages() if event.key.startswith(prefixes)]


def attention_kernels(device, size):
    """Print the attention kernel for every preset and data type, at the size of level 3 for an 800x1344 image."""
    rows, tokens = [], 25 * 42 if device == 'cuda' else 64
    for arch, preset in PRESETS.items():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            heads = preset['num_heads'][2]
            q, k, v = (torch.randn(1, heads, tokens, 4 * preset['dim'] // heads, device=device, dtype=dtype,
                                   requires_grad=True) for _ in range(3))
            names = operators_of(lambda: attention(q, k, v), ('aten::_scaled_dot_product', 'mmmambavision::'))
            rows.append([arch, str(q.shape[3]), str(dtype).removeprefix('torch.'),
                         ', '.join(name.partition('::')[2] for name in names)])
    show(['preset', 'head size', 'type', 'kernel'], rows, markdown=True)


def backbone(device, **options):
    torch.manual_seed(0)
    return MambaVision('tiny', drop_path_rate=0., **options).to(device)


def graph(device, size):
    """Capture the backbone's forward and backward pass in CUDA graphs, and compare with eager execution."""
    model = backbone(device).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # warm-up passes of the capture would change the running statistics
    x, other = (torch.randn(2, 3, 256, 256, device=device) for _ in range(2))

    def passes(net):
        model.zero_grad()
        outputs = net(other)
        sum(output.square().mean() for output in outputs).backward()
        return [*(output.detach().clone() for output in outputs), *(p.grad.clone() for p in model.parameters())]

    expected = passes(model)
    captured = torch.cuda.make_graphed_callables(model, (x,))
    largest = max(((own - right).abs().max() / right.abs().max().clamp(min=1e-12)).item()
                  for own, right in zip(passes(captured), expected))
    print(f'- largest difference of an output or a gradient, relative to its largest value: {largest:.1e}')
    if not largest < 1e-3:
        raise SystemExit('the captured passes differ from eager execution')


def second(device, size):
    """Run the backbone on cuda:1 while cuda:0 is torch's current device."""
    model, x = backbone('cpu').eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(x)
        outputs = model.to('cuda:1')(x.to('cuda:1'))
    largest = max((own.cpu() - right).abs().max().item() for own, right in zip(outputs, expected))
    print(f'- largest difference from the CPU: {largest:.1e}')
    if not largest < 1e-2:
        raise SystemExit('the values on cuda:1 differ from the values on the CPU')


def precision(x, amp):
    return torch.autocast(x.device.type, torch.bfloat16, enabled=amp)


def training_step(model, x, amp):
    model.zero_grad()
    with precision(x, amp):
        loss = sum(output.float().square().mean() for output in model(x))
    loss.backward()


def memory(device, size):
    """Print the peak memory of a training step of the backbone, and its estimate: gradients, and tensors that the
    forward pass keeps."""
    from .measured import Measured
    rows, names = [], ('mambavision-t', 'mambavision-t-padded', 'mambavision-t:with_cp=True')
    for name in names if device == 'cuda' else names[:1]:
        for amp in (False, True) if device == 'cuda' else (False,):
            measured = Measured(name, 1, size, device)
            model, x = measured.model.train(), measured.data
            parameters = [*model.parameters()]
            with precision(x, amp):
                kept = kept_bytes(lambda: model(x), parameters)
            estimate = kept + sum(p.numel() * p.element_size() for p in parameters)
            peak = measured.peak_memory(lambda: training_step(model, x, amp))
            rows.append([name, 'bfloat16' if amp else 'float32', f'{estimate / 2 ** 20:.0f}', f'{peak / 2 ** 20:.0f}',
                         f'{peak / estimate:.2f}'])
    show(['backbone', 'type', 'estimate MiB', 'peak MiB', 'ratio'], rows, markdown=True)


def profile(device, size):
    """Print a profile of a training step of tiny. On a GPU, it uses mixed precision."""
    model, x = backbone(device).train(), torch.randn(2, 3, *size, device=device)
    training_step(model, x, device == 'cuda')
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == 'cuda':
        torch.cuda.synchronize()
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        training_step(model, x, device == 'cuda')
        if device == 'cuda':
            torch.cuda.synchronize()
    key = 'self_cuda_time_total' if device == 'cuda' else 'self_cpu_time_total'
    print(found.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=60))


PARTS = dict(versions=versions, attention=attention_kernels, graph=graph, second=second, memory=memory, profile=profile)
