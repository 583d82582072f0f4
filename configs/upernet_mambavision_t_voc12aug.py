# Pascal VOC 2012 with the additional annotations: length and batch of mmseg's UperNet there (4 GPUs x 4 images), the
# rest as on ADE20K.
_base_ = [
    '_base_/models/upernet.py', '_base_/datasets/voc12aug.py', '_base_/schedules/adamw_40k.py',
    '_base_/segmentation_runtime.py'
]

model = dict(
    backbone=dict(window_size=None),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
