# Released recipe: mIoU 46.0; 16 GPUs x 1 image.
_base_ = ['_base_/upernet.py', '_base_/ade20k_160k.py']
