"""Register the ImageNet classifiers in timm.

    import timm, mmmambavision.timm_models
    model = timm.create_model('mambavision_tiny.in1k', pretrained=True)

`pretrained=True` downloads NVIDIA's files from Hugging Face (CC BY-NC-SA 4.0) and reads them with the package's safe
loader. `pretrained_cfg_overlay=dict(file=...)` selects a local file. In addition to timm's arguments, a model takes

- `window_size`: the default is the size of the released weights. Use (None, None) for the whole map, because
  `timm.create_model` drops None.
- `arch`: a dict of sizes as in `MambaVision`, for a network of another size.

Images can have any size. `img_size` has no effect.
"""
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from .checkpoints.files import load_checkpoint
from .checkpoints.names import classifier_weights, rename
from .checkpoints.weights import check_share, check_values, fit
from .errors import UserError
from .models.classifier import MambaVisionClassifier

__all__: list[str] = []  # register_model adds to it


def _cfg(repository: str, file: str, size: int = 224, **options: Any) -> dict[str, Any]:
    """timm's metadata of released weights: source and image preprocessing."""
    return dict(
        hf_hub_id=f'nvidia/{repository}', hf_hub_filename=file, license='cc-by-nc-sa-4.0', num_classes=1000,
        input_size=(3, size, size), pool_size=(size // 32, size // 32), crop_pct=1.0, crop_mode='center',
        interpolation='bicubic', mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD,
        first_conv='patch_embed.conv_down.0', classifier='head') | options


default_cfgs = generate_default_cfgs({
    'mambavision_tiny.in1k': _cfg('MambaVision-T-1K', 'mambavision_tiny_1k.pth.tar'),
    'mambavision_tiny2.in1k': _cfg('MambaVision-T2-1K', 'mambavision_tiny2_1k.pth.tar', crop_pct=0.98),
    'mambavision_small.in1k': _cfg('MambaVision-S-1K', 'mambavision_small_1k.pth.tar', crop_pct=0.93),
    'mambavision_base.in1k': _cfg('MambaVision-B-1K', 'mambavision_base_1k.pth.tar'),
    'mambavision_base.in21k_ft_in1k': _cfg('MambaVision-B-21K', 'mambavision_base_21k.pth.tar'),
    'mambavision_large.in1k': _cfg('MambaVision-L-1K', 'mambavision_large_1k.pth.tar'),
    'mambavision_large.in21k_ft_in1k': _cfg('MambaVision-L-21K', 'mambavision_large_21k.pth.tar'),
    'mambavision_large2.in1k': _cfg('MambaVision-L2-1K', 'mambavision_large2_1k.pth.tar'),
    'mambavision_large2.in21k_ft_in1k_512': _cfg(
        'MambaVision-L2-512-21K', 'mambavision_L2_21k_240m_512.pth.tar', 512, crop_pct=0.93, crop_mode='squash'),
    'mambavision_large3.in21k_ft_in1k_256': _cfg(
        'MambaVision-L3-256-21K', 'mambavision_L3_21k_740m_256.pth.tar', 256),
    'mambavision_large3.in21k_ft_in1k_512': _cfg(
        'MambaVision-L3-512-21K', 'mambavision_L3_21k_740m_512.pth.tar', 512, crop_pct=0.93, crop_mode='squash'),
})


def _create(variant: str, pretrained: bool, drop_path_rate: float, pretrained_cfg: Any = None,
            pretrained_cfg_overlay: dict[str, Any] | None = None, in_chans: int = 3, img_size: Any = None,
            **kwargs: Any) -> nn.Module:
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained and not cfg.state_dict:
        weights = overlay['state_dict'] = classifier_weights(load_checkpoint(_source(cfg)))
        if 'head.weight' in weights:  # timm keeps the head if the number of classes is equal
            overlay.setdefault('num_classes', len(weights['head.weight']))
    side = cfg.input_size[-1]
    arch = variant.removeprefix('mambavision_')
    options: dict[str, Any] = dict(arch=arch, window_size=(side // 16, side // 32), drop_path_rate=drop_path_rate)
    model: Any = build_model_with_cfg(
        _build, variant, pretrained, pretrained_cfg, overlay, in_chans=in_chans, pretrained_filter_fn=_fitted,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'), **(options | kwargs))
    for part in (model, getattr(model, 'model', model)):  # model.model: inside a feature extractor
        part.pretrained_cfg['state_dict'] = None
    model._register_load_state_dict_pre_hook(_find_names, with_module=True)
    return model


def _find_names(model: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Pre-hook for load_state_dict, for example with `checkpoint_path`.

    If no name fits, rename the weights, which can have any prefix, and check that they have values.

    Raises:
        UserError: the weights belong to another network, or are of another number of classes.
    """
    if prefix:
        return
    own = model.state_dict()
    if own.keys().isdisjoint(state_dict):
        weights = rename(state_dict, own)
        check_values(weights)
        state_dict.clear()
        state_dict.update(weights)
    state_dict.update(fit(_trunk(state_dict), model))
    given, wanted = (len(state.get('head.weight', ())) for state in (state_dict, own))
    if given and wanted and given != wanted:
        raise UserError(f'the checkpoint has {given} classes, but the model has {wanted}. Create the model with '
                        f'num_classes={given}, and call reset_classifier({wanted}) after loading')


def _build(in_chans: int, num_classes: int = 1000, device: Any = None, dtype: torch.dtype | None = None,
           **options: Any) -> MambaVisionClassifier:
    with torch.device(device) if device else nullcontext():
        return MambaVisionClassifier(in_channels=in_chans, num_classes=num_classes, **options).to(dtype=dtype)


def _source(cfg: Any) -> str:
    """The checkpoint name in a pretrained_cfg, for `load_checkpoint`."""
    if cfg.file and Path(cfg.file).is_dir():  # local-dir:FOLDER
        return str(next((path for name in ('model.safetensors', 'pytorch_model.bin')
                         if (path := Path(cfg.file, name)).is_file()), Path(cfg.file, 'model.safetensors')))
    if cfg.file:
        return str(cfg.file)
    if cfg.hf_hub_id:
        return f'hf://{cfg.hf_hub_id}/{cfg.hf_hub_filename}' if cfg.hf_hub_filename else f'hf://{cfg.hf_hub_id}'
    if cfg.url:
        return cfg.url
    raise UserError(f'no weights are known for {cfg.architecture}. Give a file: pretrained_cfg_overlay=dict(file=...)')


def _trunk(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(('patch_embed.', 'levels.'))}


def _fitted(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Check that weights belong to the network of a model, and adapt its stem. timm adapts the head."""
    own = model.state_dict()
    weights = {**weights, **fit(_trunk(weights), model)}
    check_share(weights, own)
    if not any(value.is_meta for value in own.values()):
        check_values(weights)
    return weights


@register_model
def mambavision_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_tiny', pretrained, **{'drop_path_rate': .2, **kwargs})


@register_model
def mambavision_tiny2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_tiny2', pretrained, **{'drop_path_rate': .2, **kwargs})


@register_model
def mambavision_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_small', pretrained, **{'drop_path_rate': .2, **kwargs})


@register_model
def mambavision_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_base', pretrained, **{'drop_path_rate': .3, **kwargs})


@register_model
def mambavision_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_large', pretrained, **{'drop_path_rate': .3, **kwargs})


@register_model
def mambavision_large2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_large2', pretrained, **{'drop_path_rate': .3, **kwargs})


@register_model
def mambavision_large3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _create('mambavision_large3', pretrained, **{'drop_path_rate': .5, **kwargs})
