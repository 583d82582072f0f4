"""Time mmcv's operators in several environments: `python tools/benchmarks/mmcv_ops.py PYTHON PYTHON ...`.

Each Python has its own mmcv, for example .venv-compiled/bin/python and .venv/bin/python. The timed calls are
interleaved. A ratio is the median of the last environment divided by the median of the first environment.
"""
import argparse
import statistics
import subprocess
import sys
import time


def cases():
    """Calls by name, with the sizes of mmdet's detectors on 800 x 1344 images."""
    import mmcv.ops as ops
    import torch

    torch.manual_seed(0)

    def boxes(number, size=(1344, 800)):
        corner = torch.rand(number, 2) * torch.tensor(size)
        return torch.cat([corner, corner + torch.rand(number, 2) * 200 + 8], 1)

    many, scores, classes = boxes(20000), torch.rand(20000), torch.randint(0, 80, (20000,))
    fpn = torch.randn(1, 256, 200, 336)
    rois = torch.cat([torch.zeros(1000, 1), boxes(1000)], 1)
    learnt = fpn.clone().requires_grad_()
    pooled = ops.roi_align(learnt, rois, 7, .25, 0, 'avg', True)
    gradient = torch.randn_like(pooled)
    x = torch.randn(1, 256, 50, 84, requires_grad=True)
    offset = torch.randn(1, 18, 50, 84, requires_grad=True)
    mask = torch.rand(1, 9, 50, 84)
    weight = torch.randn(256, 256, 3, 3, requires_grad=True)
    few, few_scores = many[:1000], scores[:1000]

    rotated = torch.cat([few[:, :2], few[:, 2:] - few[:, :2], torch.randn(1000, 1)], 1)
    corners = few[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    rotated_rois = torch.cat([torch.zeros(1000, 1), rotated], 1)
    rotated_pooled = ops.roi_align_rotated(learnt, rotated_rois, 7, .25, 0, True, True)

    def layer(operator, *inputs):
        return lambda: operator(*(tensor if tensor is None else tensor.detach() for tensor in inputs), 1, 1)

    def layer_backward(operator, *inputs):
        output = operator(*inputs, 1, 1)
        return lambda: torch.autograd.grad(output, [x, offset, weight], torch.ones_like(output), retain_graph=True)

    deform = ops.deform_conv2d, x, offset, weight
    modulated = ops.modulated_deform_conv2d, x, offset, mask, weight, None
    per_class = dict(type='nms', iou_threshold=.5)
    return {
        'nms, 20 000 boxes, IoU 0.7': lambda: ops.nms(many, scores, .7),
        'nms, 20 000 boxes, IoU 0.5': lambda: ops.nms(many, scores, .5),
        'batched_nms, 20 000 boxes of 80 classes': lambda: ops.batched_nms(many, scores, classes, per_class),
        'roi_align, 1000 regions': lambda: ops.roi_align(fpn, rois, 7, .25, 0, 'avg', True),
        'backward': lambda: torch.autograd.grad(pooled, learnt, gradient, retain_graph=True),
        'deform_conv2d': layer(*deform),
        'its backward': layer_backward(*deform),
        'modulated_deform_conv2d': layer(*modulated),
        'its backward ': layer_backward(*modulated),
        'bbox_overlaps, 20 000 x 100 boxes': lambda: ops.bbox_overlaps(many, many[:100]),
        'soft_nms, 1000 boxes': lambda: ops.soft_nms(few, few_scores, .5, min_score=.05),
        'nms_match, 1000 boxes': lambda: ops.nms_match(torch.cat([few, few_scores[:, None]], 1), .5),
        'nms_rotated, 1000 boxes': lambda: ops.nms_rotated(rotated, few_scores, .5),
        'nms_quadri, 1000 boxes': lambda: ops.nms_quadri(corners, few_scores, .5),
        'roi_align_rotated, 1000 regions': lambda: ops.roi_align_rotated(fpn, rotated_rois, 7, .25, 0, True, True),
        'its backward  ': lambda: torch.autograd.grad(rotated_pooled, learnt, gradient, retain_graph=True),
        'roi_align, maxima, 100 regions': lambda: ops.roi_align(fpn, rois[:100], 7, .25, 0, 'max', True),
    }


def work(threads):
    """Read names of cases from stdin and print the milliseconds of one call. For an empty line, print all names."""
    try:
        from mmmambavision.openmmlab import mmcv_ops
        mmcv_ops.install()
    except ImportError:
        pass
    import torch
    torch.set_num_threads(threads)
    calls = cases()
    for line in sys.stdin:
        name = line.rstrip('\n')
        if not name:
            from mmcv.ops import get_compiler_version
            print('\t'.join([get_compiler_version(), *calls]), flush=True)
            continue
        start = time.perf_counter()
        calls[name]()
        print((time.perf_counter() - start) * 1e3, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pythons', nargs='*', metavar='PYTHON')
    parser.add_argument('--rounds', type=int, default=7, help='timed calls of each operator; default 7')
    parser.add_argument('--threads', type=int, default=2, help="torch's number of threads; default 2")
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.threads)
    command = [__file__, '--worker', '--threads', str(arguments.threads)]
    workers = [subprocess.Popen([python, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for python in arguments.pythons]

    def ask(worker, line):
        print(line, file=worker.stdin, flush=True)
        return worker.stdout.readline().rstrip('\n')

    answers = [ask(worker, '').split('\t') for worker in workers]
    versions, names = [answer[0] for answer in answers], answers[0][1:]
    print('| operator |', ' | '.join(f'{version}, ms' for version in versions), '| ratio |')
    print('|---|' + '---:|' * (len(versions) + 1))
    for name in names:
        times = [[float(ask(worker, name)) for worker in workers] for _ in range(arguments.rounds + 1)][1:]
        medians = [statistics.median(column) for column in zip(*times)]
        cells = [*(f'{median:.1f}' for median in medians), f'{medians[-1] / medians[0]:.2f}']
        print(f'| {name} |', ' | '.join(cells), '|', flush=True)
    for worker in workers:
        worker.stdin.close()
        worker.wait()


if __name__ == '__main__':
    main()
