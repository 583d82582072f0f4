"""Train a detector, a segmentor or a classifier.

Several GPUs: torchrun --nproc_per_node=8 tools/train.py CONFIG --launcher pytorch
"""
from .. import cli
from .arguments import add_run


def add_arguments(parser):
    add_run(parser)
    parser.add_argument('--amp', action='store_true',
                        help='train in automatic mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; without a path, from the last whole one in the work dir')
    parser.add_argument('--from-scratch', action='store_true',
                        help='start the backbone from random weights, whatever the config names')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the batch size over all processes')
    parser.add_argument('--weights', metavar='CHECKPOINT',
                        help='start from a whole detector or segmentor, but for the layers of other classes')
    parser.add_argument('--skip-broken-images', action='store_true',
                        help='train on other images in the place of those that cannot be read, which the log names')
    data = parser.add_argument_group('your own data (docs/your_data.md)')
    data.add_argument('--data', metavar='FOLDER',
                      help="train on it: COCO's format, or images and label maps; implies --auto-scale-lr")
    data.add_argument('--train-json', metavar='FILE', help='annotations to train on, if not found by their name')
    data.add_argument('--val-json', metavar='FILE', help='annotations to validate with, if not found by their name')
    data.add_argument('--images', metavar='FOLDER', help='where their images are, if not found')
    data.add_argument('--holdout', type=float, metavar='SHARE',
                      help='share of the images of a single json to validate with, such as 0.2')


def check(args):
    return args


def run(args):
    from .work.train import train
    train(args)


def main(argv=None):
    cli.run_command(__name__, argv)
