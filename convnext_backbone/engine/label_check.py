"""Detection of labels that no class has, before they reach a loss or a score."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..utils.errors import UserError, printable
from .fsdp import unwrap_model


class LabelCheckHook(Hook):
    """Stops a segmentation run at the first mask with a label that no class has and nothing ignores.

    A loss fails on such a label without naming the mask; scores are silently wrong.
    """

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        head = _find_decode_head(unwrap_model(runner))
        if head is None or not isinstance(data_batch, dict):
            return
        metrics = [] if mode == 'train' else getattr(runner, f'{mode}_evaluator').metrics
        ignored = {metric.ignore_index for metric in metrics if hasattr(metric, 'ignore_index')} or {head.ignore_index}
        for sample in data_batch.get('data_samples') or ():
            sample = sample[0] if isinstance(sample, (list, tuple)) else sample  # of test-time augmentation
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            wrong = labels[(labels < 0) | (labels >= head.num_classes)]
            for label in ignored:
                wrong = wrong[wrong != label]
            if wrong.numel():
                raise UserError(
                    f'The mask {printable(str(sample.get("seg_map_path", sample.get("img_path"))))} has the label '
                    f'{int(wrong[0])}, which none of the {head.num_classes} classes has and which is not ignored '
                    f'({", ".join(map(str, sorted(ignored)))} is): correct it, or reduce_zero_label, metainfo.classes '
                    f'or ignore_index.'
                )


def _find_decode_head(model: nn.Module) -> nn.Module | None:
    """The head of a segmentor of mmsegmentation that predicts its classes, None for other models."""
    head = getattr(getattr(model, 'module', model), 'decode_head', None)  # tta_model has the segmentor as its module
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return head if 'BaseDecodeHead' in [base.__name__ for base in type(head).__mro__] else None
