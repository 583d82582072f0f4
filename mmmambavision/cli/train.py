"""Train a detector, a segmentor or a classifier.

Several GPUs: torchrun --nproc_per_node=8 tools/train.py CONFIG --launcher pytorch
"""
from .. import cli
from .arguments import add_run


def add_arguments(parser):
    add_run(parser)
    parser.add_argument('--amp', action='store_true',
                        help='train in automatic mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--fsdp', action='store_true',
                        help='shard parameters, gradients and optimizer states over all processes; needs --launcher')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='resume from a checkpoint; default: the last complete checkpoint in the work dir')
    parser.add_argument('--from-scratch', action='store_true',
                        help='start the backbone from random weights instead of pretrained weights')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the total batch size of all processes')
    parser.add_argument('--weights', metavar='CHECKPOINT',
                        help="start from a trained model's weights, except class-dependent layers of other classes")
    parser.add_argument('--skip-broken-images', action='store_true',
                        help='skip images that cannot be read, and list them in the log')
    data = parser.add_argument_group('your own data (docs/your_data.md)')
    data.add_argument('--data', metavar='FOLDER',
                      help="data folder: COCO's format, or images and label maps; implies --auto-scale-lr")
    data.add_argument('--train-json', metavar='FILE', help='training annotations, if not found by name')
    data.add_argument('--val-json', metavar='FILE', help='validation annotations, if not found by name')
    data.add_argument('--images', metavar='FOLDER', help='image folder, if not found automatically')
    data.add_argument('--holdout', type=float, metavar='SHARE',
                      help='fraction of the images of a single json for validation, for example 0.2')


def check(args):
    return args


def run(args):
    from .work.train import train
    train(args)


def main(argv=None):
    cli.run_command(__name__, argv)
