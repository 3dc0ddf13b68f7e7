"""What a config becomes on a machine without a GPU."""

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from .check import DATALOADERS


def adapt_to_machine(cfg: Config) -> None:
    """On a machine with no GPU: fp16 becomes fp32 and SyncBN becomes BN, each with one warning, in place."""
    if torch.cuda.is_available() or get_device() != 'cpu':
        return
    wrapper = cfg.get('optim_wrapper') or {}
    if str(wrapper.get('type')).endswith('AmpOptimWrapper') and wrapper.get('dtype') != 'bfloat16':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        _warn('No GPU: the fp16 of the config falls back to fp32.')
    if _replace_type(cfg.get('model'), 'SyncBN', 'BN'):
        _warn('No GPU: the SyncBN of the config falls back to BN, with the statistics of each process alone.')
    for loader in DATALOADERS:
        if (cfg.get(loader) or {}).get('pin_memory'):
            cfg[loader].pin_memory = False  # torch would warn at each pass over the data
    if (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('backend') == 'nccl':
        cfg.env_cfg.dist_cfg.backend = 'gloo'


def _warn(text: str) -> None:
    print_log(f'warning: {text}', logger=None)


def _replace_type(node: object, old: str, new: str) -> bool:
    """Replaces ``type=old`` everywhere below a config node; returns whether there was one."""
    if isinstance(node, (list, tuple)):
        return any([_replace_type(item, old, new) for item in node])
    if not isinstance(node, dict):
        return False
    found = node.get('type') == old
    if found:
        node['type'] = new
    return any([found, *(_replace_type(value, old, new) for value in node.values())])
