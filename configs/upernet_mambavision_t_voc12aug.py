# Pascal VOC 2012 with additional annotations: schedule and batch size of mmseg's UperNet (4 GPUs x 4 images). Other
# settings as for ADE20K.
_base_ = [
    '_base_/models/upernet.py', '_base_/datasets/voc12aug.py', '_base_/schedules/adamw_40k.py',
    '_base_/segmentation_runtime.py'
]

model = dict(
    backbone=dict(window_size=None),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
