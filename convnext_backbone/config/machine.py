"""Adaptation of a config to a machine with or without a GPU."""

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from .check import DATALOADERS, walk


def adapt_to_machine(cfg: Config) -> None:
    """Change a config in place.

    With a GPU Adam and AdamW are fused where the config does not say how they are computed, so that the host need not
    wait for :class:`.FiniteCheckHook`. Without one mixed precision is replaced by fp32 and SyncBN by BN, each with a
    warning.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    if torch.cuda.is_available():
        optimizer = wrapper.get('optimizer') or {}
        if optimizer.get('type') in ('Adam', 'AdamW') and not optimizer.keys() & {'foreach', 'capturable'}:
            optimizer.setdefault('fused', True)
        return
    if get_device() != 'cpu':
        return
    if str(wrapper.get('type')).endswith('AmpOptimWrapper'):  # which the engine has for GPUs alone
        precision = 'bf16' if wrapper.get('dtype') == 'bfloat16' else 'fp16'
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        print_log(f'warning: No GPU: the {precision} of the config falls back to fp32.')
    sync_norms = [node for _, node in walk(cfg.get('model')) if isinstance(node, dict) and node.get('type') == 'SyncBN']
    for node in sync_norms:
        node['type'] = 'BN'
    if sync_norms:
        print_log(
            'warning: No GPU: the SyncBN of the config falls back to BN, with the statistics of each process alone.'
        )
    for loader in DATALOADERS:
        if (cfg.get(loader) or {}).get('pin_memory'):
            cfg[loader].pin_memory = False  # torch would warn in each epoch
    if (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('backend') == 'nccl':
        cfg.env_cfg.dist_cfg.backend = 'gloo'
