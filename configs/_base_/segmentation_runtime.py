# Replaces mmseg::_base_/default_runtime.py, which mmengine does not find with onedl-mmsegmentation.
default_scope = 'mmseg'

env_cfg = dict(
    # Validation images have many sizes, and cuDNN would run its benchmark again for each size.
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

tta_model = dict(type='SegTTAModel')
