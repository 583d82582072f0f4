# LVIS v1, with mmdet's sampling of rare classes and its limits of detections; needs `pip install lvis`.
_base_ = [
    '_base_/models/mask_rcnn.py', 'mmdet::_base_/datasets/lvis_v1_instance.py',
    '_base_/schedules/adamw_1x.py', '_base_/coco_runtime.py'
]

custom_imports = dict(imports=['mmmambavision.openmmlab', 'mmmambavision.openmmlab.lvis_api'])

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1203), mask_head=dict(num_classes=1203)),
    test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)))
default_hooks = dict(checkpoint=dict(save_best='auto'))  # lvis/bbox_AP, or coco/bbox_mAP with --data
