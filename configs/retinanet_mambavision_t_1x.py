_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_1x.py', '_base_/coco_runtime.py'
]

custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaVision',
        arch='tiny',
        window_size=None,
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='hf://nvidia/MambaVision-T-1K')),
    neck=dict(in_channels=[160, 320, 640], start_level=0))
