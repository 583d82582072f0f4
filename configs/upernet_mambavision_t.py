# Released recipe: mIoU 46.0; 16 GPUs x 1 image.
_base_ = [
    '_base_/models/upernet.py', '_base_/datasets/ade20k.py', '_base_/schedules/adamw_160k.py',
    '_base_/segmentation_runtime.py'
]
