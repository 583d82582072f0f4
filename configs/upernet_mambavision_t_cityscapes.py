# Cityscapes at 512x1024: schedule and batch size of mmseg's UperNet (4 GPUs x 2 images), learning rate of mmseg's
# SegFormer for the same batch size. Tested on overlapping crops, so that inputs are never larger than in training.
_base_ = [
    '_base_/models/upernet.py', '_base_/datasets/cityscapes.py', '_base_/schedules/adamw_80k.py',
    '_base_/segmentation_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(window_size=None),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(512, 1024), stride=(341, 683)))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
auto_scale_lr = dict(base_batch_size=8)
